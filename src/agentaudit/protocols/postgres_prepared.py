"""What the names of a PostgreSQL connection stand for: prepared statements and portals.

An Execute names a portal, a portal a statement, and only the Parse had the text. The client may
be many messages ahead of the server, so a name means what the client will find there if all goes
well; where the server then refuses a Parse, a Bind or a Close, the name means again what it meant
before. Up to the next Sync that cannot mislead, because the server skips what relied on it. Behind
a Sync it could: a name whose meaning is not settled by then is waited for (`is_unsettled`), or an
agent could have one statement recorded and another one run.

What the memory's bound pushes out is forgotten, not refused: an Execute of it reads as
`EXECUTE "name"`, which nothing takes for a harmless statement.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from agentaudit.protocols.postgres_messages import RowShape

MAX_TEXT_BYTES: Final = 64 * 1024
"""Of a statement in a command's row, and of its parameters together."""

MAX_PREPARED_BYTES: Final = 64 * 1024 * 1024
"""Texts of prepared statements that are remembered for one connection."""

MAX_PORTALS: Final = 10_000
"""Open portals that are remembered for one connection; a driver uses one."""

NO_SHAPE: Final = RowShape()

_OVERHEAD_BYTES: Final = 512
_DEALLOCATE: Final = re.compile(
    r'\s*DEALLOCATE\s+(?:PREPARE\s+)?(?:"((?:[^"]|"")+)"|(\w+))\s*;?\s*\Z', re.IGNORECASE
)


@dataclass(slots=True, eq=False)
class Prepared:
    """A statement under a name; `text` is its first 64 KiB, `types` and `shape` as far as known.

    `older` is what the name stood for before, until the server has agreed to this one; `cycle`
    counts the Syncs before its Parse. `judged` is for who judges its text, once; `is_ambiguous` is
    that of its executions.
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


@dataclass(slots=True, eq=False)
class Portal:
    """A statement bound to parameters; `params` is None where they are too long to keep.

    `cycle` counts the Syncs before it, and tells which idle state of the server ends it. `older`
    is what its name stood for before, until the server has agreed to this one.
    """

    statement: Prepared
    params: tuple[str | None, ...] | None
    result_formats: tuple[int, ...]
    cycle: int
    shape: RowShape = NO_SHAPE
    sha256: tuple[str, ...] = ()
    older: Portal | None = None
    is_agreed: bool = False
    is_void: bool = False


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

    # Statements.

    def prepare(self, name: bytes, sql: str, types: tuple[int, ...], cycle: int) -> Prepared:
        """Let `name` stand for `sql` from here on."""
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
        known = self._known(name)
        if known is not None and not known.is_closed:
            return known
        # PREPARE makes statements that a Bind may name, and only the server knows them all.
        sql = f"EXECUTE {quoted(name.decode(codec, 'replace'))}"
        return Prepared(name, sql, cut_text(sql))

    def is_unsettled(self, name: bytes, cycle: int) -> bool:
        """Say whether what `name` means in `cycle` depends on an answer still owed."""
        statement = self._known(name)
        return statement is not None and not statement.is_agreed and statement.cycle < cycle

    def deallocate(self, sql: str) -> None:
        """Forget what a DEALLOCATE took away that has succeeded."""
        found = _DEALLOCATE.match(sql)
        if found is None:
            self.deallocate_all()
            return
        name = found[1].replace('""', '"') if found[1] else found[2].lower()
        statement = self._known(name.encode())
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

    def bind(self, name: bytes, portal: Portal) -> None:
        """Let `name` stand for `portal` from here on."""
        portals = self._portals
        portal.older = self.portal(name)
        if len(portals) >= MAX_PORTALS and name not in portals:
            del portals[next(iter(portals))]
        portals[name] = portal

    def agree_portal(self, portal: Portal) -> None:
        """The server has bound `portal`."""
        portal.is_agreed = True
        portal.older = None

    def portal(self, name: bytes) -> Portal | None:
        """Return what `name` stands for, None for a cursor that DECLARE made."""
        portals = self._portals
        portal = portals.get(name)
        while portal is not None and portal.is_void:
            portal = portal.older
            if portal is None:
                del portals[name]
            else:
                portals[name] = portal
        return portal

    def is_unsettled_portal(self, name: bytes, cycle: int) -> bool:
        """As `is_unsettled`, for a portal."""
        portal = self.portal(name)
        return portal is not None and not portal.is_agreed and portal.cycle < cycle

    def close_portal(self, name: bytes) -> None:
        """Let `name` stand for nothing."""
        self._portals.pop(name, None)

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
