"""Verbs about masks, before they are in force: what they would hide, and which a target needs.

What is shown was written by agents or stands in a database: it reaches the terminal through
`printable` alone. `mask preview` shows values in clear, because that is the question; `mask
suggest` shows none whole.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agentaudit.cli.hostile import hostile
from agentaudit.cli.options import add_config_and_json, add_json, add_verb, instant, whole
from agentaudit.cli.output import YES, print_json, say_access
from agentaudit.errors import QuestionError

if TYPE_CHECKING:
    from agentaudit.analysis.masking import Difference, Preview
    from agentaudit.analysis.masking_look import Hit
    from agentaudit.analysis.masking_sources import Source

    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]

_FILTERS: Final = ("session", "user", "agent", "target", "since", "until", "table")


def add(verbs: Verbs) -> None:
    """Add this module's verbs to the command line's."""
    group = verbs.add_parser(
        "mask",
        help="masks, before they are in force",
        description="Masks, before they are in force.",
    )
    actions = group.add_subparsers(dest="action", metavar="ACTION", required=True)
    one = add_verb(actions, mask_preview, "preview")
    one.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="a text, CSV, JSON lines or Parquet to look at; - is standard input",
    )
    one.add_argument("--text", help="look at this text")
    one.add_argument(
        "--archive", type=Path, metavar="DIR", help="look at what is recorded in this archive"
    )
    one.add_argument(
        "--rules",
        type=Path,
        metavar="FILE",
        help="the settings, or any TOML with [[mask]] (default: agentaudit.toml)",
    )
    one.add_argument(
        "--detect",
        action="append",
        metavar="NAME",
        help="instead of rules: this detector, or secrets, personal or all; may be repeated",
    )
    one.add_argument(
        "--against", type=Path, metavar="FILE", help="a second set of rules: show what differs"
    )
    one.add_argument("--session", metavar="SESSION", help="one session: its id, or its beginning")
    one.add_argument("--user", help="sessions of this user")
    one.add_argument("--agent", help="sessions of this client")
    one.add_argument("--target", help="sessions on this target")
    one.add_argument("--since", type=instant, metavar="TIME", help="2026-11-01, or 2h, 30d ago")
    one.add_argument("--until", type=instant, metavar="TIME", help="the same, excluded")
    one.add_argument("--table", help="sessions that name this table; or the table a FILE is of")
    one.add_argument(
        "--limit", type=whole, default=20, metavar="N", help="show N of each list (default: 20)"
    )
    add_json(one)
    one = add_verb(actions, mask_suggest, "suggest")
    one.add_argument("target", metavar="TARGET", help="a target of the settings")
    one.add_argument(
        "--sample",
        type=whole,
        default=500,
        metavar="N",
        help="look at N rows of each table at most, 0 for names alone (default: 500)",
    )
    add_config_and_json(one)


@hostile()
def mask_preview(arguments: argparse.Namespace) -> int:
    """Show what masks would hide in a text, a file or an archive, and what they would not."""
    from agentaudit.analysis import masking
    from agentaudit.analysis.masking_rules import rules_of

    if arguments.detect and arguments.rules is not None:
        raise QuestionError("mask preview: --rules or --detect, found both")
    detected = [{"name": "detected", "detect": arguments.detect}]
    rules = rules_of(detected if arguments.detect else arguments.rules or Path("agentaudit.toml"))
    against = None if arguments.against is None else rules_of(arguments.against)
    source = _source(arguments)
    if against is not None:
        difference = masking.compare(
            rules, against, source, table=arguments.table or "", limit=arguments.limit or 1
        )
        _print_difference(difference, arguments)
        return YES
    found = masking.preview(rules, source, table=arguments.table or "")
    if arguments.json:
        print_json(_summary(found) | {"hits": [_hit(each) for each in found.hits]})
    else:
        print(found.told(arguments.limit))
    return YES


def mask_suggest(arguments: argparse.Namespace) -> int:
    """Propose masks for a target's columns, by their names and a sample of their values."""
    from agentaudit.analysis.printable import printable
    from agentaudit.gateway import suggest
    from agentaudit.settings.file import load

    if arguments.sample > suggest.MAX_SAMPLE_ROWS:
        raise QuestionError(f"--sample: at most {suggest.MAX_SAMPLE_ROWS:,} rows of a table")
    found = suggest.suggest(load(arguments.config), arguments.target, sample=arguments.sample)
    if arguments.json:
        print_json(
            {
                "target": found.target,
                "login": found.login,
                "is_inspector": found.is_inspector,
                "tables": found.tables,
                "columns": found.columns,
                "sampled_rows": found.sampled_rows,
                "proposals": [asdict(each) | {"column": each.name} for each in found.proposals],
                "skipped": found.skipped,
                "toml": found.toml,
            }
        )
        return YES
    whose = "" if found.is_inspector else ", the target's own user: it has no inspect_user"
    print(
        f"# {found.columns:,} columns of {found.tables:,} tables, {found.sampled_rows:,} rows "
        f"sampled, read only, as {printable(found.login)}{whose}",
        file=sys.stderr,
    )
    covered = [each for each in found.proposals if each.covered_by]
    for each in covered:
        what = f" ({', '.join(each.detectors)})" if each.detectors else ""
        print(
            f'# covered: {printable(each.name)}{what}, by the mask "{printable(each.covered_by)}"',
            file=sys.stderr,
        )
    for skipped in found.skipped:
        print(f"# skipped: {printable(skipped)}", file=sys.stderr)
    if found.toml:
        print(printable(found.toml, block=True), end="")
        print("# redact hides all of a value; pseudonym, with a key, keeps joins", file=sys.stderr)
    else:
        print("# nothing to propose", file=sys.stderr)
    return YES


def _source(arguments: argparse.Namespace) -> Source:
    """Return what is to be looked at, of which just one was named."""
    from agentaudit.analysis.masking_sources import recorded_in, source_of

    named = [
        name
        for name, given in (
            ("FILE", arguments.file),
            ("--text", arguments.text),
            ("--archive", arguments.archive),
        )
        if given is not None
    ]
    if len(named) != 1:
        seen = f"found {' and '.join(named)}" if named else "none was given"
        raise QuestionError(f"mask preview: one of FILE, --text and --archive, {seen}")
    filters = {name: getattr(arguments, name) for name in _FILTERS}
    if arguments.archive is not None:
        import agentaudit

        case = agentaudit.load(arguments.archive)
        say_access(case.access == "recorded")
        return recorded_in(case, filters)
    useless = [name for name, value in filters.items() if value is not None and name != "table"]
    if useless:
        raise QuestionError(f"mask preview: --{useless[0]} chooses sessions of an --archive")
    if arguments.text is not None:
        return source_of(arguments.text.encode("utf-8", "replace").decode())
    if arguments.file == "-":
        return source_of(sys.stdin.buffer.read().decode("utf-8", "replace"))
    return source_of(Path(arguments.file), table=arguments.table or "")


def _print_difference(found: Difference, arguments: argparse.Namespace) -> None:
    if not arguments.json:
        print(found.told(arguments.limit))
        return
    print_json(
        {
            "source": found.source,
            "same": found.same,
            "only_a": found.count_a,
            "only_b": found.count_b,
            "otherwise": found.count_otherwise,
            "notes": found.notes,
            "hits": {
                "only_a": [_hit(each) for each in found.only_a],
                "only_b": [_hit(each) for each in found.only_b],
                "otherwise": [[_hit(a), _hit(b)] for a, b in found.otherwise],
            },
        }
    )


def _summary(found: Preview) -> dict[str, Any]:
    return {
        "source": found.source,
        "values": found.values,
        "hidden": found.hidden,
        "kept": len(found.hits),
        "by_rule": dict(found.counts.by_rule),
        "by_detector": dict(found.counts.by_detector),
        "by_column": dict(found.counts.by_column),
        "columns": [asdict(each) for each in found.columns],
        "candidates": [
            asdict(each) | {"examples": [_hit(hit) for hit in each.examples]}
            for each in found.candidates
        ],
        "uncovered": [asdict(each) for each in found.uncovered],
        "already_masked": [asdict(each) for each in found.already_masked],
        "notes": found.notes,
    }


def _hit(hit: Hit) -> dict[str, Any]:
    return asdict(hit) | {"place": hit.place}
