"""What a client may say in one go: pipelines of everything, each statement with its own number.

A script says what is sent, never what becomes of it: most of it fails somewhere, and only the
server knows where.
"""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from tests.gateway.raw import Raw, startup
from tests.protocols import wire

SETUP = (
    "CREATE TABLE copied (a int)",
    "CREATE FUNCTION note(n int) RETURNS int LANGUAGE plpgsql AS"
    " $$BEGIN RAISE LOG 'ran %', n; RETURN n; END$$",
    "CREATE FUNCTION fail(n int, code text) RETURNS int LANGUAGE plpgsql AS"
    " $$BEGIN RAISE EXCEPTION 'failed %', n USING ERRCODE = code; END$$",
    "GRANT ALL ON copied TO PUBLIC",
)
"""What the statements need, to be run once as superuser."""

NAMES = 3
"""So few statements and portals that scripts meet each other's."""

INT4, TEXT = 23, 25

PREPARED = "SELECT $1::int4, $2::text /* prepared {} */"


@dataclass(frozen=True, slots=True)
class Item:
    """A few messages of one kind; `choice` says which of its fates, `name` which name it uses.

    `end` is what follows: `sync`, `flush` or nothing.
    """

    kind: str
    choice: int = 0
    name: int = 0
    end: str = "sync"


def _run(n: int, choice: int, name: int) -> bytes:
    sql, values = (
        (f"SELECT {n}", []),
        (f"SELECT $1::text /* {n} */", [f"value {n}".encode()]),
        (f"SELECT $1::int4 /* {n} */", [struct.pack("!i", n)]),
        (f"SELECT nothing /* {n} */", []),  # fails in Parse
        (f"SELECT $1::int4 /* {n} */", [b"no number"]),  # fails in Bind
        (f"SELECT 1 / ($1::int4 - 1) /* {n} */", [b"1"]),  # fails in Execute
        (f"SELECT g FROM generate_series(1, {n % 7}) g /* {n} */", []),
        (f"SELECT $1::text, {n}", [None]),
    )[choice % 8]
    formats = [1] if choice % 8 == 2 else []
    bound = wire.bind("", "", values, formats)
    described = wire.describe_portal() if name else b""
    # A binary parameter of a type that nobody has named is recorded in hexadecimal digits.
    types = [INT4] if choice % 8 == 2 else []
    return wire.parse("", sql, *types) + bound + described + wire.execute()


def _prepare(n: int, choice: int, name: int) -> bytes:
    sql = f"SELECT nothing /* prepared {n} */" if choice % 4 == 3 else PREPARED.format(n)
    return wire.parse(f"s{name}", sql, INT4, TEXT) + (
        wire.describe_statement(f"s{name}") * (choice % 2)
    )


def _again(n: int, choice: int, name: int) -> bytes:
    first = struct.pack("!i", n) if choice % 2 else str(n).encode()
    return wire.bind("", f"s{name}", [first, b"again"], [choice % 2, 0]) + wire.execute()


def _portal(n: int, choice: int, name: int) -> bytes:
    """A portal that is left where it stands; rows may be left in it."""
    sql = f"SELECT g FROM generate_series(1, 5) g /* {n} */"
    return wire.parse("", sql) + wire.bind(f"p{name}", "") + wire.execute(f"p{name}", 2)


def _copy(n: int, choice: int, name: int) -> bytes:
    sql = f"COPY copied FROM STDIN /* {n} */"
    if choice % 5 == 4:
        return _extended(f"COPY (SELECT generate_series(1, 9)) TO STDOUT /* {n} */")
    # libpq sends its Sync before the data, and another one behind.
    return _extended(sql) + wire.SYNC * (choice % 2) + _copied(n, choice // 2)


def _copied(n: int, choice: int) -> bytes:
    row = b"no number\n" if choice % 3 == 1 else b"%d\n" % n
    ends = wire.copy_fail("given up") if choice % 3 == 2 else wire.COPY_DONE
    return wire.copy_data(row) * 2 + ends


def _extended(sql: str) -> bytes:
    return wire.parse("", sql) + wire.bind() + wire.execute()


def _transaction(n: int, choice: int, name: int) -> bytes:
    verb = ("BEGIN", "COMMIT", "ROLLBACK")[choice % 3]
    return _extended(f"{verb} /* {n} */") if name else wire.query(f"{verb} /* {n} */")


def _simple(n: int, choice: int, name: int) -> bytes:
    return wire.query(
        (
            f"SELECT {n}",
            f"SELECT nothing /* {n} */",
            f"SELEC {n}",
            f"SELECT g FROM generate_series(1, {n % 7}) g /* {n} */",
        )[choice % 4]
    )


def _several(n: int, choice: int, name: int) -> bytes:
    """Three statements in one query; which of them fails is in `choice`."""
    texts = [f"SELECT note({n * 10 + i})" for i in range(3)]
    if choice % 4 < 3:
        texts[choice % 4] = f"SELECT fail({n * 10 + choice % 4}, '22P04')"
    return wire.query("; ".join(texts))


_KINDS: dict[str, Callable[[int, int, int], bytes]] = {
    "run": _run,
    "prepare": _prepare,
    "again": _again,
    "close": lambda n, choice, name: wire.close_statement(f"s{name}"),
    "portal": _portal,
    "more": lambda n, choice, name: wire.execute(f"p{name}", 2),
    "close portal": lambda n, choice, name: wire.close_portal(f"p{name}"),
    "copy": _copy,
    "simple copy": lambda n, choice, name: (
        wire.query(f"COPY copied FROM STDIN /* {n} */") + _copied(n, choice)
    ),
    "transaction": _transaction,
    "simple": _simple,
    "several": _several,
}

items = st.builds(
    Item,
    kind=st.sampled_from(sorted(_KINDS)),
    choice=st.integers(0, 11),
    name=st.integers(0, NAMES - 1),
    end=st.sampled_from(["sync", "sync", "", "", "flush"]),
)
scripts = st.lists(items, min_size=1, max_size=25)


def random_script(chance: random.Random, length: int) -> list[Item]:
    """Return a script for where no property is looked for."""
    kinds, ends = sorted(_KINDS), ["sync", "sync", "", "", "flush"]
    return [
        Item(
            chance.choice(kinds), chance.randrange(12), chance.randrange(NAMES), chance.choice(ends)
        )
        for _ in range(length)
    ]


def frames(script: Sequence[Item], first: int = 1) -> list[bytes]:
    """Return what each item says, numbered from `first` on.

    A simple query has a Sync before it: in the middle of a pipeline it leaves a server of ours in a
    state that the next statement fails of, with XX000.
    """
    ends = {"sync": wire.SYNC, "flush": wire.FLUSH, "": b""}
    said: list[bytes] = []
    is_synced = True
    for n, item in enumerate(script, first):
        frame = _KINDS[item.kind](n, item.choice, item.name) + ends[item.end]
        is_simple = frame.startswith(b"Q")
        said.append(frame if is_synced or not is_simple else wire.SYNC + frame)
        is_synced = item.end == "sync" or is_simple
    return said


def executions(sent: bytes) -> int:
    """Return how many statements `sent` asks to have run."""
    count = at = 0
    while at < len(sent):
        (length,) = struct.unpack_from("!i", sent, at + 1)
        kind, body = sent[at : at + 1], sent[at + 5 : at + 1 + length]
        if kind == b"Q":
            count += len(body.split(b"; "))
        count += kind == b"E"
        at += 1 + length
    return count


class Speaker(Raw):
    """A client that says scripts; an empty query is its mark, for it is answered whatever failed.

    `heard` is all that came back, `key` what cancels it.
    """

    def __init__(self, gateway: object, token: str, application: str = "speaker") -> None:
        super().__init__(gateway)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.heard = b""
        self._at = 0
        self.say(startup(application_name=application) + wire.message("p", wire.string(token)))
        self.key = self.hear("K")
        self.hear("Z")

    def hear(self, kind: str) -> bytes:
        """Read up to the next message of a kind; return its body."""
        while True:
            body = self._next(kind)
            if body is not None:
                return body
            data = self.socket.recv(65536)
            assert data, "the gateway has hung up"
            self.heard += data

    def _next(self, kind: str) -> bytes | None:
        while len(self.heard) - self._at >= 5:
            (length,) = struct.unpack_from("!i", self.heard, self._at + 1)
            stop = self._at + 1 + length
            if stop > len(self.heard):
                return None
            seen, body = chr(self.heard[self._at]), self.heard[self._at + 5 : stop]
            self._at = stop
            if seen == kind:
                return body
        return None

    def wait(self) -> None:
        """Return when all that was said before has its answer, whatever state it has led to."""
        self.say(wire.SYNC + wire.query("/* mark */"))
        self.hear("I")
        self.hear("Z")

    def leave(self) -> None:
        self.say(wire.TERMINATE)
        self.hear_until_closed()
