"""What the agent is not to see does not depend on rules that only the archive has.

No sockets here: a conversation and its masks, with a target whose tables are known.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import pytest

from agentaudit.gateway.postgres_masks import PostgresMasks
from agentaudit.gateway.postgres_tables import Known
from agentaudit.masking.masks import Masks
from agentaudit.model import Side
from agentaudit.protocols import postgres_messages as messages
from agentaudit.risk.catalogue import Catalogue, Relation
from agentaudit.risk.doubt import NO_DOUBT, Doubt
from tests.gateway.test_postgres_masks import ALL, IDLE, TOKEN, Talk, row, starts_of_marks
from tests.protocols import wire

COLUMNS = ((1, "id", "pg_catalog.int4"), (2, "a", "pg_catalog.text"), (3, "b", "pg_catalog.text"))
TABLE = Relation(1, "public", "t", "r", COLUMNS)
ONLY_ARCHIVE = {"name": "first", "action": "redact", "apply": ["archive"], "columns": ["*.t.a"]}
BOTH = {
    "name": "second",
    "action": "redact",
    "apply": ["archive", "client"],
    "columns": ["*.t.b"],
}
SECRET = b"BBBsecret"
DONE = messages.frame(b"C", b"SELECT 1\0") + IDLE


class KnownTables:
    """A target's tables, known once and for all."""

    epoch = 0
    doubt = NO_DOUBT
    path = ("public",)

    def __init__(self, masks: Masks) -> None:
        self.told: list[str] = []
        self._masks = masks
        self.known = Known(masks, Catalogue([TABLE], columns=masks.columns))
        client = masks.for_client
        self._client = None
        if client is not None and client.columns:
            self._client = Known(client, Catalogue([TABLE], columns=client.columns))

    def of(self, masks: Masks) -> Known | None:
        return self.known if masks is self._masks else self._client

    def enter(self, session: PostgresMasks) -> None: ...

    def leave(self, session: PostgresMasks) -> None: ...

    def note(self, session: PostgresMasks, doubt: Doubt) -> None:
        self.told.append("changes")

    def settle(self, session: PostgresMasks) -> None:
        self.told.append("is settled")

    def spoil(self, spoilt: Doubt) -> None: ...

    def ask_again(self) -> None: ...


class TableTalk(Talk):
    """A session of a target with tables."""

    def __init__(self, *rules: Mapping[str, Any]) -> None:
        super().__init__()
        masks = Masks(rules)
        self.tables: Any = KnownTables(masks)
        self.masks = PostgresMasks(masks, self.conversation, self.tables)


def description(name: bytes, table: int, number: int, oid: int) -> bytes:
    column = name + b"\0" + struct.pack("!IhIhih", table, number, oid, -1, -1, 0)
    return messages.frame(b"T", struct.pack("!H", 1) + column)


@pytest.mark.parametrize("rules", [(ONLY_ARCHIVE, BOTH), (BOTH, ONLY_ARCHIVE)])
@pytest.mark.parametrize(
    ("statement", "column", "value"),
    [
        ("SELECT b FROM t", (b"b", 1, 3, 25), SECRET),
        ("SELECT a || b AS x FROM t", (b"x", 0, 0, 25), b"AAA" + SECRET),
        ("SELECT b || a AS x FROM t", (b"x", 0, 0, 25), SECRET + b"AAA"),
        ("SELECT row_to_json(t) AS x FROM t", (b"x", 0, 0, 114), b'{"b":"BBBsecret"}'),
        ("SELECT unknown_function() AS x", (b"x", 0, 0, 25), SECRET),
        ("TABLE nobody_knows", (b"x", 0, 0, 25), SECRET),
    ],
)
def test_an_agent_sees_no_column_that_is_hidden_from_it(
    rules: tuple[Mapping[str, Any], ...],
    statement: str,
    column: tuple[bytes, int, int, int],
    value: bytes,
) -> None:
    talk = TableTalk(*rules)
    talk.client(messages.query(statement))
    talk.target(description(*column), row(value), DONE)
    talk.finish()
    assert SECRET not in talk.passed[Side.TARGET]
    assert SECRET not in talk.everything()


@pytest.mark.parametrize("rules", [(ONLY_ARCHIVE, BOTH), (BOTH, ONLY_ARCHIVE)])
def test_nor_in_what_it_copies_nor_in_an_error(rules: tuple[Mapping[str, Any], ...]) -> None:
    talk = TableTalk(*rules)
    talk.client(messages.query("COPY t TO STDOUT"))
    talk.target(messages.frame(b"H", b"\0" + struct.pack("!hhhh", 3, 0, 0, 0)))
    talk.target(messages.frame(b"d", b"1\tAAA\tBBBsecret\n"), messages.frame(b"c"), DONE)
    talk.client(messages.query("INSERT INTO t VALUES (1, 'x', 'BBBsecret')"))
    detail = "Key (b)=(BBBsecret) already exists."
    talk.target(messages.error_response(code="23505", message="twice", detail=detail), IDLE)
    talk.finish()
    assert SECRET not in talk.passed[Side.TARGET]
    assert b"AAA" in talk.passed[Side.TARGET]
    assert SECRET not in talk.everything()
    assert b"AAA" not in talk.everything()


def test_what_only_the_archive_hides_the_agent_sees() -> None:
    talk = TableTalk(ONLY_ARCHIVE, BOTH)
    talk.client(messages.query("SELECT upper(a) AS x FROM t"))
    talk.target(description(b"x", 0, 0, 25), row(b"AAA"), DONE)
    assert talk.passed[Side.TARGET] == talk.said[Side.TARGET]
    assert b"AAA" not in talk.everything()


def test_spans_move_with_what_is_replaced_before_them() -> None:
    talk = TableTalk(ONLY_ARCHIVE, ALL)
    talk.client(messages.query("INSERT INTO t VALUES (1, 'x', 'y') RETURNING id"))
    notice = messages.notice_response(message="a is x")
    talk.target(description(b"id", 1, 1, 25), row(TOKEN), notice, DONE)
    assert starts_of_marks(talk) == [
        b"'[masked:first]",
        b"SNOTICE\0VNOTICE\0C00000\0M[masked:first]",  # all that it says
        b"[masked:github_token]",
    ]


def test_what_a_pipeline_changes_is_settled_once_its_sync_is_answered() -> None:
    talk = TableTalk(BOTH)
    change = wire.parse("", "CREATE OR REPLACE VIEW v AS SELECT b FROM t")
    talk.client(change + wire.bind() + wire.execute() + wire.FLUSH)
    talk.target(wire.PARSE_COMPLETE, wire.BIND_COMPLETE, messages.frame(b"C", b"CREATE VIEW\0"))
    assert talk.commands  # it is over, and yet nobody else sees what it did
    assert talk.tables.told == ["changes"]
    assert not talk.masks.is_idle
    talk.client(wire.SYNC)
    talk.target(IDLE)
    assert talk.tables.told == ["changes", "is settled"]


def test_what_a_transaction_changes_is_settled_once_it_is_over() -> None:
    talk = TableTalk(BOTH)
    in_transaction = messages.ready_for_query(b"T")
    for text, tag, ready in (
        ("BEGIN", b"BEGIN\0", in_transaction),
        ("ALTER TABLE t ADD COLUMN c text", b"ALTER TABLE\0", in_transaction),
        ("SELECT 1", b"SELECT 0\0", in_transaction),
    ):
        talk.client(messages.query(text))
        talk.target(messages.frame(b"C", tag) + ready)
    assert talk.tables.told == ["changes"]
    talk.client(messages.query("ROLLBACK"))
    talk.target(messages.frame(b"C", b"ROLLBACK\0") + IDLE)
    assert talk.tables.told == ["changes", "is settled"]
