"""Verbs that prove an archive, or show what would be noticed."""

from __future__ import annotations

import argparse
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

from agentaudit.cli.hostile import hostile
from agentaudit.cli.output import (
    CANNOT_TELL,
    NO,
    YES,
    members,
    print_json,
    progress,
    read_bytes,
    read_text,
    say_access,
)
from agentaudit.errors import QuestionError


@hostile()
def verify(arguments: argparse.Namespace) -> int:
    """Check an archive, a session of it or a proof: what is wrong, where, what is exposed."""
    from agentaudit.analysis.printable import printable
    from agentaudit.archive.verify import verify as examine
    from agentaudit.client.local import record_access

    is_recorded = record_access(arguments.archive, "verify", "archive", "agentaudit verify")
    answer = examine(
        arguments.archive,
        key=[_key(given) for given in arguments.key] or None,
        since=None if arguments.since is None else read_text(arguments.since),
        policy=None if arguments.policy is None else read_bytes(arguments.policy),
        tsa=None if arguments.tsa is None else read_bytes(arguments.tsa),
        deep=arguments.deep,
        session=arguments.session,
        progress=progress if sys.stderr.isatty() else None,
    )
    if arguments.archive.joinpath("FORMAT").exists():
        say_access(is_recorded)
    if arguments.json:
        print_json(
            {
                "ok": answer.ok,
                "subject": answer.subject,
                "deep": answer.deep,
                "findings": [members(finding) for finding in answer.findings],
                "anchors": [members(anchor) for anchor in answer.anchors],
                "exposure": [members(exposure) for exposure in answer.exposure],
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
        signers = ", ".join(map(printable, answer.unknown_signers))
        print(f"cannot tell: consistent, signer unknown ({signers})")
        print("hint: give the verifier key that the operator gave you, with --key", file=sys.stderr)
    elif answer.ok is None:
        lacking = "; the policy asks for more" if answer.without_quorum else ""
        print(f"cannot tell: what was read is consistent{lacking}")
    else:
        print("yes: consistent and signed" if answer.ok else "no: do not rely on this archive")
        if not answer.ok:
            print("hint: keep a copy of the archive before anything else", file=sys.stderr)
    return _STATUS_OF_ANSWER[answer.ok]


@hostile()
def drill(arguments: argparse.Namespace) -> int:
    """Attack a copy of an archive in every way on a list, and say which check caught what."""
    from agentaudit.analysis.printable import printable
    from agentaudit.archive.drill import drill as play
    from agentaudit.client.local import record_access

    is_recorded = record_access(arguments.archive, "verify", "archive", "agentaudit drill")
    report = play(arguments.archive, progress=progress if sys.stderr.isatty() else None)
    say_access(is_recorded)
    for outcome in report.outcomes:
        if arguments.json:
            print_json(outcome.to_json())
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
        print_json({"ok": report.ok, "attacks": len(report.outcomes), **members(taken)})
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


@hostile()
def prove(arguments: argparse.Namespace) -> int:
    """Write proofs of a session, or of one event, that anybody can check offline."""
    from agentaudit.analysis.printable import printable
    from agentaudit.archive.prove import prove as write
    from agentaudit.client.local import record_access

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
    say_access(is_recorded)
    if arguments.json:
        print_json(members(done))
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


def _key(given: str) -> str:
    """Return a verifier key that was given as such, or as the file that holds it."""
    if "+" in given and not Path(given).is_file():
        return given
    text = read_text(Path(given)).strip()
    if not text:
        raise QuestionError(
            f"{given}: the file holds no key", hint="agentaudit keygen writes keys/<name>.vkey"
        )
    return text


def _moment(time_s: int) -> str:
    try:
        return datetime.fromtimestamp(time_s, UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return f"{time_s} s after 1970"
