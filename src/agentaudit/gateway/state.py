"""What the gateway remembers between connections: holds, grants, windows, tickets, blocks.

All workers of a host, or all gateways of a site, share one database, and any of them may ask,
decide or die at any time. So every method is one short transaction that is right whoever else is at
it, and nothing is kept here from one call to the next. It blocks, and belongs to one thread of the
process. The caller says what time it is.

None of it is evidence: what was asked, decided and granted is recorded in the archive, and
`unrecorded` says what is not yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self
from uuid import UUID

from sqlalchemy import delete, insert, select, update

from agentaudit.archive.ids import uuid7
from agentaudit.errors import NoSuchBlock
from agentaudit.gateway import state_rows as rows
from agentaudit.gateway.state_database import Database
from agentaudit.gateway.state_deliveries import Deliveries
from agentaudit.gateway.state_requests import Requests
from agentaudit.gateway.state_rows import (
    Block,
    Grant,
    Live,
    Note,
    Request,
    SshCertificate,
    Ticket,
    Vote,
    Window,
)
from agentaudit.gateway.state_tables import (
    blocks,
    certificates,
    grants,
    live,
    notes,
    requests,
    tickets,
    windows,
)
from agentaudit.gateway.state_windows import Windows, end_what_is_over

__all__ = [
    "Block",
    "Grant",
    "Live",
    "Note",
    "Request",
    "SshCertificate",
    "State",
    "Ticket",
    "Vote",
    "Window",
]


class State(Requests, Windows, Deliveries):
    """The gateway's state; `open` gives one.

    Every method may raise a `StateError`: the database does not answer. Whether a write whose
    answer was lost has happened is not known then.
    """

    @classmethod
    def open(cls, url: str, *, base: Path) -> Self:
        """Return the state at `url`, made or migrated as this release has it.

        A relative path of SQLite is relative to `base`.

        Raises:
            SettingsError: `url` is no database that the state can be in.
            StateError: it cannot be opened, or a newer release has made it.
        """
        return cls(Database(url, base=base))

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def revision(self) -> int:
        """Return a number that is another one whenever anybody has changed anything."""
        return self._database.revision()

    def last_write(self) -> tuple[int, int] | None:
        """Return what mostly changes with `revision`, at no cost; see `Database.last_write`."""
        return self._database.last_write()

    # --- blocks

    def block(self, block: Block) -> None:
        """Keep `block`, which is in force from now on."""
        values = rows.block_values(block)
        with self._database.writing() as connection:
            connection.execute(insert(blocks), values)

    def unblock(self, id: UUID, *, by: str, now_us: int) -> Block:
        """Lift the block; return it.

        Raises:
            NoSuchBlock: there is none of this id, or it is lifted already.
        """
        values = {"lifted_us": rows.time("the time", now_us), "lifted_by": rows.text("who", by)}
        with self._database.writing() as connection:
            in_force = (blocks.c.id == id, blocks.c.lifted_us == 0)
            row = connection.execute(select(blocks).where(*in_force)).mappings().first()
            if row is None:
                raise NoSuchBlock(f"block {id}: there is none in force")
            connection.execute(update(blocks).where(*in_force).values(values))
            return rows.block_of(row)

    def blocks(self) -> list[Block]:
        """Return the blocks that are in force, the newest first."""
        wanted = select(blocks).where(blocks.c.lifted_us == 0)
        with self._database.reading() as connection:
            found = connection.execute(wanted.order_by(blocks.c.at_us.desc(), blocks.c.id.desc()))
            return [rows.block_of(row) for row in found.mappings()]

    # --- live sessions

    def publish(self, gateway: str, sessions: Sequence[Live]) -> None:
        """Let all see the sessions that this gateway has open, which are these and no others.

        Only what came or went is written. Orders to end a session that went are done.
        """
        now = {session.session_id: rows.live_values(session) for session in sessions}
        with self._database.reading() as connection:
            listed = select(live.c.session_id).where(live.c.gateway == gateway)
            before = set(connection.execute(listed).scalars())
        gone = before - now.keys()
        came = [values | {"gateway": gateway} for id, values in now.items() if id not in before]
        if not gone and not came:
            return
        with self._database.writing(is_lasting=False) as connection:
            if gone:
                connection.execute(
                    delete(live).where(live.c.gateway == gateway, live.c.session_id.in_(gone))
                )
            if came:
                connection.execute(insert(live), came)

    def live(self, *, gateway: str | None = None) -> list[Live]:
        """Return the sessions that are open, of all gateways or of one, the newest first."""
        wanted = select(live).order_by(live.c.opened_us.desc(), live.c.session_id.desc())
        if gateway is not None:
            wanted = wanted.where(live.c.gateway == gateway)
        with self._database.reading() as connection:
            return [rows.live_of(row) for row in connection.execute(wanted).mappings()]

    def end_session(self, session_id: UUID, *, by: str, reason: str, now_us: int) -> bool:
        """Order the gateway that has the session to end it; return whether it is open.

        The first order stands.
        """
        values = {
            "ending_us": rows.time("the time", now_us),
            "ending_by": rows.text("who ends it", by),
            "ending_reason": rows.text("the reason", reason),
        }
        with self._database.writing() as connection:
            ordered = connection.execute(
                update(live)
                .where(live.c.session_id == session_id, live.c.ending_us == 0)
                .values(values)
            )
            if ordered.rowcount:
                return True
            connection.rollback()
            is_open = select(live.c.session_id).where(live.c.session_id == session_id)
            return connection.execute(is_open).first() is not None

    def endings(self, gateway: str) -> list[tuple[UUID, str, str]]:
        """Return which of its sessions this gateway is to end, who says so, and why.

        An order is there until the gateway publishes its sessions without that one.
        """
        wanted = select(live.c.session_id, live.c.ending_by, live.c.ending_reason).where(
            live.c.gateway == gateway, live.c.ending_us > 0
        )
        with self._database.reading() as connection:
            found = connection.execute(wanted.order_by(live.c.ending_us, live.c.session_id))
            return [(row.session_id, row.ending_by, row.ending_reason) for row in found]

    # --- what is to be recorded

    def note(self, note: Note, *, now_us: int) -> None:
        """Keep what somebody is about to do until its gateway has recorded it."""
        values = rows.note_values(uuid7(now_us), note)
        with self._database.writing() as connection:
            connection.execute(insert(notes), values)

    def notes(self, gateway: str) -> dict[UUID, Note]:
        """Return what this gateway is to record, the oldest first."""
        wanted = select(notes).where(notes.c.gateway == gateway).order_by(notes.c.id)
        with self._database.reading() as connection:
            return {row["id"]: rows.note_of(row) for row in connection.execute(wanted).mappings()}

    def noted(self, ids: Iterable[UUID]) -> None:
        """Forget what is recorded."""
        with self._database.writing() as connection:
            connection.execute(delete(notes).where(notes.c.id.in_(list(ids))))

    # --- what is over

    def prune(self, before_us: int) -> None:
        """Drop what was over before then and serves nobody any more.

        A window stays until its token has expired too, a request until its outcome is recorded.
        """
        with self._database.writing() as connection:
            end_what_is_over(connection, before_us)
            connection.execute(
                delete(windows).where(
                    windows.c.ended_us > 0,
                    windows.c.ended_us < before_us,
                    windows.c.token_expires_us < before_us,
                )
            )
            used = select(windows.c.grant_id).where(windows.c.grant_id.is_not(None))
            connection.execute(
                delete(grants).where(
                    (grants.c.ends_us < before_us)
                    | ((grants.c.revoked_us > 0) & (grants.c.revoked_us < before_us)),
                    grants.c.is_recorded.is_(True),
                    grants.c.id.not_in(used),
                )
            )
            connection.execute(
                delete(requests).where(
                    requests.c.state != "pending",
                    requests.c.is_recorded.is_(True),
                    requests.c.decided_us < before_us,
                    requests.c.id.not_in(select(grants.c.request_id)),
                )
            )
            for table in (tickets, certificates):
                connection.execute(delete(table).where(table.c.expires_us < before_us))
            connection.execute(
                delete(blocks).where(blocks.c.lifted_us > 0, blocks.c.lifted_us < before_us)
            )
