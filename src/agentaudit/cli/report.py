"""The verb that writes an evidence report, for somebody who does not trust us."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from agentaudit.cli.hostile import hostile
from agentaudit.cli.options import Adds, add_archive, add_json, instant, whole
from agentaudit.cli.output import (
    CANNOT_TELL,
    NO,
    YES,
    print_json,
    read_bytes,
    read_text,
    say_access,
)
from agentaudit.errors import QuestionError

if TYPE_CHECKING:
    from agentaudit.analysis.report import Report

_STATUS = {True: YES, False: NO, None: CANNOT_TELL}
_ANSWER = {
    True: "yes: verified",
    False: "no: not verified, do not rely on this archive",
    None: "cannot tell: what was read is consistent",
}


def add_verbs(add: Adds) -> None:
    """Add the verb."""
    one = add(report)
    add_archive(one)
    one.add_argument(
        "--session",
        action="append",
        default=[],
        metavar="SESSION",
        help="about this session: its id, or its beginning; may be repeated",
    )
    one.add_argument("--request", metavar="ID", help="about this request for approval or access")
    one.add_argument("--since", type=instant, metavar="TIME", help="2026-11-01, or 2h, 30d ago")
    one.add_argument("--until", type=instant, metavar="TIME", help="the same, excluded")
    one.add_argument("--user", help="who, as the identity provider says")
    one.add_argument("--agent", help="the client that the token was given to")
    one.add_argument("--target", help="the target's name")
    one.add_argument(
        "--out",
        type=Path,
        default=Path("report.html"),
        metavar="FILE",
        help="the HTML file to write, which is not there yet (default: report.html)",
    )
    one.add_argument("--pdf", type=Path, metavar="FILE", help="write the same as PDF/A, too")
    one.add_argument(
        "--key",
        action="append",
        default=[],
        metavar="VKEY",
        help="a verifier key that came from outside the archive, or a file that holds it; "
        "may be repeated",
    )
    one.add_argument(
        "--since-checkpoint",
        type=Path,
        metavar="FILE",
        help="a checkpoint that was kept outside the archive",
    )
    one.add_argument(
        "--policy",
        type=Path,
        metavar="FILE",
        help="a trust policy (c2sp.org/tlog-policy): whose cosignatures count",
    )
    one.add_argument(
        "--tsa",
        type=Path,
        metavar="FILE",
        help="certificates of time-stamping authorities (RFC 3161), PEM",
    )
    one.add_argument("--deep", action="store_true", help="recompute every leaf, root and table")
    one.add_argument(
        "--limit", type=whole, metavar="N", help="show at most N commands (default: 1000)"
    )
    one.add_argument(
        "--rows", type=whole, metavar="N", help="show at most N rows of each result (default: 5)"
    )
    one.add_argument(
        "--disclose",
        choices=("all", "text", "none"),
        default="text",
        help="what the proofs inside hand out: all, what a person reads (default), or nothing",
    )
    one.add_argument(
        "--without-replay",
        action="store_true",
        help="leave out the replays of the sessions, and the one script of the page",
    )
    add_json(one)


@hostile()
def report(arguments: argparse.Namespace) -> int:
    """Write an evidence report: what happened, what was checked, and how to check it without us."""
    from agentaudit.analysis.case import Case
    from agentaudit.client.local import record_access

    archive = arguments.archive

    def record(action: str, object_: str, detail: str) -> bool:
        return record_access(archive, action, object_, f"agentaudit report {detail}".strip())

    # What the case warns of is in the report, and decides its verdict.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        case = Case(archive, record=record)
        made = case.report(
            session=arguments.session or None,
            request=arguments.request,
            since=arguments.since,
            until=arguments.until,
            user=arguments.user,
            agent=arguments.agent,
            target=arguments.target,
            out=arguments.out,
            pdf=arguments.pdf or False,
            key=_keys(arguments.key),
            since_checkpoint=None
            if arguments.since_checkpoint is None
            else read_text(arguments.since_checkpoint),
            policy=None if arguments.policy is None else read_bytes(arguments.policy),
            tsa=None if arguments.tsa is None else read_bytes(arguments.tsa),
            deep=arguments.deep,
            limit=arguments.limit,
            rows=arguments.rows,
            disclose=arguments.disclose,
            replay=not arguments.without_replay,
            names=_names(arguments),
        )
    say_access(case.access == "recorded")
    if arguments.json:
        _print_json(made)
    else:
        _print(made)
    return _STATUS[made.ok]


def _print_json(made: Report) -> None:
    facts = made.facts
    print_json(
        {
            "ok": made.ok,
            "reasons": facts.integrity.reasons,
            "subject": facts.subtitle,
            "html": str(made.out),
            "pdf": None if made.pdf_out is None else str(made.pdf_out),
            "sha256": made.digests,
            "sessions": facts.population.sessions_asked,
            "commands": facts.population.commands_asked,
            "commands_shown": facts.population.commands_full,
            "exceptions": len(facts.exceptions) + facts.more_exceptions,
            "exposed_entries": sum(each.entries for each in facts.integrity.exposure),
        }
    )


def _print(made: Report) -> None:
    from agentaudit.analysis.printable import printable

    facts = made.facts
    for path, digest in zip((made.out, made.pdf_out), made.digests.values(), strict=False):
        print(f"{digest}  {printable(str(path))}")
    count = facts.population
    print(
        f"{printable(facts.subtitle)}: {count.commands_full:,} of {count.commands_asked:,} "
        f"commands in {count.sessions_full:,} of {count.sessions_asked:,} sessions",
        file=sys.stderr,
    )
    for reason in facts.integrity.reasons:
        print(f"note: {printable(reason)}", file=sys.stderr)
    print(_ANSWER[made.ok])
    if not facts.integrity.keys:
        print("hint: give the verifier key that the operator gave you, with --key", file=sys.stderr)


def _keys(given: list[str]) -> str | None:
    """Return the keys that were given as such or in files, as one text."""
    texts = []
    for each in given:
        text = each if "+" in each and not Path(each).is_file() else read_text(Path(each)).strip()
        if not text:
            raise QuestionError(
                f"{each}: the file holds no key", hint="agentaudit keygen writes keys/<name>.vkey"
            )
        texts.append(text)
    return "\n".join(texts) or None


def _names(arguments: argparse.Namespace) -> dict[str, str]:
    """Return what the reader is to call the files, as they are called here."""
    names = {}
    files = [each for each in arguments.key if Path(each).is_file()]
    if len(files) == 1:
        names["keys"] = Path(files[0]).name
    for name in ("policy", "tsa", "since_checkpoint"):
        path = getattr(arguments, name)
        if path is not None:
            names[name.replace("_", "-")] = path.name
    return names
