"""What an evidence report says, as plain values: texts are safe to show, lists are bounded.

A field that begins with `more_` counts what was left out of the list before it. Times are UTC.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The first rows of a result; None is NULL."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: tuple[tuple[str | None, ...], ...]
    more_rows: int
    more_columns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandFacts:
    """One command: what was asked, what was decided, what came of it.

    `sha256` is of the whole recorded statement, which is the file `<seq>.text` of the session's
    proof; both are empty where it is not in one event of its own. `is_asked` marks the command that
    the report is about. `screen` are the rows of its terminal's last screen, and `screen_words`
    says which one that is, or why it is not there; both are empty where it had no terminal.
    """

    number: int
    at: datetime
    operation: str
    cls: str
    text: str
    more_characters: int
    params: tuple[str | None, ...]
    more_params: int
    status: str
    outcome: str
    error: str
    decision: str
    rule: str
    request: str
    masked: int
    fate: str
    is_undone: bool
    risk: tuple[str, ...]
    tables: tuple[str, ...]
    result: Grid | None
    screen: tuple[str, ...]
    screen_words: str
    cut: str
    seq: int | None
    sha256: str
    is_asked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check of an archive or of one session: True passed, False failed, None could not tell."""

    subject: str
    ok: bool | None
    words: str
    findings: tuple[str, ...]
    more_findings: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFacts:
    """One session with its commands; `notes` says what of it is not shown, and why.

    `more_commands` counts commands that the report is about and leaves out, `outside` those that
    ran before or after the time that was asked for. `proof` and `replay` name files that the report
    carries; where one is empty, the words say why.
    """

    number: int
    session_id: str
    gateway: str
    user: str
    issuer: str
    email: str
    groups: tuple[str, ...]
    agent: str
    chain: tuple[str, ...]
    run: str
    target: str
    protocol: str
    client: str
    application: str
    window: str
    opened_at: datetime
    closed_at: datetime | None
    close_reason: str
    commands_total: int
    events: int
    traffic: str
    masked: int
    policy: str
    masks: str
    kept: str
    holds: tuple[str, ...]
    is_purged: bool
    commands: tuple[CommandFacts, ...]
    more_commands: int
    outside: int
    check: Check | None
    proof: str
    proof_words: str
    replay: str
    replay_words: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedSession:
    """A session that the report is about, as a line of a table; `number` is that of its part."""

    session_id: str
    user: str
    agent: str
    target: str
    opened_at: datetime
    closed_at: datetime | None
    close_reason: str
    commands: int
    number: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionFacts:
    """Who was asked to decide what, and did; `digest` commits to the text that it was about."""

    request: str
    kind: str
    session: str
    command_no: int | None
    requester: str
    target: str
    rule: str
    digest: str
    requested_at: datetime | None
    decided_at: datetime | None
    state: str
    approvers: tuple[str, ...]
    reasons: tuple[str, ...]
    until: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessFacts:
    """Who read, searched, exported or changed what in the archive."""

    at: datetime
    actor: str
    action: str
    object: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskFacts:
    """A mask rule: what it hides, where, how, and from whom."""

    name: str
    action: str
    hides: tuple[str, ...]
    targets: str
    applies: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyFacts:
    """A policy document; `since` is when a gateway's log says that it came into force."""

    digest: str
    gateway: str
    since: datetime | None
    until: datetime | None
    is_intact: bool
    masks: tuple[MaskFacts, ...]
    rules: tuple[tuple[str, str, str], ...]
    default: str
    sessions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionFacts:
    """How long a target's sessions and payloads are kept from their close."""

    gateway: str
    target: str
    keep: str
    payloads: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LegalHoldFacts:
    """A legal hold in force."""

    gateway: str
    hold: str
    set_at: datetime
    selector: str
    actor: str
    authority: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PurgeFacts:
    """A purge that the log tells of; `here` counts its sessions that the report would be about."""

    gateway: str
    purge: str
    at: datetime
    what: str
    basis: str
    sessions: int
    here: int | None
    is_done: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayFacts:
    """A gateway's log at the checkpoint that everything here is read at."""

    gateway: str
    origin: str
    size: int
    root: str
    last_at: datetime
    clock: str
    versions: tuple[str, ...]
    segments: int
    checkpoint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorFacts:
    """What outside fixes of a log, and what of it nothing outside covers."""

    gateway: str
    kind: str
    size: int
    at: datetime | None
    by: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExposureFacts:
    """What of a log its signer could still write anew, unseen by the checks of this report."""

    gateway: str
    entries: int
    events: int
    since: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Integrity:
    """What was checked, with what from outside the archive, and what came of it."""

    ok: bool | None
    reasons: tuple[str, ...]
    keys: tuple[str, ...]
    given: tuple[str, ...]
    archive: Check
    counts: tuple[tuple[str, int], ...]
    anchors: tuple[AnchorFacts, ...]
    exposure: tuple[ExposureFacts, ...]
    notes: tuple[str, ...]
    unread: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExceptionFacts:
    """Something out of the ordinary; `severity` is `serious` or `note`."""

    severity: str
    kind: str
    where: str
    at: datetime | None
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Population:
    """How much there is, how much of that was asked for, and how much is in the report."""

    sessions_all: int
    commands_all: int
    sessions_asked: int
    commands_asked: int
    sessions_listed: int
    sessions_full: int
    commands_full: int
    sessions_open: int
    sessions_purged: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Something that is not in the report or not in the archive: how much, and why."""

    what: str
    count: int | None
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """A note, tag or star that somebody put on a session or command; it is beside the archive."""

    at: datetime | None
    author: str
    session: str
    command_no: int | None
    kind: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A file that the report carries inside; `data` is not repeated in `facts.json`."""

    name: str
    what: str
    sha256: str
    size: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckStep:
    """A step of checking without us: what it shows, what to type, what then is to be seen."""

    title: str
    words: str
    command: str
    expect: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that an evidence report says; `as_of` is the latest time in the archive's logs."""

    title: str
    subtitle: str
    ok: bool | None
    verdict: str
    verdict_words: str
    as_of: datetime
    archive: str
    version: str
    asked: tuple[tuple[str, str], ...]
    is_scripted: bool
    gateways: tuple[GatewayFacts, ...]
    population: Population
    left_out: tuple[LeftOut, ...]
    listed: tuple[ListedSession, ...]
    sessions: tuple[SessionFacts, ...]
    decisions: tuple[DecisionFacts, ...]
    more_decisions: int
    accesses: tuple[AccessFacts, ...]
    more_accesses: int
    policies: tuple[PolicyFacts, ...]
    more_policies: int
    retention: tuple[RetentionFacts, ...]
    legal_holds: tuple[LegalHoldFacts, ...]
    more_legal_holds: int
    purges: tuple[PurgeFacts, ...]
    more_purges: int
    integrity: Integrity
    exceptions: tuple[ExceptionFacts, ...]
    more_exceptions: int
    not_recorded: tuple[LeftOut, ...]
    annotations: tuple[Annotation, ...]
    has_annotations: bool
    more_annotations: int
    checks: tuple[CheckStep, ...]
    blobs: tuple[Blob, ...]


def to_json(facts: Facts) -> bytes:
    """Return the facts as JSON in ASCII, without the blobs' content: what a program reads.

    It is the same as long as the facts are.
    """
    value = _plain(facts)
    text = json.dumps(value, ensure_ascii=True, sort_keys=True, indent=1)
    return text.encode("ascii") + b"\n"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {
            field.name: _plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if not (isinstance(value, Blob) and field.name == "data")
        }
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return value
