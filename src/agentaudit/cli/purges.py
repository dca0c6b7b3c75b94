"""Verbs about what leaves an archive, and what must not: retention, erasure, legal holds."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from agentaudit.cli.hostile import hostile
from agentaudit.cli.output import (
    CANNOT_TELL,
    NO,
    YES,
    complain,
    members,
    print_json,
    print_table,
    read_text,
)
from agentaudit.errors import AgentauditError, QuestionError


def retention_plan(arguments: argparse.Namespace) -> int:
    """Say what retention would purge now, what it would not and why; touch nothing."""
    from agentaudit.archive.keys import People, Place
    from agentaudit.archive.layout import Layout
    from agentaudit.archive.purge import plan
    from agentaudit.archive.snapshot import check_format
    from agentaudit.errors import RecordingError
    from agentaudit.settings.file import load

    own = load(arguments.config).gateway
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
            status = complain(f"{name}: {error}", error.hint)
            continue
        except OSError as error:
            hint = "it may be purging just now: try again"
            status = complain(f"{name}: {error.filename}: {error.strerror}", hint)
            continue
        if arguments.json:
            print_json({"gateway": name, **made})
        else:
            _print_plan(name, made, "would go")
    print("nothing was touched: agentaudit retention apply does it", file=sys.stderr)
    return status


def retention_apply(arguments: argparse.Namespace) -> int:
    """Purge what is due and not held; go on with what was interrupted."""
    results, status = _order(arguments, {"do": "retention_apply"})
    for name, done in results:
        if arguments.json:
            print_json({"gateway": name, **done})
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
                print_json({"gateway": name, **made})
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
        "requester_token": read_text(arguments.token_file).strip(),
        "approver_token": read_text(arguments.approver_token_file).strip(),
    }
    results, carried = _order(arguments, request, logs)
    stays = False
    for name, done in results:
        if arguments.json:
            print_json({"gateway": name, **done})
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
            print_json({"gateway": name, **done, "sessions": sessions})
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
    from agentaudit.settings.file import load

    try:
        from agentaudit.analysis.case import Case

        with hostile():
            case = Case(load(arguments.config).gateway.archive)
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
    from agentaudit.archive.holds import legal_holds
    from agentaudit.archive.layout import Layout
    from agentaudit.settings.file import load

    logs = _logs(arguments)
    if len(logs) > 1:
        holds = legal_holds(Layout(load(arguments.config).gateway.archive))
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
            print_json({"gateway": name, **done})
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
    from agentaudit.analysis.printable import printable
    from agentaudit.analysis.transcript import moment
    from agentaudit.archive.holds import legal_holds
    from agentaudit.archive.layout import Layout
    from agentaudit.settings.file import load

    holds = legal_holds(Layout(load(arguments.config).gateway.archive))
    if arguments.json:
        for hold in holds:
            print_json(members(hold))
        return YES
    lines = [
        (
            moment(datetime.fromtimestamp(hold.set_at_us / 1e6, UTC)),
            printable(hold.hold),
            printable(hold.gateway),
            printable(_selected(hold.selector)),
            printable(hold.actor or "?"),
            printable(hold.authority or "?"),
            printable(hold.reason or "?"),
        )
        for hold in holds
    ]
    print_table(("SET", "HOLD", "GATEWAY", "HOLDS", "BY", "AUTHORITY", "REASON"), lines)
    return YES


Results = list[tuple[str, dict[str, Any]]]


def _logs(arguments: argparse.Namespace) -> list[str]:
    """Return the logs of the gateway of the settings: its own, or one for each worker.

    Those of workers that it has no more are among them: what they recorded is still there.
    """
    from agentaudit.archive.keys import own_logs
    from agentaudit.settings.file import load

    own = load(arguments.config).gateway
    return own_logs(own.archive, own.keys, own.name) or [own.names[0]]


def _order(
    arguments: argparse.Namespace, request: dict[str, Any], logs: Sequence[str] | None = None
) -> tuple[Results, int]:
    """Let each of `logs` (default: all) carry out `request`, or do it where nobody records.

    Returns what came of it in each, and a status: yes, or could not tell where one could not carry
    it out, which is said.
    """
    from agentaudit.client import local
    from agentaudit.settings.file import load

    whole = load(arguments.config)
    archive = whole.gateway.archive
    own = _logs(arguments)
    names = own if logs is None else logs
    results: Results = []
    failures: list[tuple[str, AgentauditError]] = []
    for name in names:
        try:
            if local.is_running(archive, name):
                results.append((name, local.ask(archive, name, request)))
                continue
            from agentaudit.gateway.orders import alone

            print(f"{name} does not run: recording for this alone", file=sys.stderr)
            results.append((name, alone(whole, name, request)))
        except AgentauditError as error:
            failures.append((name, error))
    if failures and not results:
        raise failures[0][1]
    for name, failure in failures:
        complain(f"{name}: not carried out: {failure}", failure.hint)
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
