"""Verbs that set up and run a gateway, and what stands beside it."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from agentaudit.cli.output import NO, YES, print_json, print_table, read_text, say
from agentaudit.errors import QuestionError

if TYPE_CHECKING:
    from agentaudit.policy import Judged


def init(arguments: argparse.Namespace) -> int:
    """Write a commented agentaudit.toml, keys and folders that start as they are."""
    from agentaudit.archive.keys import create_key
    from agentaudit.settings.default import write_default
    from agentaudit.settings.file import load

    written = write_default(arguments.directory, name=arguments.name, origin=arguments.origin)
    for path in written:
        print(path)
    config = arguments.directory / "agentaudit.toml"
    own = load(config).gateway
    create_key(Path(own.keys), own.name, own.origin)
    print(Path(own.keys) / f"{own.name}.vkey")
    print(f"next: edit {config}, then run agentaudit check --config {config}", file=sys.stderr)
    return YES


def check(arguments: argparse.Namespace) -> int:
    """Validate the settings, reach issuers and targets, say what is wrong and where."""
    from agentaudit.analysis.printable import printable
    from agentaudit.gateway.check import check as reach
    from agentaudit.settings.file import load

    findings = reach(load(arguments.config))
    for finding in findings:
        if arguments.json:
            members = ("name", "ok", "message", "hint")
            print_json({member: getattr(finding, member) for member in members})
            continue
        mark = "ok  " if finding.ok else "FAIL"
        print(f"{mark}  {printable(finding.name)}: {printable(finding.message)}")
        if finding.hint:
            print(f"      hint: {printable(finding.hint)}")
    return YES if all(finding.ok for finding in findings) else NO


def gateway(arguments: argparse.Namespace) -> int:
    """Run the gateway; SIGTERM drains and seals."""
    from agentaudit.gateway import server, supervisor
    from agentaudit.settings.file import load

    whole = load(arguments.config)
    return server.run(whole) if whole.gateway.workers == 1 else supervisor.run(whole)


def rules_test(arguments: argparse.Namespace) -> int:
    """Say what the rules decide about each statement of a file, and whether that was expected.

    A line `-- allow` or `-- deny` before a statement says what is; `# allow` before a shell's.
    """
    from agentaudit.analysis.printable import printable
    from agentaudit.policy import Policy
    from agentaudit.settings.file import load

    whole = load(arguments.config)
    protocols = {target.name: target.protocol for target in whole.target}
    target = arguments.target or (next(iter(protocols)) if len(protocols) == 1 else "")
    if target not in protocols:
        there = f"one of {', '.join(protocols)} expected" if protocols else "the settings name none"
        raise QuestionError(f'target "{target}": {there}', hint="say which one by --target")
    protocol = protocols[target]
    session = Policy(whole.policy_document()).for_session(
        target=target, protocol=protocol, groups=arguments.group
    )
    told = _shell_texts if protocol == "ssh" else _statements
    lines, is_as_expected = [], True
    for statement, known, expected in told(arguments.file):
        decision = session.decide(known, statement)
        ok = not expected or expected == decision.action
        is_as_expected = is_as_expected and ok
        if arguments.json:
            print_json(
                {"text": statement, "class": known.cls, "operation": known.operation}
                | {"resources": known.resources, "action": decision.action}
                | {"rule": decision.rule, "ok": ok}
            )
        mark = "ok" if ok else "FAIL"
        cells = [mark, decision.action, decision.rule, known.cls, statement]
        lines.append([printable(cell) for cell in cells])
    if not arguments.json:
        print_table(["", "decision", "rule", "class", "statement"], lines)
    return YES if is_as_expected else NO


def _statements(path: Path) -> Iterator[tuple[str, Judged, str]]:
    """Yield each statement of a file, what it does, and what is expected of it, if anything."""
    from agentaudit.risk import sql

    for text in sql.script(read_text(path)):
        statement = _COMMENTS.sub("", text, count=1)
        expected = _EXPECTED.findall(text[: len(text) - len(statement)])
        if _EXPECTED.search(statement) or statement.startswith("\\"):
            raise QuestionError(
                f"{path}: it cannot be told where this ends: {statement[:60]!r}",
                hint="close what is quoted, end each statement with a semicolon, and leave out "
                "psql's own commands",
            )
        yield statement, sql.classify(statement), expected[-1].lower() if expected else ""


def _shell_texts(path: Path) -> Iterator[tuple[str, Judged, str]]:
    """Yield what is a command in a file of shell commands, each for a shell of its own."""
    from agentaudit.gateway.ssh_commands import classify
    from agentaudit.model import Command
    from agentaudit.protocols.ssh_plain import survey

    expected, text = "", ""
    for line in read_text(path).splitlines():
        if not text and (not line.strip() or line.lstrip().startswith("#")):
            said = _EXPECTED_OF_SHELL.fullmatch(line)
            expected = said[1].lower() if said else expected
            continue
        text = f"{text}\n{line}" if text else line
        if survey(text).is_open:
            continue
        command = Command(command_no=0, operation="exec")
        classify(command, text)
        yield text, command, expected
        expected, text = "", ""
    if text:
        raise QuestionError(f"{path}: {text[:60]!r} does not end", hint="close what is quoted")


_EXPECTED_OF_SHELL = re.compile(r"\s*#[ \t]*(allow|deny|hold)[ \t]*", re.IGNORECASE)

_COMMENTS = re.compile(r"(?:\s*--[^\n]*\n)*\s*")


_EXPECTED = re.compile(r"^\s*--[ \t]*(allow|deny|hold)[ \t]*$", re.IGNORECASE | re.MULTILINE)


def keygen(arguments: argparse.Namespace) -> int:
    """Make the keys that sign a gateway's log, and print the verifier keys for auditors.

    With `workers`, each has a log: the keys that are missing are made.
    """
    from agentaudit.archive.keys import create_keys
    from agentaudit.settings.file import load

    own = load(arguments.config).gateway
    verifiers = create_keys(Path(own.keys), own.name, own.names, own.origin)
    if arguments.json:
        print_json({"verifier_keys": verifiers.split(), "folder": str(own.keys)})
    else:
        print(verifiers)
        print(
            f"the private keys are in {own.keys}; give the lines above, of each log its key and "
            f"its first epoch's, to those who verify, by another way than the archive; "
            f"{own.name}.vkey has all of this gateway's",
            file=sys.stderr,
        )
    return YES


def witness(arguments: argparse.Namespace) -> int:
    """Run a witness: cosign the checkpoints of logs it knows, and never two histories of one."""
    from agentaudit.settings.values import parse_address
    from agentaudit.witness import server

    if arguments.init is not None:
        print(server.create_witness(arguments.directory, arguments.init))
        print(
            f"next: write the verifier keys of logs into {arguments.directory / 'logs'}, and give "
            "the line above to the logs' operators and to those who verify",
            file=sys.stderr,
        )
        return YES
    pair = (arguments.tls_cert, arguments.tls_key)
    if (pair[0] is None) != (pair[1] is None):
        raise QuestionError("--tls-cert and --tls-key are given together or not at all")
    return server.run(
        arguments.directory,
        parse_address(arguments.listen),
        say=say,
        tls=None if pair[0] is None else pair,
        plain=arguments.plain,
    )


def demo(arguments: argparse.Namespace) -> int:
    """Run the whole system on embedded parts, with a scripted agent."""
    from agentaudit import demo as demonstration

    return demonstration.run(arguments.directory, sys.stdout)
