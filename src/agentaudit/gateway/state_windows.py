"""Access windows: what a token may use of a target, and for how long; and what stands for tokens.

A window ends by the hour or because nobody is in it any more, and no process need be there for
that: its row says since when it has been idle, so that whoever looks finds it over, from the same
moment on, and notes it. A row stays until its token has expired: by it a token is known as used.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Connection,
    RowMapping,
    Table,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    select,
    update,
)

from agentaudit.archive.ids import uuid7
from agentaudit.errors import TooManyPending, WindowClosed
from agentaudit.gateway import state_rows as rows
from agentaudit.gateway.state_database import Part
from agentaudit.gateway.state_requests import in_force
from agentaudit.gateway.state_rows import SshCertificate, Ticket, Window
from agentaudit.gateway.state_tables import (
    certificates,
    grants,
    live,
    tickets,
    window_connections,
    windows,
)
from agentaudit.model import Actor

_ENDED = {
    "window_end": "its time is over",
    "revoked": "it was revoked",
    "linger": "its last connection ended a while ago",
}


class Windows(Part):
    """Who is in, by which token, and what tickets and certificates stand for; a part of `State`."""

    def enter(
        self,
        *,
        issuer: str,
        subject: str,
        token: str,
        token_expires_us: int,
        target: str,
        grant_id: UUID | None,
        gateway: str,
        ends_us: int,
        linger_us: int,
        is_single: bool,
        now_us: int,
    ) -> Window:
        """Count a connection of `gateway` in the window of this token and target; return that.

        A window is opened where there is none, to end at `ends_us` at the latest, with its grant,
        or `linger_us` after its last connection. What holds for a connection is the grant of the
        window that comes back: one window has one grant, the one that opened it. After a
        `StateError` the connection may be counted all the same, which keeps the window from
        lingering out, and not from `ends_us`.

        Raises:
            WindowClosed: the token had its window here, and it is single or was granted; or the
                grant is not in force.
        """
        values: dict[str, Any] = {
            "id": uuid7(now_us),
            "issuer": rows.name("the token's issuer", issuer),
            "subject": rows.name("the token's subject", subject),
            "token": rows.name("the token's id", token),
            "token_expires_us": rows.time("the token's end", token_expires_us),
            "target": rows.name("the target", target),
            "grant_id": grant_id,
            "opened_us": now_us,
            "ends_us": rows.time("the window's end", ends_us),
            "linger_us": rows.time("the linger", linger_us),
            "idle_since_us": 0,
            "ended_us": 0,
            "end_reason": "",
        }
        rows.name("the gateway", gateway)
        with self._database.writing() as connection:
            last = _last(connection, issuer, token, target, now_us)
            reason = last["over"] or last["end_reason"] if last is not None else ""
            if last is not None and not reason:
                changes: dict[str, Any] = {}
                if last["idle_since_us"]:
                    changes = {"idle_since_us": 0}
                if last["grant_id"] is None and grant_id is not None:
                    # It was opened where nobody asked for grants. Now its end is that of this one.
                    values["ends_us"] = last["ends_us"]
                    _end_with_grant(connection, values, now_us)
                    changes |= {"grant_id": grant_id, "ends_us": values["ends_us"]}
                if changes:
                    this = windows.c.id == last["id"]
                    connection.execute(update(windows).where(this).values(changes))
                place = {"in_window": last["id"], "of_gateway": gateway}
                if not connection.execute(_ONE_MORE, place).rowcount:
                    connection.execute(_FIRST, place)
                return rows.window_of({**last, **changes})
            if last is not None and (is_single or grant_id is not None or last["grant_id"]):
                raise WindowClosed(
                    f"this token's access is over: {_ENDED[reason]}",
                    reason=reason,
                    hint="access that is asked for anew needs a new token",
                )
            if last is not None and not last["ended_us"]:
                end_what_is_over(connection, now_us, windows.c.id == last["id"])
            if grant_id is not None:
                _end_with_grant(connection, values, now_us)
            if values["ends_us"] <= now_us:
                raise WindowClosed("access is over: its time is over", reason="window_end")
            connection.execute(insert(windows), values)
            connection.execute(_FIRST, {"in_window": values["id"], "of_gateway": gateway})
            return rows.window_of(values)

    def leave(self, window_id: UUID, gateway: str, now_us: int) -> None:
        """Count a connection out; the last one leaves the window to its linger."""
        place = {"in_window": window_id, "of_gateway": gateway}
        # After a power cut its gateway is forgotten; nothing else can make this come undone.
        with self._database.writing(is_lasting=False) as connection:
            # A count is never 0: the table would keep a row of every gateway that ever was.
            if connection.execute(_LAST_ONE, place).rowcount:
                _note_idle(connection, now_us, windows.c.id == window_id)
            else:
                connection.execute(_ONE_LESS, place)

    def window(self, id: UUID) -> Window | None:
        """Return the window, or None where there is none of this id."""
        with self._database.reading() as connection:
            row = connection.execute(select(windows).where(windows.c.id == id)).mappings().first()
            return rows.window_of(row) if row else None

    def used(self, issuer: str, token: str, target: str) -> Window | None:
        """Return the last window that this token has had on this target, or None."""
        with self._database.reading() as connection:
            row = _last(connection, issuer, token, target, 0)
            return rows.window_of(row) if row else None

    def ended_windows(self, ids: Iterable[UUID], now_us: int) -> dict[UUID, str]:
        """Return those of `ids` that are over, and why, and note it for all to see.

        A window that is not there any more is over too: `forgotten`.
        """
        wanted = set(ids)
        if not wanted:
            return {}
        listed = windows.c.id.in_(wanted)
        known = select(
            windows.c.id, windows.c.ended_us, windows.c.end_reason, _over(now_us).label("over")
        ).where(listed)
        with self._database.reading() as connection:
            found = connection.execute(known).all()
        if any(row.over and not row.ended_us for row in found):
            with self._database.writing() as connection:
                end_what_is_over(connection, now_us, listed)
                found = connection.execute(known).all()
        over = dict.fromkeys(wanted - {row.id for row in found}, "forgotten")
        return over | {row.id: row.end_reason for row in found if row.ended_us}

    def forget_gateway(self, gateway: str, now_us: int) -> None:
        """Drop the connections and sessions of a gateway that has no more: it starts, or has ended.

        What one that never comes back had open counts until its windows end by themselves.
        """
        counted = window_connections.c.gateway == gateway
        with self._database.writing() as connection:
            left = select(window_connections.c.window_id).where(counted)
            ids = list(connection.execute(left).scalars())
            connection.execute(delete(window_connections).where(counted))
            connection.execute(delete(live).where(live.c.gateway == gateway))
            _note_idle(connection, now_us, windows.c.id.in_(ids))

    # --- tickets

    def add_ticket(self, ticket: Ticket, *, most_per_actor: int, now_us: int) -> None:
        """Keep `ticket`; those that have expired, of anybody, go.

        Raises:
            TooManyPending: its actor has `most_per_actor` of them.
        """
        values = rows.ticket_values(ticket)
        with self._database.writing() as connection:
            _require_fewer(connection, tickets, ticket.actor, most_per_actor, now_us, "tickets")
            connection.execute(insert(tickets), values)

    def take_ticket(self, secret_hash: bytes, now_us: int) -> Ticket | None:
        """Return the ticket whose secret has this SHA-256, which nobody gets a second time."""
        ticket = self.ticket(secret_hash, now_us)
        if ticket is None:
            return None
        with self._database.writing() as connection:
            gone = connection.execute(delete(tickets).where(tickets.c.secret_hash == secret_hash))
            return ticket if gone.rowcount else None

    def ticket(self, secret_hash: bytes, now_us: int) -> Ticket | None:
        """Return the ticket whose secret has this SHA-256, unless it or its token has expired."""
        wanted = select(tickets).where(
            tickets.c.secret_hash == secret_hash,
            tickets.c.expires_us > now_us,
            tickets.c.token_expires_us > now_us,
        )
        with self._database.reading() as connection:
            row = connection.execute(wanted).mappings().first()
            return rows.ticket_of(row) if row else None

    # --- certificates

    def add_certificate(
        self, certificate: SshCertificate, *, most_per_actor: int, now_us: int
    ) -> None:
        """Keep what stands behind `certificate`; what has expired, of anybody, goes.

        Raises:
            TooManyPending: its actor has `most_per_actor` of them.
        """
        values = rows.certificate_values(certificate)
        actor = certificate.actor
        with self._database.writing() as connection:
            _require_fewer(connection, certificates, actor, most_per_actor, now_us, "certificates")
            connection.execute(insert(certificates), values)

    def certificate(self, serial: int, digest: bytes, now_us: int) -> SshCertificate | None:
        """Return what stands behind a certificate, unless it or its token has expired."""
        wanted = select(certificates).where(
            certificates.c.serial == serial,
            certificates.c.digest == digest,
            certificates.c.expires_us > now_us,
            certificates.c.token_expires_us > now_us,
        )
        with self._database.reading() as connection:
            row = connection.execute(wanted).mappings().first()
            return rows.certificate_of(row) if row else None


def _require_fewer(
    connection: Connection, table: Table, actor: Actor, most: int, now_us: int, what: str
) -> None:
    """Drop what has expired, of anybody, and refuse one more where `actor` has `most` of them."""
    connection.execute(delete(table).where(table.c.expires_us <= now_us))
    count = connection.execute(
        select(func.count())
        .select_from(table)
        .where(table.c.issuer == actor.issuer, table.c.subject == actor.subject)
    ).scalar_one()
    if count >= most:
        raise TooManyPending(
            f"{count} {what} of this actor are valid, at most {most} may",
            hint="use one of them, or wait until they expire",
        )


def _last(
    connection: Connection, issuer: str, token: str, target: str, now_us: int
) -> RowMapping | None:
    wanted = {"of_issuer": issuer, "of_token": token, "of_target": target, "now_us": now_us}
    return connection.execute(_LAST, wanted).mappings().first()


def _end_with_grant(connection: Connection, values: dict[str, Any], now_us: int) -> None:
    """Let the window of `values` end with its grant, looked up under the writer's lock.

    It may have been revoked since the caller looked, and then nothing would end the window.
    """
    granted = grants.c.id == values["grant_id"]
    of_actor = (grants.c.issuer == values["issuer"]) & (grants.c.subject == values["subject"])
    ends_us = connection.execute(
        select(grants.c.ends_us).where(
            granted, of_actor, grants.c.target == values["target"], in_force(now_us)
        )
    ).scalar()
    if ends_us is None:
        raise WindowClosed("the grant is not in force", reason="revoked")
    values["ends_us"] = min(values["ends_us"], ends_us)


def _note_idle(connection: Connection, now_us: int, which: ColumnElement[bool]) -> None:
    nobody = ~exists().where(window_connections.c.window_id == windows.c.id)
    connection.execute(
        update(windows)
        .where(which, windows.c.idle_since_us == 0, nobody)
        .values(idle_since_us=now_us)
    )


def _lingered(now_us: int | BindParameter[int]) -> ColumnElement[bool]:
    left_us = windows.c.idle_since_us + windows.c.linger_us
    return (windows.c.idle_since_us > 0) & (left_us <= now_us) & (left_us < windows.c.ends_us)


def _over(now_us: int | BindParameter[int]) -> ColumnElement[str]:
    """Return how a window came to be over that nobody has ended: what came first, or ''."""
    return case(
        (_lingered(now_us), "linger"), (windows.c.ends_us <= now_us, "window_end"), else_=""
    )


def end_what_is_over(connection: Connection, now_us: int, *which: ColumnElement[bool]) -> None:
    """Note of the open windows that are over when that was, and how it came."""
    when_us = case(
        (_lingered(now_us), windows.c.idle_since_us + windows.c.linger_us),
        else_=windows.c.ends_us,
    )
    connection.execute(
        update(windows)
        .where(windows.c.ended_us == 0, _over(now_us) != "", *which)
        .values(ended_us=when_us, end_reason=_over(now_us))
    )


# Made once: to make one of these for each connection costs as much as the database's part of it.
_NEWEST: Final = (windows.c.ended_us == 0, windows.c.opened_us, windows.c.id)
_LAST: Final = (
    select(windows, _over(bindparam("now_us", type_=BigInteger)).label("over"))
    .where(
        windows.c.issuer == bindparam("of_issuer"),
        windows.c.token == bindparam("of_token"),
        windows.c.target == bindparam("of_target"),
    )
    .order_by(*(each.desc() for each in _NEWEST))
    .limit(1)
)
_CONNECTIONS: Final = window_connections.c.connections
_PLACE: Final = (
    window_connections.c.window_id == bindparam("in_window"),
    window_connections.c.gateway == bindparam("of_gateway"),
)
_FIRST: Final = insert(window_connections).values(
    window_id=bindparam("in_window"), gateway=bindparam("of_gateway"), connections=1
)
_ONE_MORE: Final = update(window_connections).where(*_PLACE).values(connections=_CONNECTIONS + 1)
_ONE_LESS: Final = update(window_connections).where(*_PLACE).values(connections=_CONNECTIONS - 1)
_LAST_ONE: Final = delete(window_connections).where(*_PLACE, _CONNECTIONS == 1)
