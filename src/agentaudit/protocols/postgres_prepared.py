"""What the names of a PostgreSQL connection stand for: prepared statements and portals.

An Execute names a portal, a portal a statement, and only the Parse had the text. The client may
be many messages ahead of the server, so a name means what the client will find there if all goes
well; where the server then refuses a Parse, a Bind or a Close, the name means again what it meant
before. Up to the next Sync that cannot mislead, because the server skips what relied on it. Behind
a Sync it could: a name whose meaning is not settled by then is waited for (`is_unsettled`), or an
agent could have one statement recorded and another one run.

What the memory's bound pushes out is forgotten, not refused: an Execute of it reads as
`EXECUTE "name"`, which nothing takes for a harmless statement.

The server looks at the first 63 bytes of a name, and in its own encoding. So two ASCII names may
be one here too, and of others, which two may be one is not known: `is_doubtful`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from agentaudit.protocols.postgres_messages import RowShape

MAX_TEXT_BYTES: Final = 64 * 1024
"""Of a statement in a command's row, and of its parameters together."""

MAX_PREPARED_BYTES: Final = 64 * 1024 * 1024
"""Texts of prepared statements that are remembered for one connection."""

MAX_PORTALS: Final = 10_000
"""Open portals that are remembered for one connection; a driver uses one."""

MAX_NAME_BYTES: Final = 63
"""As much of a name as the server looks at (NAMEDATALEN, src/include/pg_config_manual.h)."""

NO_SHAPE: Final = RowShape()

_OVERHEAD_BYTES: Final = 512
_NAME: Final = r'(?:"((?:[^"]|"")+)"|(\w+))'
_DEALLOCATE: Final = re.compile(
    rf"\s*DEALLOCATE\s+(?:PREPARE\s+)?{_NAME}\s*;?\s*\Z", re.IGNORECASE | re.ASCII
)
_PREPARE: Final = re.compile(rf"\s*PREPARE\s+{_NAME}[\s(]", re.IGNORECASE | re.ASCII)
_CLOSE: Final = re.compile(rf"\s*CLOSE\s+{_NAME}\s*;?\s*\Z", re.IGNORECASE | re.ASCII)
_DECLARE: Final = re.compile(rf"\s*DECLARE\s+{_NAME}\s", re.IGNORECASE | re.ASCII)
_FIRST: Final = frozenset(" \t\r\n\v\f/-(;dDcCpP")
_FORGETS: Final = re.compile(
    r"\b(?:deallocate|discard|prepare|close|declare)\b", re.IGNORECASE | re.ASCII
)


@dataclass(slots=True, eq=False)
class Prepared:
    """A statement under a name; `text` is its first 64 KiB, `types` and `shape` as far as known.

    `older` is what the name stood for before, until the server has agreed to this one; `cycle`
    counts the Syncs before its Parse. `is_ambiguous` is that of its executions. `judged` is for who
    judges its text, once; what begins with `masked` is for who masks it, and `described` and what
    begins with `plan` for who masks its columns.
    """

    name: bytes
    sql: str
    text: str
    types: tuple[int, ...] = ()
    cycle: int = 0
    shape: RowShape = NO_SHAPE
    older: Prepared | None = None
    size: int = 0
    is_agreed: bool = False
    is_void: bool = False
    is_closed: bool = False
    is_ambiguous: bool = False
    judged: Any = None
    masked: Any = None
    masked_in: int = -1
    described: tuple[str, ...] = ()
    plan: Any = None
    planned_in: int = -1
    planned_shape: RowShape | None = None
    planned_formats: tuple[int, ...] = ()


@dataclass(slots=True, eq=False)
class Portal:
    """A statement bound to parameters; `params` is None where they are too long to keep.

    `cycle` counts the Syncs before it, and tells which idle state of the server ends it. `older`
    is what its name stood for before, until the server has agreed to this one. `approved` is the
    request by which people let it run: each further Execute of it only goes on.
    """

    name: bytes

    statement: Prepared
    params: tuple[str | None, ...] | None
    result_formats: tuple[int, ...]
    cycle: int
    shape: RowShape = NO_SHAPE
    sha256: tuple[str, ...] = ()
    older: Portal | None = None
    is_agreed: bool = False
    is_void: bool = False
    is_closed: bool = False
    is_doubtful: bool = False
    approved: UUID | None = None
    has_binary: bool = False
    masked: tuple[str | None, ...] | None = None


def may_rename(sql: str) -> bool:
    """Say whether a statement may, by its own words, change what a name stands for.

    What a function or a DO block does is not told by its words.
    """
    may_be_several = 0 <= sql.find(";") < len(sql) - 1
    return (sql[:1] in _FIRST or may_be_several) and _FORGETS.search(sql) is not None


def renamed(sql: str) -> bytes | None:
    """Return the only name that such a statement is about; None where it may be any."""
    found = _DEALLOCATE.match(sql) or _CLOSE.match(sql)
    if found is None and ";" not in sql:
        found = _PREPARE.match(sql) or _DECLARE.match(sql)
    if found is not None and (found[2] or "").lower() == "all":
        return None
    return _sql_name(found)


def cut_text(sql: str) -> str:
    """Return the beginning of `sql` that fits into a command's row, cut at a character."""
    # At most four bytes a character: most texts need no look at their bytes.
    if len(sql) * 4 <= MAX_TEXT_BYTES:
        return sql
    encoded = sql.encode("utf-8", "replace")
    if len(encoded) <= MAX_TEXT_BYTES:
        return sql
    return encoded[:MAX_TEXT_BYTES].decode("utf-8", "ignore")


def quoted(name: str) -> str:
    """Return an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


class Names:
    """The statements and portals of one connection, as the client knows them."""

    def __init__(self) -> None:
        self._statements: dict[bytes, Prepared] = {}
        self._portals: dict[bytes, Portal] = {}
        self._bytes = 0
        self.is_doubtful = False
        """Whether a name may stand for something else than we know."""

    # Statements.

    def prepare(self, name: bytes, sql: str, types: tuple[int, ...], cycle: int) -> Prepared:
        """Let `name` stand for `sql` from here on."""
        name = self._looked_at(name)
        statement = Prepared(
            name,
            sql,
            cut_text(sql),
            types,
            cycle,
            older=self._known(name),
            size=len(sql) + _OVERHEAD_BYTES,
        )
        self._bytes += statement.size
        # Put last, so that eviction finds the oldest first.
        self._statements.pop(name, None)
        self._statements[name] = statement
        if self._bytes > MAX_PREPARED_BYTES:
            self._evict()
        return statement

    def close(self, name: bytes, cycle: int) -> Prepared:
        """Let `name` stand for nothing from here on."""
        name = self._looked_at(name)
        mark = Prepared(name, "", "", cycle=cycle, older=self._known(name), is_closed=True)
        self._statements[name] = mark
        return mark

    def agree(self, statement: Prepared) -> None:
        """The server has done what the Parse or Close of `statement` asked."""
        statement.is_agreed = True
        self._forget_older(statement)
        if statement.is_closed and self._statements.get(statement.name) is statement:
            del self._statements[statement.name]

    def void(self, statement: Prepared) -> None:
        """The server has refused, or skipped, the Parse or Close of `statement`."""
        statement.is_void = True

    def statement(self, name: bytes, codec: str) -> Prepared:
        """Return what a Bind or Describe of `name` is about."""
        known = self._known(name[:MAX_NAME_BYTES])
        if known is not None and not known.is_closed:
            return known
        # PREPARE makes statements that a Bind may name, and only the server knows them all.
        sql = f"EXECUTE {quoted(name.decode(codec, 'replace'))}"
        return Prepared(name, sql, cut_text(sql))

    def is_unsettled(self, name: bytes, cycle: int) -> bool:
        """Say whether what `name` means in `cycle` depends on an answer still owed."""
        statement = self._known(name[:MAX_NAME_BYTES])
        return statement is not None and not statement.is_agreed and statement.cycle < cycle

    def deallocate(self, sql: str) -> None:
        """Forget what a DEALLOCATE took away that has succeeded."""
        self._forget_statement(_sql_name(_DEALLOCATE.match(sql)))

    def prepared_by_sql(self, sql: str) -> None:
        """Forget whatever had the name that an SQL PREPARE gave, which has succeeded."""
        self._forget_statement(_sql_name(_PREPARE.match(sql)))

    def _forget_statement(self, name: bytes | None) -> None:
        if name is None:
            self.deallocate_all()
            return
        statement = self._known(name)
        if statement is not None and statement.is_agreed:
            self._drop(statement)

    def deallocate_all(self) -> None:
        """Forget all statements that the server knew: DEALLOCATE ALL or DISCARD ALL has succeeded.

        Those that the client has sent since stay.
        """
        for statement in list(self._statements.values()):
            if statement.is_agreed:
                self._drop(statement)
            else:
                self._forget_older(statement)

    def _known(self, name: bytes) -> Prepared | None:
        statement = self._statements.get(name)
        while statement is not None and statement.is_void:
            self._bytes -= statement.size
            statement = statement.older
            if statement is None:
                del self._statements[name]
            else:
                self._statements[name] = statement
        return statement

    def _forget_older(self, statement: Prepared) -> None:
        older = statement.older
        statement.older = None
        while older is not None:
            self._bytes -= older.size
            older = older.older

    def _drop(self, statement: Prepared) -> None:
        del self._statements[statement.name]
        self._forget_older(statement)
        self._bytes -= statement.size

    def _evict(self) -> None:
        for statement in list(self._statements.values())[:-1]:
            if self._bytes <= MAX_PREPARED_BYTES // 2:
                return
            self._drop(statement)

    # Portals.

    def bind(self, portal: Portal) -> None:
        """Let its name stand for `portal` from here on."""
        portals = self._portals
        name = portal.name
        if name:
            name = portal.name = self._looked_at(name)
        portal.older = self._bound(name)
        if len(portals) >= MAX_PORTALS and name not in portals:
            del portals[next(iter(portals))]
            self.is_doubtful = True
        portals[name] = portal

    def agree_portal(self, portal: Portal) -> None:
        """The server has done what the Bind or Close of `portal` asked."""
        portal.is_agreed = True
        portal.older = None
        if portal.is_closed and self._portals.get(portal.name) is portal:
            del self._portals[portal.name]

    def portal(self, name: bytes) -> Portal | None:
        """Return what `name` stands for, None for a cursor that DECLARE made."""
        portal = self._bound(name[:MAX_NAME_BYTES])
        return None if portal is None or portal.is_closed else portal

    def fetched(self, cursor: str) -> tuple[Prepared, ...] | None:
        """Return the statements that an SQL FETCH from `cursor` may run, if a client bound it.

        Empty for a cursor that DECLARE made; None where that is not known.
        """
        if self.is_doubtful:
            return None
        statements: list[Prepared] = []
        portal = self._bound(cursor.encode())
        while portal is not None:
            if portal.is_doubtful:
                return None
            statements.append(portal.statement)
            portal = portal.older
        return tuple(statements)

    def is_unsettled_portal(self, name: bytes, cycle: int) -> bool:
        """As `is_unsettled`, for a portal."""
        portal = self._bound(name[:MAX_NAME_BYTES])
        return portal is not None and not portal.is_agreed and portal.cycle < cycle

    def close_portal(self, name: bytes, cycle: int) -> Portal | None:
        """Let `name` stand for nothing from here on; None if it does not stand for a portal."""
        portal = self.portal(self._looked_at(name))
        if portal is None:
            return None
        mark = Portal(portal.name, portal.statement, None, (), cycle, older=portal, is_closed=True)
        self._portals[portal.name] = mark
        return mark

    def close_cursor(self, sql: str) -> None:
        """Forget the portal that an SQL CLOSE took away, which has succeeded."""
        self._forget_portal(_sql_name(_CLOSE.match(sql)))

    def declared(self, sql: str) -> None:
        """Forget whatever had the name of a cursor that DECLARE has made.

        It would have failed, were there still a portal of that name: a `ROLLBACK TO` takes away
        those of its subtransaction, without a word.
        """
        self._forget_portal(_sql_name(_DECLARE.match(sql)))

    def _forget_portal(self, name: bytes | None) -> None:
        if name is None:
            for portal in self._portals.values():
                portal.is_doubtful = portal.is_doubtful or bool(portal.name)
            return
        bound = self._bound(name)
        if bound is not None and bound.is_agreed:
            del self._portals[bound.name]

    def close_all(self) -> None:
        """Forget all portals that the server knew: CLOSE ALL or DISCARD ALL has succeeded."""
        portals = self._portals
        for portal in list(portals.values()):
            if portal.is_agreed:
                del portals[portal.name]

    def end_transaction(self, cycle: int) -> None:
        """Forget the portals that ended when the server answered Sync number `cycle` as idle."""
        portals = self._portals
        ended = []
        for name, portal in portals.items():
            # Not those that the client has bound since: it may be a few Syncs ahead.
            if portal.cycle < cycle:
                ended.append(name)
        for name in ended:
            del portals[name]

    def _bound(self, name: bytes) -> Portal | None:
        portals = self._portals
        portal = portals.get(name)
        while portal is not None and portal.is_void:
            portal = portal.older
            if portal is None:
                del portals[name]
            else:
                portals[name] = portal
        return portal

    def _looked_at(self, name: bytes) -> bytes:
        """Return what the server looks at of a name that the client gives or takes."""
        if not name.isascii():
            self.is_doubtful = True
        return name[:MAX_NAME_BYTES]


def _sql_name(found: re.Match[str] | None) -> bytes | None:
    """Return the identifier that is one of the groups of a match; None where it is not sure.

    The server cuts a name at a character, in its own encoding.
    """
    if found is None:
        return None
    name = found[1].replace('""', '"') if found[1] else found[2].lower()
    return name.encode()[:MAX_NAME_BYTES] if name.isascii() else None
