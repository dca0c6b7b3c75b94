"""When what is known of a target's tables is read again, and what is in doubt until then.

No database: a test says what is read, and when. `test_masking.py` has one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from agentaudit.errors import ArchiveError
from agentaudit.gateway import postgres_tables
from agentaudit.gateway.postgres_tables import Tables
from agentaudit.masking.masks import Masks
from agentaudit.risk.catalogue import Catalogue, Relation
from agentaudit.risk.doubt import NO_DOUBT, Doubt

MASK = {"name": "ids", "action": "redact", "apply": ["archive"], "columns": ["*.people.ssn"]}
PEOPLE = Relation(1, "public", "people", "r", ((1, "id", "pg_catalog.int4"),))
ALTERED = Doubt(names=frozenset({"people"}))
DEADLINE_S = 20.0


class ReadTables(Tables):
    """Tables that are read when the test lets them be; `begun` has each reading that began."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        poller: Any = None
        access: Any = SimpleNamespace(settings=SimpleNamespace(name="orders", user="scram"))
        super().__init__(poller, access, Masks([MASK]), group.create_task, "scram")
        self.begun: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()

    async def _ask(self) -> dict[tuple[tuple[str, str], ...], Catalogue]:
        reading = asyncio.get_running_loop().create_future()
        self.begun.put_nowait(reading)
        await reading
        columns = tuple(self._masks.columns)
        return {columns: Catalogue([PEOPLE], columns=columns)}

    async def reading(self) -> asyncio.Future[None]:
        """Return the next reading as soon as it begins; its result lets it end."""
        return await asyncio.wait_for(self.begun.get(), DEADLINE_S)

    async def is_read(self) -> None:
        """Return once a reading that was let end has ended."""
        if self._reading is not None:
            await asyncio.shield(self._reading)
        await asyncio.sleep(0)


class Session:
    """All that is asked of a session."""

    is_idle = True


@pytest.fixture
async def tables(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ReadTables]:
    monkeypatch.setattr(postgres_tables, "AT_MOST_EVERY_S", 0.0)
    async with asyncio.TaskGroup() as group:
        tables = ReadTables(group)
        yield tables
        while not tables.begun.empty():
            tables.begun.get_nowait().set_result(None)
        if tables._timer is not None:
            tables._timer.cancel()


def session(tables: Tables, *, is_idle: bool = True) -> Any:
    """Return a session that has opened."""
    one: Any = Session()
    one.is_idle = is_idle
    tables.enter(one)
    return one


async def test_what_a_session_changed_that_has_left_last_is_read_for_who_comes_next(
    tables: ReadTables,
) -> None:
    one = session(tables)
    tables.note(one, ALTERED)
    tables.leave(one)
    (await tables.reading()).set_result(None)
    await tables.is_read()
    assert tables.doubt == NO_DOUBT


async def test_who_leaves_and_has_changed_nothing_has_nothing_read(tables: ReadTables) -> None:
    tables.leave(session(tables))
    assert tables._timer is None


async def test_what_waited_for_somebody_is_read_again_once_it_has_run(tables: ReadTables) -> None:
    one = session(tables, is_idle=False)
    tables.note(one, ALTERED)
    (await tables.reading()).set_result(None)
    await tables.is_read()
    assert tables.doubt == ALTERED
    one.is_idle = True
    tables.settle(one)
    (await tables.reading()).set_result(None)
    await tables.is_read()
    assert tables.doubt == NO_DOUBT


async def test_a_change_while_it_is_read_is_not_in_what_is_read(tables: ReadTables) -> None:
    one, other = session(tables), session(tables)
    tables.note(one, ALTERED)
    reading = await tables.reading()
    tables.note(one, ALTERED)  # the same words, and another change
    tables.leave(other)
    reading.set_result(None)
    await tables.is_read()
    assert tables.doubt == ALTERED
    (await tables.reading()).set_result(None)
    await tables.is_read()
    assert tables.doubt == NO_DOUBT


async def test_what_is_asked_for_while_it_is_read_is_read_again(tables: ReadTables) -> None:
    one = session(tables, is_idle=False)
    tables.note(one, ALTERED)
    reading = await tables.reading()
    one.is_idle = True
    tables.settle(one)
    # The timer that this set ends in the midst of the reading.
    asyncio.get_running_loop().call_later(0.2, reading.set_result, None)
    (await tables.reading()).set_result(None)
    await tables.is_read()
    assert tables.doubt == NO_DOUBT


async def test_what_cannot_be_read_stays_in_doubt_and_is_read_again(
    tables: ReadTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_tables, "AGAIN_IN_S", 0.01)
    one = session(tables)
    tables.note(one, ALTERED)
    (await tables.reading()).set_exception(ArchiveError("the target is away"))
    await tables.is_read()
    assert tables.doubt == ALTERED
    (await tables.reading()).set_result(None)
    await tables.is_read()
    assert tables.doubt == NO_DOUBT


async def test_what_a_server_still_runs_for_nobody_stays_in_doubt(tables: ReadTables) -> None:
    one = session(tables, is_idle=False)
    tables.note(one, ALTERED)
    tables.leave(one, is_running=True)
    other = session(tables)
    tables.note(other, Doubt(names=frozenset({"else"})))
    (await tables.reading()).set_result(None)
    await tables.is_read()
    assert tables.doubt == ALTERED


async def test_what_masked_values_went_into_stays_in_doubt(tables: ReadTables) -> None:
    copied = Doubt(names=frozenset({"copies"}))
    one = session(tables)
    tables.spoil(copied)
    tables.note(one, ALTERED)
    (await tables.reading()).set_result(None)
    await tables.is_read()
    assert tables.doubt == copied
