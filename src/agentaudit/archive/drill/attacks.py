"""The attacks of the drill: who does what, and whether it can be caught.

Each is a function on an `Attacker`, with what is promised of it. A promise has two halves: what an
auditor answers who has nothing but the keys that were handed out once, and what one answers who
also kept a checkpoint. Where neither can tell, the attack says why; docs/limits.md lists all.
"""

from __future__ import annotations

import enum
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa

from agentaudit.archive import canonical, leaves
from agentaudit.archive.drill.attacker import Attacker, Power, with_values, without_row
from agentaudit.archive.drill.machine import (
    Machine,
    epoch_name,
    rewrite_parquet,
    sealed_as_it_is,
    write_file,
    write_log,
)
from agentaudit.archive.drill.stage import (
    APPROVED,
    CONTROL,
    DUE,
    KEPT,
    POLICY,
    SELF_APPROVED,
    record,
    session_ids,
)
from agentaudit.archive.gaps import KEY_COLUMNS, read_keys
from agentaudit.archive.ids import uuid7
from agentaudit.archive.journal import Entry, JournalReader, OpenSession
from agentaudit.archive.keys import create_key
from agentaudit.archive.layout import TILE_WIDTH, entries_path, segment_path, tile_path
from agentaudit.archive.note import CosigningKey, Signer
from agentaudit.archive.purge import Purger, Steps
from agentaudit.archive.retention import DAY_US, Keep, Policy, Standing
from agentaudit.archive.segment import read_entries
from agentaudit.model import Kind


class Answer(enum.StrEnum):
    """What an auditor is told of an archive that was attacked."""

    CAUGHT = "caught"
    UNSURE = "cannot tell"
    MISSED = "missed"


class Knows(enum.StrEnum):
    """What an auditor has from outside the archive, beside a checkpoint."""

    KEYS = "both verifier keys"
    WITNESS = "both verifier keys, and a policy that asks for a witness"
    LOG_KEY = "the log's verifier key alone"
    ONE_GATEWAY = "the keys of one gateway of two"
    NOTHING = "nothing"


class Base(enum.StrEnum):
    """When the attacker gets at the machine."""

    YESTERDAY = "yesterday"
    LIVE = "live"
    TODAY = "today"
    PURGED = "after a purge"


Play = Callable[[Attacker], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One attack, and what is promised of it.

    `without` is what an auditor who `knows` this answers without an anchor, `anchored` what one
    answers who kept the attacked log's checkpoint: of the time `kept`, or just before the attack.
    """

    name: str
    does: str
    power: Power
    play: Play
    base: Base = Base.TODAY
    knows: Knows = Knows.KEYS
    without: Answer = Answer.CAUGHT
    anchored: Answer = Answer.CAUGHT
    kept: Base | None = None
    why: str = ""
    """Why it is not caught, where it is not."""

    @property
    def is_catchable(self) -> bool:
        """Whether somebody can tell, with or without an anchor."""
        return (self.without, self.anchored) != (Answer.MISSED, Answer.MISSED)


ATTACKS: list[Attack] = []
"""The published list: docs/limits.md has each of them."""


def attack(
    name: str, does: str, power: Power = Power.DISK, **promise: Any
) -> Callable[[Play], Play]:
    """Put the decorated function on the list."""

    def put(play: Play) -> Play:
        ATTACKS.append(Attack(name=name, does=does, power=power, play=play, **promise))
        return play

    return put


_OLDER_IS_SOUND = "what is left is a sound archive of an earlier time; only who saw more can tell"
_NOT_TICKED = (
    "no signature covers the end of a journal until the next tick, at most two seconds later under "
    "traffic, and nobody has seen it"
)
_REWRITTEN = (
    "whoever holds both keys of the day can write that day anew; only who kept a checkpoint of it "
    "can tell"
)


# --- the disk -------------------------------------------------------------------------------------


@attack("flip-page", "flips a bit in a page of an events file")
def _(a: Attacker) -> None:
    a.flip(a.table(a.seals()[0], "events"))


@attack("flip-tile", "flips a bit in a hash tile of the log")
def _(a: Attacker) -> None:
    a.flip(a.log_file("tile/0/**/*"))


@attack("flip-entry", "flips a bit in an entry of the log")
def _(a: Attacker) -> None:
    a.flip(a.log_file("tile/entries/**/*"))


@attack("flip-head", "flips a bit in a segment's signed head")
def _(a: Attacker) -> None:
    a.flip(a.machine.layout.head(UUID(a.seals()[0]["segment"])))


@attack("flip-checkpoint", "flips a bit in the log's checkpoint")
def _(a: Attacker) -> None:
    a.flip(a.machine.layout.checkpoint(a.gateway), at=-10)


@attack("flip-journal", "flips a bit in the journal of the open segment", base=Base.LIVE)
def _(a: Attacker) -> None:
    # In the middle of its events: behind them is room for more, and nothing in it to change.
    path = a.journal()
    a.flip(path, at=JournalReader(path).skip() // 2)


@attack("drop-row", "removes a row of events")
def _(a: Attacker) -> None:
    a.rewrite(a.seals()[0], "events", without_row(1))


@attack("drop-command", "removes a row of commands, and leaves its events")
def _(a: Attacker) -> None:
    seal = next(seal for seal in a.seals() if "commands" in seal["files"])
    a.rewrite(seal, "commands", without_row(0))


@attack("insert-row", "inserts a row of events")
def _(a: Attacker) -> None:
    a.rewrite(a.seals()[0], "events", lambda t: pa.concat_tables([t.slice(0, 2), t.slice(1)]))


@attack("reorder-rows", "exchanges two rows of events")
def _(a: Attacker) -> None:
    order = [1, 0]
    a.rewrite(
        a.seals()[0],
        "events",
        lambda t: pa.concat_tables([t.take(order), t.slice(len(order))]),
    )


@attack("edit-user", "writes another user into a column that no leaf covers")
def _(a: Attacker) -> None:
    a.rewrite(a.seals()[0], "events", _another_user)


@attack("swap-sessions", "exchanges the sessions of two users, in every table")
def _(a: Attacker) -> None:
    seal = a.seals()[-1]
    for name in ("events", "commands", "sessions"):
        a.rewrite(seal, name, _sessions_swapped)


@attack("swap-segments", "exchanges the events files of two segments")
def _(a: Attacker) -> None:
    first, *_, last = a.seals()
    a.swap(a.table(first, "events"), a.table(last, "events"))


@attack("swap-gateways", "exchanges the events files of two gateways that both begin at event 0")
def _(a: Attacker) -> None:
    others = [e for e in a.machine.entries(a.stage.other) if e["type"] == "seal"]
    a.swap(a.table(a.seals()[0], "events"), a.table(others[0], "events"))


@attack("drop-file", "removes the events file of a segment")
def _(a: Attacker) -> None:
    a.table(a.seals()[0], "events").unlink()


@attack("drop-segment", "removes every file of a segment, its head as well")
def _(a: Attacker) -> None:
    seal = a.seals()[0]
    for name in seal["files"]:
        a.table(seal, name).unlink()
    a.machine.layout.head(UUID(seal["segment"])).unlink()


@attack("drop-journal", "removes the journal of the open segment", base=Base.LIVE)
def _(a: Attacker) -> None:
    a.journal().unlink()


@attack("plant-file", "puts a file beside the sealed ones, for readers that list folders")
def _(a: Attacker) -> None:
    seal = a.seals()[0]
    path = segment_path("events", a.gateway, seal["first_at"], uuid7(seal["first_at"]))
    write_file(a.archive / path, a.table(seal, "events").read_bytes())


@attack("plant-journal", "puts a journal of sessions that never were behind a gateway that stopped")
def _(a: Attacker) -> None:
    stop = [entry for entry in a.entries() if entry["type"] == "stop"][-1]
    a.plant_journal(a.stage.live, first_event_no=stop["next_event"])


@attack(
    "plant-live-file",
    "puts a file named after the open segment where no seal makes one, for readers that list "
    "folders",
    base=Base.LIVE,
)
def _(a: Attacker) -> None:
    path = segment_path("events", a.gateway, 0, UUID(a.journal().stem))
    write_file(a.archive / path, a.table(a.seals()[0], "events").read_bytes())


@attack("link-file", "puts a link to a copy elsewhere in the place of a sealed file")
def _(a: Attacker) -> None:
    path = a.table(a.seals()[0], "events")
    elsewhere = a.machine.folder / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


@attack("swap-policy", "writes other rules into the file of those that were in force")
def _(a: Attacker) -> None:
    policy = [entry for entry in a.entries() if entry["type"] == "policy"][-1]
    write_file(a.machine.layout.policy(policy["sha256"]), canonical.encode({"rules": ["other"]}))


@attack("cut-journal", "cuts the journal back behind its last tick", base=Base.LIVE)
def _(a: Attacker) -> None:
    a.rewrite_journal(lambda entries: entries[: _ticked(a) - 1])


@attack("edit-journal", "rewrites an event of the journal, every checksum right", base=Base.LIVE)
def _(a: Attacker) -> None:
    a.rewrite_journal(_first_statement_edited)


@attack(
    "disown-journal",
    "rewrites an event of the journal, and names another segment in its header",
    base=Base.LIVE,
)
def _(a: Attacker) -> None:
    a.rewrite_journal(
        _first_statement_edited,
        lambda header: replace(header, segment=UUID(int=header.segment.int + 1)),
    )


@attack(
    "claim-session",
    "lists another user's session in the journal's header, as one that was open before",
    base=Base.LIVE,
)
def _(a: Attacker) -> None:
    facts = {"gateway": a.gateway, "user": SELF_APPROVED, "target": KEPT, "protocol": "postgres"}
    keys = (bytes(32), bytes(32), bytes(32))
    session = OpenSession(uuid7(1), facts, *keys, opened_us=1, open_event_no=0)
    a.rewrite_journal(
        lambda entries: entries,
        lambda header: replace(header, sessions=(*header.sessions, session)),
    )


@attack(
    "cut-journal-tail",
    "cuts the journal back to its last tick",
    base=Base.LIVE,
    without=Answer.MISSED,
    anchored=Answer.MISSED,
    why=_NOT_TICKED,
)
def _(a: Attacker) -> None:
    a.rewrite_journal(lambda entries: entries[: _ticked(a)])


@attack(
    "edit-journal-tail",
    "rewrites an event of the journal behind its last tick, every checksum right",
    base=Base.LIVE,
    without=Answer.MISSED,
    anchored=Answer.MISSED,
    why=_NOT_TICKED,
)
def _(a: Attacker) -> None:
    ticked = _ticked(a)
    a.rewrite_journal(lambda e: [*e[:ticked], *_first_statement_edited(e[ticked:])])


@attack("cut-log", "cuts the last entry out of the log's files")
def _(a: Attacker) -> None:
    index, width = divmod(len(a.entries()), TILE_WIDTH)
    for name in (entries_path(index, width), tile_path(0, index, width)):
        a.machine.layout.log(a.gateway).joinpath(name).unlink(missing_ok=True)


@attack("replay-checkpoint", "puts yesterday's checkpoint into the place of today's")
def _(a: Attacker) -> None:
    old = a.stage.yesterday.layout.checkpoint(a.gateway).read_bytes()
    write_file(a.machine.layout.checkpoint(a.gateway), old)


@attack(
    "roll-back",
    "puts the whole archive of yesterday into the place of today's",
    without=Answer.MISSED,
    why=_OLDER_IS_SOUND,
)
def _(a: Attacker) -> None:
    a.put_back(a.stage.yesterday)


@attack("drop-gateway", "removes all that one gateway has recorded")
def _(a: Attacker) -> None:
    a.remove_gateway(a.gateway)


@attack(
    "drop-unknown-gateway",
    "removes all that a gateway has recorded, before an auditor who was given no key of it",
    knows=Knows.ONE_GATEWAY,
    without=Answer.MISSED,
    why="nothing that this auditor has says that there ever was a second gateway",
)
def _(a: Attacker) -> None:
    a.remove_gateway(a.gateway)


@attack("empty-archive", "removes everything but FORMAT")
def _(a: Attacker) -> None:
    for path in a.archive.iterdir():
        if path.is_dir():
            shutil.rmtree(path)


@attack("replace-key-file", "puts another verifier key into the archive")
def _(a: Attacker) -> None:
    signer = Signer.generate(a.machine.log_key(a.gateway).verifier.name)
    path = a.machine.layout.verifier_key(a.gateway)
    write_file(path, f"{signer.verifier}\n".encode())


@attack("replace-archive", "puts an archive of its own, of the same name, in the place of this one")
def _(a: Attacker) -> None:
    _replaced(a)


@attack(
    "replace-archive-unknown",
    "does the same before an auditor who was given no key",
    knows=Knows.NOTHING,
    without=Answer.UNSURE,
    why="an archive names its own key; without one from outside the answer is never yes",
)
def _(a: Attacker) -> None:
    _replaced(a)


# --- the log key ----------------------------------------------------------------------------------


@attack("sign-edit", "edits a row, and signs a log with its digest", Power.LOG_KEY)
def _(a: Attacker) -> None:
    a.sign_edit(a.seals()[0], "events", _another_user)


@attack("cut-and-sign", "drops the last segment, and signs a log without it", Power.LOG_KEY)
def _(a: Attacker) -> None:
    a.sign(a.drop_segment)


@attack(
    "begin-anew",
    "drops the last segment, and signs a log with a chain of epoch keys of its own",
    Power.LOG_KEY,
)
def _(a: Attacker) -> None:
    _begun_anew(a)


@attack(
    "begin-anew-unknown",
    "does the same before an auditor who was given the log's key alone",
    Power.LOG_KEY,
    knows=Knows.LOG_KEY,
    without=Answer.MISSED,
    why="without the first epoch key nothing says where the chain of epochs begins; both are "
    "handed out for this",
)
def _(a: Attacker) -> None:
    _begun_anew(a)


# --- a machine of yesterday -----------------------------------------------------------------------


@attack(
    "fork",
    "restores yesterday's machine with its epoch key, and records another today",
    Power.YESTERDAY,
    base=Base.YESTERDAY,
    without=Answer.MISSED,
    why="both keys of yesterday can go on from yesterday in any way; only who kept a checkpoint "
    "of today can tell",
)
def _(a: Attacker) -> None:
    record(a.machine, [a.gateway])


@attack(
    "drop-yesterday-with-its-keys",
    "drops yesterday's segment of today's archive, and signs what yesterday's keys can",
    Power.YESTERDAY,
)
def _(a: Attacker) -> None:
    a.sign(lambda entries: _without_yesterday(a, entries))


# --- the machine of today -------------------------------------------------------------------------


@attack("edit-yesterday", "edits a row of yesterday, and signs with the keys of today", Power.TODAY)
def _(a: Attacker) -> None:
    a.sign_edit(a.seals()[-2], "events", _another_user)


@attack(
    "drop-yesterday", "drops yesterday's segment, and signs with the keys of today", Power.TODAY
)
def _(a: Attacker) -> None:
    a.sign(lambda entries: _without_yesterday(a, entries))


@attack(
    "drop-yesterday-with-both-keys",
    "drops yesterday's segment, and signs with the keys of both days",
    Power.BOTH_DAYS,
    without=Answer.MISSED,
    why="whoever stole the epoch key of each day on its day can write those days anew; only who "
    "kept a checkpoint can tell",
)
def _(a: Attacker) -> None:
    a.sign(lambda entries: _without_yesterday(a, entries))


@attack("edit-column-today", "edits a denormalised column of today, and signs it", Power.TODAY)
def _(a: Attacker) -> None:
    a.sign_edit(a.seals()[-1], "events", _another_user)


@attack("edit-text-today", "edits a statement in events of today, and signs it", Power.TODAY)
def _(a: Attacker) -> None:
    a.sign_edit(a.seals()[-1], "events", with_values("text", _edited))


@attack("edit-payload-today", "edits what came back today, and signs it", Power.TODAY)
def _(a: Attacker) -> None:
    a.sign_edit(a.seals()[-1], "events", with_values("payload", _edited))


@attack("edit-command-today", "edits a statement in commands of today, and signs it", Power.TODAY)
def _(a: Attacker) -> None:
    a.sign_edit(a.seals()[-1], "commands", with_values("text", _edited))


@attack("edit-age-today", "makes a session of today look older, and signs it", Power.TODAY)
def _(a: Attacker) -> None:
    year_us = 365 * 86_400 * 1_000_000
    a.sign_edit(
        a.seals()[-1], "sessions", with_values("closed_at", lambda v: [t - year_us for t in v])
    )


@attack("drop-row-today", "removes the last row of events of today, and signs it", Power.TODAY)
def _(a: Attacker) -> None:
    a.sign_edit(a.seals()[-1], "events", lambda t: t.slice(0, t.num_rows - 1))


@attack("swap-sessions-today", "exchanges two users' sessions of today, and signs it", Power.TODAY)
def _(a: Attacker) -> None:
    for name in ("events", "commands", "sessions"):
        a.sign_edit(a.seals()[-1], name, _sessions_swapped)


@attack(
    "claim-other-gateway",
    "claims the other gateway's segment as one of this gateway's, and signs it",
    Power.TODAY,
)
def _(a: Attacker) -> None:
    others = next(e for e in a.machine.entries(a.stage.other) if e["type"] == "seal")

    def change(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        seal = [entry for entry in entries if entry["type"] == "seal"][-1]
        for name, file in others["files"].items():
            data = (a.archive / file["path"]).read_bytes()
            write_file(a.table(seal, name), data)
            seal["files"][name] = file | {"path": seal["files"][name]["path"]}
        for member in ("n", "root", "sessions_root", "first_at", "last_at"):
            seal[member] = others[member]
        # As the sealer would have said it: the segment's tick and stop go with it.
        stop = entries[-1] | {"next_event": seal["first_event"] + seal["n"]}
        kept = [e for e in entries[:-1] if e["type"] != "tick" or e["segment"] != seal["segment"]]
        return [*kept, stop]

    a.sign(change)


@attack(
    "path-trick", "names a file outside the archive in a seal of today, and signs it", Power.TODAY
)
def _(a: Attacker) -> None:
    outside = a.machine.folder / "outside.parquet"
    seal = a.seals()[-1]
    outside.write_bytes(a.table(seal, "events").read_bytes())

    def change(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        last = [entry for entry in entries if entry["type"] == "seal"][-1]
        last["files"]["events"]["path"] = "../outside.parquet"
        return entries

    a.sign(change)


@attack("claim-policy", "names other rules in a seal of today, and signs it", Power.TODAY)
def _(a: Attacker) -> None:
    a.sign(lambda entries: _last_changed(entries, "seal", policy="00" * 32))


@attack(
    "change-clock",
    "says that today's times were a script's, and signs it",
    Power.TODAY,
    without=Answer.MISSED,
    why=_REWRITTEN,
)
def _(a: Attacker) -> None:
    a.sign(
        lambda entries: _last_changed(entries, "start", clock="scripted"),
        lambda entries: _last_changed(entries, "seal", clock="scripted"),
    )


@attack(
    "claim-gateway",
    "rewrites today's journal so that a session claims another gateway, and forgets its ticks",
    Power.TODAY,
    base=Base.LIVE,
)
def _(a: Attacker) -> None:
    def claimed(entries: list[Entry]) -> list[Entry]:
        opened = next(e for e in entries if e.kind == Kind.SESSION_OPEN)
        facts = canonical.decode(opened.payload or b"{}")
        opened.payload = canonical.encode(facts | {"gateway": a.stage.other})
        opened.stored_len = len(opened.payload)
        return entries

    # Left as a journal: the gateway's own sealer would refuse it.
    _rewrite_today(a, claimed)


@attack(
    "rewrite-today",
    "rewrites a statement in today's journal, forgets its ticks, and lets the gateway seal it",
    Power.TODAY,
    base=Base.LIVE,
    without=Answer.MISSED,
    why=_REWRITTEN,
)
def _(a: Attacker) -> None:
    _rewrite_today(a, _first_statement_edited)
    record(a.machine, [a.gateway], sessions=False)


@attack(
    "drop-today",
    "drops today's segment, and signs a log without it",
    Power.TODAY,
    without=Answer.MISSED,
    why=_REWRITTEN,
)
def _(a: Attacker) -> None:
    a.sign(a.drop_segment)


@attack(
    "rewrite-after-the-anchor",
    "drops today's segment before an auditor whose checkpoint is of yesterday",
    Power.TODAY,
    kept=Base.YESTERDAY,
    without=Answer.MISSED,
    anchored=Answer.MISSED,
    why="a checkpoint vouches for what was there when it was kept; what came after is the exposure "
    "window, which each result states",
)
def _(a: Attacker) -> None:
    a.sign(a.drop_segment)


# --- witnesses ------------------------------------------------------------------------------------


@attack(
    "drop-cosigned",
    "removes what a witness has cosigned",
    knows=Knows.WITNESS,
    without=Answer.UNSURE,
    anchored=Answer.UNSURE,
    why="a cosignature that is not there looks as one that never was; without it the answer is "
    "never yes",
)
def _(a: Attacker) -> None:
    _cosign(a, a.stage.today)
    a.machine.layout.cosigned(a.gateway).unlink()


@attack("flip-cosigned", "flips a bit in what a witness has cosigned", knows=Knows.WITNESS)
def _(a: Attacker) -> None:
    _cosign(a, a.stage.today)
    a.flip(a.machine.layout.cosigned(a.gateway), at=-10)


@attack(
    "drop-today-witnessed",
    "drops today's segment, of which a witness has cosigned the checkpoint",
    Power.TODAY,
    knows=Knows.WITNESS,
)
def _(a: Attacker) -> None:
    _cosign(a, a.stage.today)
    a.sign(a.drop_segment)


@attack(
    "drop-today-own-witness",
    "drops today's segment, and cosigns what is left with a witness's key of its own",
    Power.TODAY,
    knows=Knows.WITNESS,
    without=Answer.UNSURE,
    why="a witness that the policy does not name is as none; without one the answer is never yes",
)
def _(a: Attacker) -> None:
    _cosign(a, a.stage.today)
    a.sign(a.drop_segment)
    own = CosigningKey.generate(a.stage.witness.cosigner.name)
    write_file(a.machine.layout.cosigned(a.gateway), a.machine.cosigned(a.gateway, own))


@attack(
    "drop-today-behind-witness",
    "drops today's segment, and puts back what the witness has cosigned yesterday",
    Power.TODAY,
    knows=Knows.WITNESS,
    without=Answer.MISSED,
    why="a witness vouches for what it has seen; of what came after, each result says since when "
    "it is exposed",
)
def _(a: Attacker) -> None:
    _cosign(a, a.stage.yesterday)
    a.sign(a.drop_segment)


@attack(
    "roll-back-witnessed",
    "puts the archive of yesterday and its cosignature into the place of today's",
    knows=Knows.WITNESS,
    without=Answer.MISSED,
    why="the cosignature is right, and says of when it is; only who knows of a later one can tell",
)
def _(a: Attacker) -> None:
    a.put_back(a.stage.yesterday)
    _cosign(a, a.stage.yesterday)


# --- purges ---------------------------------------------------------------------------------------


@attack("drop-list", "removes the list of what a purge took", base=Base.PURGED)
def _(a: Attacker) -> None:
    a.machine.layout.purge(_purge_of(a, "policy")["purge"]).unlink()


@attack("forge-residue", "puts another leaf hash into what a purge has left", base=Base.PURGED)
def _(a: Attacker) -> None:
    rewrite_parquet(_residue(a), _other_hash)


@attack(
    "sign-residue",
    "puts another leaf hash into what a purge has left, and signs it",
    Power.TODAY,
    base=Base.PURGED,
)
def _(a: Attacker) -> None:
    path = _residue(a)
    rewrite_parquet(path, _other_hash)

    def change(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        done = [entry for entry in entries if entry["type"] == "purge_done"][-1]
        done["residue"] |= {
            "sha256": sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
        return entries

    a.sign(change)


@attack(
    "edit-after-purge",
    "edits a column that no leaf covers, of rows that a purge has left",
    base=Base.PURGED,
)
def _(a: Attacker) -> None:
    a.rewrite(a.seals()[0], "events", _another_user)


@attack(
    "sign-edit-after-purge",
    "edits a column that no leaf covers, of rows that a purge has left, and signs it",
    Power.TODAY,
    base=Base.PURGED,
)
def _(a: Attacker) -> None:
    a.sign_edit(a.seals()[0], "events", _another_user)


@attack(
    "strip-payload",
    "takes the bytes of an event that a purge has left, keeps what they commit to, and signs it",
    Power.TODAY,
    base=Base.PURGED,
)
def _(a: Attacker) -> None:
    number, _, commit = _row_of(a, SELF_APPROVED)

    def stripped(table: pa.Table) -> pa.Table:
        row = table.column("event_no").to_pylist().index(number)
        table = with_values("payload", lambda values: _put(values, row, None))(table)
        return with_values("payload_commit", lambda values: _put(values, row, commit))(table)

    a.sign_edit(a.seals()[0], "events", stripped)


@attack(
    "hide-in-residue",
    "lets a purge take a row more, of a session that it does not list, and signs it",
    Power.TODAY,
    base=Base.PURGED,
)
def _(a: Attacker) -> None:
    number, leaf, _ = _row_of(a, SELF_APPROVED)
    seal, residue = a.seals()[0], _residue(a)

    def without(table: pa.Table) -> pa.Table:
        return without_row(table.column("event_no").to_pylist().index(number))(table)

    def longer(table: pa.Table) -> pa.Table:
        index = number - seal["first_event"]
        rows = [*table.to_pylist(), {"leaf_index": index, "leaf_hash": leaf}]
        rows.sort(key=lambda row: int(row["leaf_index"]))
        return pa.Table.from_pylist(rows, table.schema)

    a.rewrite(seal, "events", without)
    rewrite_parquet(residue, longer)

    def change(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        done = [entry for entry in entries if entry["type"] == "purge_done"][-1]
        intent = next(e for e in entries if e["type"] == "purge_intent" and _same(e, done))
        done["rows"] += 1
        data = residue.read_bytes()
        done["residue"] |= {"sha256": sha256(data).hexdigest(), "bytes": len(data)}
        done["residue"]["rows"] += 1

        def counted(document: dict[str, Any]) -> None:
            document["segments"][0]["rows"] += 1

        _other_list(a, [intent], counted)
        return entries

    a.sign(change, sealed_as_it_is(a.archive, a.table(seal, "events")))


@attack("undo-purge", "puts back the files of before the purge", base=Base.PURGED)
def _(a: Attacker) -> None:
    for file in a.seals()[0]["files"].values():
        write_file(a.archive / file["path"], (a.stage.today.archive / file["path"]).read_bytes())


@attack(
    "purge-without-intent",
    "signs a log with the end of a purge, and without its intent",
    Power.TODAY,
    base=Base.PURGED,
)
def _(a: Attacker) -> None:
    a.sign(lambda entries: [e for e in entries if e["type"] != "purge_intent"])


@attack(
    "purge-unsaid",
    "signs a log that says nothing of a purge",
    Power.TODAY,
    base=Base.PURGED,
)
def _(a: Attacker) -> None:
    a.sign(lambda entries: [e for e in entries if not e["type"].startswith("purge_")])


@attack(
    "purge-unfinished",
    "signs a log with the intent of a purge, and without its end",
    Power.TODAY,
    base=Base.PURGED,
)
def _(a: Attacker) -> None:
    a.sign(lambda entries: [e for e in entries if e["type"] != "purge_done"])


@attack(
    "purge-held",
    "purges a session that is due, and under a legal hold",
    Power.TODAY,
    base=Base.PURGED,
)
def _(a: Attacker) -> None:
    a.purge(_by_policy, lie=lambda standing: standing.holds.clear())


@attack(
    "purge-held-unsaid",
    "signs a log without a legal hold, and purges the session",
    Power.TODAY,
    base=Base.PURGED,
    without=Answer.MISSED,
    why=_REWRITTEN,
)
def _(a: Attacker) -> None:
    a.sign(lambda entries: [e for e in entries if e["type"] != "legal_hold_set"])
    a.purge(_by_policy)


@attack(
    "purge-before-due",
    "purges, as if by policy, a session that is to be kept",
    Power.TODAY,
    base=Base.PURGED,
)
def _(a: Attacker) -> None:
    a.purge(_by_policy, lie=_nothing_is_kept)


@attack(
    "shorten-and-purge",
    "puts a shorter policy into force, and purges by it without waiting for its notice",
    Power.TODAY,
    base=Base.PURGED,
)
def _(a: Attacker) -> None:
    a.sign(lambda entries: [*entries, _shorter_policy(a)])
    a.purge(_by_policy, lie=_nothing_is_kept)


@attack(
    "shorten-and-date-ahead",
    "puts a shorter policy into force, and purges by it as if its notice were over",
    Power.TODAY,
    base=Base.PURGED,
)
def _(a: Attacker) -> None:
    a.sign(lambda entries: [*entries, _shorter_policy(a)])
    a.purge(_by_policy, lie=_nothing_is_kept, at_us=time.time_ns() // 1000 + 8 * DAY_US)


@attack(
    "purge-another-age",
    "purges a session that is to be kept, and claims in the list that it is one that is due",
    Power.TODAY,
    base=Base.PURGED,
)
def _(a: Attacker) -> None:
    def claimed(document: dict[str, Any]) -> None:
        for session in document["sessions"]:
            session["target"] = DUE

    a.purge(_by_policy, lie=_nothing_is_kept, change=lambda told: _other_list(a, told, claimed))


@attack(
    "purge-other-rows",
    "purges a session that is to be kept, and lists in its place one that is due",
    Power.TODAY,
    base=Base.PURGED,
)
def _(a: Attacker) -> None:
    held = canonical.decode(a.machine.layout.purge(_purge_of(a, "policy")["purge"]).read_bytes())

    def claimed(document: dict[str, Any]) -> None:
        document["sessions"] = held["sessions"][:1] * len(document["sessions"])

    a.purge(_by_policy, lie=_nothing_is_kept, change=lambda told: _other_list(a, told, claimed))


@attack(
    "purge-twice",
    "lets a purge that is over take another session's rows",
    Power.TODAY,
    base=Base.PURGED,
)
def _(a: Attacker) -> None:
    earlier = _purge_of(a, "policy")["purge"]

    def change(told: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for intent in told:
            if intent["type"] == "purge_intent":
                a.machine.layout.purge(intent["purge"]).unlink()
        return [e | {"purge": earlier} for e in told if e["type"] == "purge_done"]

    a.purge(_by_policy, lie=_nothing_is_kept, change=change)


@attack(
    "release-unordered",
    "releases a legal hold that nobody ordered to release, and purges the session",
    Power.TODAY,
    base=Base.PURGED,
)
def _(a: Attacker) -> None:
    def released(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        hold = next(entry["hold"] for entry in entries if entry["type"] == "legal_hold_set")
        release = {"at": time.time_ns() // 1000, "type": "legal_hold_release", "hold": hold}
        return [*entries, release | {"event": 0}]

    a.sign(released)
    a.purge(_by_policy)


@attack(
    "release-by-its-order",
    "releases a legal hold by the event that ordered it to be set, and purges the session",
    Power.TODAY,
    base=Base.PURGED,
)
def _(a: Attacker) -> None:
    def released(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        hold = next(entry for entry in entries if entry["type"] == "legal_hold_set")
        release = {"at": time.time_ns() // 1000, "type": "legal_hold_release"}
        return [*entries, release | {name: hold[name] for name in ("hold", "event")}]

    a.sign(released)
    a.purge(_by_policy)


@attack(
    "narrow-hold",
    "signs a legal hold that is narrower than the one ordered, and purges the session",
    Power.TODAY,
    base=Base.PURGED,
)
def _(a: Attacker) -> None:
    def narrowed(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        hold = next(entry for entry in entries if entry["type"] == "legal_hold_set")
        hold["selector"] = hold["selector"] | {"until": 1}
        return entries

    a.sign(narrowed)
    a.purge(_by_policy)


@attack(
    "erase-undecided",
    "erases a session, and names an event as decision that is none",
    Power.TODAY,
    base=Base.PURGED,
)
def _(a: Attacker) -> None:
    _erase_by(a, 0)


@attack(
    "erase-self-approved",
    "erases a session by a decision that the requester approved",
    Power.TODAY,
    base=Base.PURGED,
)
def _(a: Attacker) -> None:
    _erase_by(a, a.stage.decisions[SELF_APPROVED])


@attack(
    "erase-another",
    "erases a session by a decision about another one",
    Power.TODAY,
    base=Base.PURGED,
)
def _(a: Attacker) -> None:
    _erase_by(a, a.stage.decisions[APPROVED])


@attack(
    "erase-control",
    "erases, as decided, the session in which the gateway keeps who decided what",
    Power.TODAY,
    base=Base.PURGED,
)
def _(a: Attacker) -> None:
    a.erase_unasked(session_ids(a.machine, a.gateway, "")[0], decision=a.stage.decisions[CONTROL])


# --- what several of them do ----------------------------------------------------------------------


def _last_changed(entries: list[dict[str, Any]], kind: str, **members: Any) -> list[dict[str, Any]]:
    """Change members of the last entry of a kind."""
    [entry for entry in entries if entry["type"] == kind][-1].update(members)
    return entries


def _cosign(a: Attacker, seen: Machine) -> None:
    """Let there be what the witness cosigned of the log as it was on `seen`."""
    for gateway in seen.layout.gateways():
        note = seen.cosigned(gateway, a.stage.witness)
        write_file(a.machine.layout.cosigned(gateway), note)


_NEVER_US = 253_402_300_799_000_000


def _by_policy(purger: Purger) -> Steps:
    return purger.apply(time.time_ns() // 1000, 0)


def _erase_by(a: Attacker, decision: int) -> None:
    a.purge(lambda purger: purger.erase(a.user(SELF_APPROVED), decision, _NEVER_US, ()))


def _nothing_is_kept(standing: Standing) -> None:
    """Say that what is to be kept was due when it closed; what is due anyway is left alone."""
    standing.policies = [Policy(standing.policy, 0, {KEPT: Keep(keep_us=0)})]


def _shorter_policy(a: Attacker) -> dict[str, Any]:
    """Write a policy by which everything is due, and return the entry that puts it into force."""
    document = canonical.decode(POLICY)
    document["retention"]["targets"][KEPT] = document["retention"]["targets"][DUE]
    data = canonical.encode(document)
    digest = sha256(data).hexdigest()
    write_file(a.machine.layout.policy(digest), data)
    return {"at": time.time_ns() // 1000, "type": "policy", "sha256": digest}


def _same(intent: dict[str, Any], done: dict[str, Any]) -> bool:
    return bool(intent["purge"] == done["purge"])


def _put(values: list[Any], row: int, value: Any) -> list[Any]:
    values[row] = value
    return values


def _row_of(a: Attacker, user: str) -> tuple[int, bytes, bytes]:
    """Return event_no, leaf and payload_commit of an answer that `user` got yesterday."""
    seal = a.seals()[0]
    session_id = session_ids(a.machine, a.gateway, user)[0].bytes
    keys = read_keys(a.table(seal, "sessions"))[session_id]
    key_m, key_t, key_p = (keys[name] or b"" for name in KEY_COLUMNS)
    for entry, _ in read_entries(a.table(seal, "events"), None):
        if entry.session_id == session_id and entry.kind == Kind.RESPONSE:
            text = leaves.text_commit(key_t, entry.seq, entry.text)
            payload = leaves.payload_commit(key_p, entry.seq, entry.payload)
            return entry.event_no, leaves.event_leaf(entry, key_m, text, payload), payload
    raise LookupError(user)


def _purge_of(a: Attacker, basis: str) -> dict[str, Any]:
    """Return the intent of the lawful purge by policy, or by decision."""
    intents = (entry for entry in a.entries() if entry["type"] == "purge_intent")
    return next(intent for intent in intents if intent["basis"] == basis)


def _residue(a: Attacker) -> Path:
    done = [entry for entry in a.entries() if entry["type"] == "purge_done"][-1]
    path: str = done["residue"]["path"]
    return a.archive / path


def _other_hash(table: pa.Table) -> pa.Table:
    return with_values("leaf_hash", lambda hashes: [bytes(32), *hashes[1:]])(table)


def _other_list(
    a: Attacker, told: list[dict[str, Any]], change: Callable[[dict[str, Any]], None]
) -> list[dict[str, Any]]:
    """Change the list of the purge that was just made, and its digest."""
    for entry in told:
        if entry["type"] == "purge_intent":
            path = a.machine.layout.purge(entry["purge"])
            document = canonical.decode(path.read_bytes())
            change(document)
            write_file(path, canonical.encode(document))
            entry["list"] = sha256(path.read_bytes()).hexdigest()
    return told


def _another_user(table: pa.Table) -> pa.Table:
    return with_values("user", lambda users: ["mallory" for _ in users])(table)


def _edited(values: list[Any]) -> list[Any]:
    """Change a value, not its length: the last statement, or what came back to it."""
    row = max(n for n, value in enumerate(values) if value and value[:1] != b"{")
    value = values[row]
    values[row] = ("x" if isinstance(value, str) else b"x") + value[1:]
    return values


def _sessions_swapped(table: pa.Table) -> pa.Table:
    """Exchange the last two sessions of a table, which are ana's and bob's of that day."""

    def change(ids: list[bytes]) -> list[bytes]:
        one, other = list(dict.fromkeys(ids))[-2:]
        swapped = {one: other, other: one}
        return [swapped.get(value, value) for value in ids]

    return with_values("session_id", change)(table)


def _first_statement_edited(entries: list[Entry]) -> list[Entry]:
    """Put another statement of the same length into the first request."""
    entry = next(e for e in entries if e.kind == Kind.REQUEST and e.text)
    entry.text = b"S" + (entry.text or b"")[1:]
    return entries


def _ticked(a: Attacker) -> int:
    """Return how many events of the open segment are ticked."""
    return int([entry for entry in a.entries() if entry["type"] == "tick"][-1]["n"])


def _rewrite_today(a: Attacker, change: Callable[[list[Entry]], list[Entry]]) -> None:
    """Rewrite the journal of today, and sign a log that says nothing of it."""
    a.rewrite_journal(change)
    segment = a.journal().stem
    a.sign(lambda entries: [e for e in entries if e.get("segment") != segment])


def _without_yesterday(a: Attacker, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Remove yesterday's segment, and make today's follow what came before it."""
    seals = [entry for entry in entries if entry["type"] == "seal"]
    gone, today = seals[-2], seals[-1]
    a.machine.layout.head(UUID(gone["segment"])).unlink()
    for name in gone["files"]:
        a.table(gone, name).unlink()
    # Today's rows hold their numbers in their leaves, so today goes as well.
    kept = a.drop_segment(entries)
    kept = [entry for entry in kept if entry.get("segment") != gone["segment"]]
    return [
        entry
        for entry in kept
        if entry["type"] != "stop" or entry["next_event"] <= today["first_event"] - gone["n"]
    ]


def _begun_anew(a: Attacker) -> None:
    """Sign everything anew with the log key and an epoch key of the attacker's own."""
    machine, gateway = a.machine, a.gateway
    epoch = Signer.generate(epoch_name(machine.origin, gateway))
    entries = [e for e in a.drop_segment(a.entries()) if e["type"] != "key_epoch"]
    entries[0]["epoch_key"] = str(epoch.verifier)
    write_log(machine, gateway, entries, machine.log_key(gateway), [epoch])


def _replaced(a: Attacker) -> None:
    """Record another archive under keys of the attacker's own, and put it there."""
    forged = Machine(a.machine.folder / "forged", a.machine.origin)
    for gateway in (a.gateway, a.stage.other):
        create_key(forged.keys, gateway, forged.origin)
        record(forged, [gateway], sessions=False)
    a.put_back(forged)
