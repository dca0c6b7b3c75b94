"""An index's life: a sketch first, then all; growth; several threads; and nothing left behind."""

from __future__ import annotations

import gc
import json
import os
import stat
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import agentaudit as aa
from agentaudit.analysis.explore import Filter, Index, Rebuilt, Superseded
from agentaudit.analysis.explore.answers import Answers, Turn
from agentaudit.analysis.explore.built import private_folder
from agentaudit.analysis.explore.sketch import outline
from agentaudit.archive.snapshot import Snapshot
from agentaudit.errors import ArchiveError, QuestionError
from tests.analysis.explore import made
from tests.analysis.explore.made import BEGAN_US, GRAVITY, HOUR_US, MadeLook
from tests.analysis.recording import (
    Recorded,
    ScriptedClock,
    investigation,
    play,
    recorded,
    start_recorder,
)
from tests.analysis.test_case import written

__all__ = ["recorded"]


@pytest.fixture(autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def look(tmp_path: Path) -> MadeLook:
    look = MadeLook(tmp_path)
    look.seal(made.plain(3_000, 5))
    return look


# --- before it is there ---------------------------------------------------------------------------


def test_until_it_is_ready_bins_are_a_sketch_by_the_hour(look: MadeLook) -> None:
    with Index(look) as index:
        assert index.wait(60)
        state = index._state
        since, until = BEGAN_US, BEGAN_US + 10 * HOUR_US
        whole = {
            lanes: index.bins(since=since, until=until, width=10, lanes=lanes)
            for lanes in ("none", "class")
        }
        built, state.built = state.built, None
        try:
            for lanes, answer in whole.items():
                sketched = index.bins(since=since, until=until, width=1_200, lanes=lanes)
                assert sketched.facts["ready"] is False
                assert sketched.facts["step"] == HOUR_US
                assert sketched.facts["lanes"] == answer.facts["lanes"]
                drawn = made.table(sketched.buffers[0])
                assert [{**cell, "id": 0} for cell in made.table(answer.buffers[0])] == drawn
            only = index.bins(Filter(flags=("denied",)), since=since, until=until).facts
            assert only["n"] == whole["none"].facts["n"] - sum(
                "denied" not in made.flags(row) for row in made.plain(3_000, 5)
            )
            assert index.overview().facts["n"] == 3_000
            for answer in (
                index.bins(Filter(user=("user-1",)), since=since, until=until),
                index.bins(since=since, until=until, lanes="user"),
                index.facets(),
                index.rows(),
            ):
                assert (answer.facts["ready"], answer.facts["n"]) == (False, None)
                assert answer.buffers == ()
        finally:
            state.built = built


def test_an_outline_counts_every_command_and_claims_no_more_than_it_knows(look: MadeLook) -> None:
    look.live = made.plain(40, 6)
    found = outline(look.snapshot())
    assert found is not None
    overview = found.overview()
    times = [row["started_at"] for row in made.plain(3_000, 5) + look.live]
    ends = [round(time.timestamp() * 1_000_000) for time in (min(times), max(times))]
    assert overview == {"n": 3_040, "first": ends[0], "last": ends[1]}
    place = {"since": BEGAN_US, "until": BEGAN_US + 10 * HOUR_US, "width": 10}
    drawn = found.bins(Filter(), **place, lanes="none")
    assert drawn is not None
    assert drawn[0]["n"] == 3_040
    assert {cell["cls"] for cell in made.table(drawn[1][0])} == {GRAVITY.index("")}
    assert found.bins(Filter(), **place, lanes="class") is None
    assert found.bins(Filter(cls=("read",)), **place, lanes="none") is None


@pytest.mark.parametrize("name", ["not Parquet", "no times", "centuries"])
def test_files_that_say_nothing_believable_have_no_outline(look: MadeLook, name: str) -> None:
    if name == "not Parquet":
        look.files[0].write_bytes(b"PAR1 not at all PAR1")
    else:
        rows = made.plain(10, 1)
        for number, row in enumerate(rows):
            year = 1971 + 100 * number
            row["started_at"] = None if name == "no times" else datetime(year, 1, 1, tzinfo=UTC)
        look.seal(rows)
    assert outline(look.snapshot()) is None


def test_a_time_that_no_calendar_has_costs_the_outline_and_not_the_index(look: MadeLook) -> None:
    look.seal(made.plain(10, 1))
    table = pq.read_table(look.files[-1])
    far = pa.array([1 << 62] * table.num_rows, pa.int64()).cast(pa.timestamp("us", "UTC"))
    place = table.column_names.index("started_at")
    pq.write_table(table.set_column(place, "started_at", far), look.files[-1])
    assert outline(look.snapshot()) is None
    with Index(look) as index:
        assert index.wait(60)
        assert index.overview().facts["n"] == 3_010


def test_an_archive_that_cannot_be_read_says_so_to_whoever_asks(look: MadeLook) -> None:
    look.files[0].write_bytes(b"PAR1 not at all PAR1")
    with Index(look) as index:
        with pytest.raises(ArchiveError, match="a file cannot be read"):
            index.wait(60)
        with pytest.raises(ArchiveError, match="a file cannot be read"):
            index.overview()


def test_an_archive_without_a_command_answers_with_nothing(tmp_path: Path) -> None:
    with Index(MadeLook(tmp_path)) as index:
        assert index.wait(60)
        assert index.overview().facts["n"] == 0
        assert index.bins(since=0, until=1).facts["lanes"] == []
        assert index.rows().facts["n"] == 0
        assert index.sessions().facts["n"] == 0
        assert index.facets().facts["facets"]["user"] == {"values": [], "more": 0}
        assert index.position(t=5, id=7).facts["position"] == 0


# --- growth ---------------------------------------------------------------------------------------


async def test_it_takes_up_what_is_recorded_while_it_is_open(tmp_path: Path) -> None:
    clock = ScriptedClock()
    recorder = await start_recorder(tmp_path, clock)
    case = aa.load(tmp_path / "archive")
    with Index(case) as index:
        assert index.wait(60)
        assert index.overview().facts["n"] == 0
        for expected in (12, 24):
            play(recorder, clock, investigation())
            await written(recorder)
            assert index.refresh(60)
            assert index.overview().facts["n"] == expected
        before = made.table(index.rows(limit=500).buffers[0])
        sessions = made.table(index.sessions().buffers[0])
        assert [one["commands"] for one in sessions] == [12, 12]
        await recorder.stop()
        # Sealing moves every row from the journal to Parquet: nothing changes but who is behind.
        assert index.refresh(60)
        assert made.table(index.rows(limit=500).buffers[0]) == before
    with Index(case) as index:
        assert index.wait(60)
        again = made.table(index.rows(limit=500).buffers[0])
        assert [row["text"] for row in again] == [row["text"] for row in before]


def test_an_answer_is_behind_by_a_refresh_at_most(look: MadeLook) -> None:
    with Index(look) as index:
        assert index.wait(60)
        first = index.overview().facts["generation"]
        look.live = made.odd(5, 1)
        seen = wait_for(index, lambda facts: facts["n"] == 3_005)
        assert seen["generation"] > first
        assert seen["behind"] is False


def wait_for(index: Index, is_so: Any) -> dict[str, Any]:
    """Ask until it is so; only asking may move the index on."""
    pause = threading.Event()
    for _ in range(600):
        facts = index.overview().facts
        if is_so(facts):
            return facts
        pause.wait(0.05)
    raise AssertionError(facts)


def test_what_was_purged_is_gone_after_a_refresh(look: MadeLook) -> None:
    look.seal(made.odd(50, 2))
    with Index(look) as index:
        assert index.wait(60)
        assert index.overview().facts["n"] == 3_050
        gone = look.files.pop()
        gone.unlink()
        assert index.refresh(60)
        assert index.overview().facts["n"] == 3_000
        assert index.rows(Filter(text="zoë")).facts["n"] == 0


def test_an_id_of_an_index_that_was_replaced_is_refused(look: MadeLook) -> None:
    look.seal(made.odd(50, 2))
    with Index(look) as index:
        assert index.wait(60)
        answer = index.rows(Filter(session=(made.odd(50, 2)[0]["session_id"],)), limit=2)
        row = made.table(answer.buffers[0])[0]
        asked = {"id": row["id"], "build": answer.facts["build"]}
        assert index.answer("which", asked).facts["session"] == row["session_id"]
        # A refresh that adds leaves ids alone.
        look.live = made.odd(5, 1)
        assert index.refresh(60)
        assert index.answer("which", asked).facts["session"] == row["session_id"]
        look.files.pop(0).unlink()
        assert index.refresh(60)
        assert index.overview().facts["build"] != asked["build"]
        without = index.answer("which", {"id": row["id"]}).facts
        assert without["session"] != row["session_id"], "else this test shows nothing"
        behind = (row["t"], row["id"])
        for ask in (
            lambda: index.answer("which", asked),
            lambda: index.rows(after=behind, build=asked["build"]),
            lambda: index.position(t=row["t"], id=row["id"], build=asked["build"]),
        ):
            with pytest.raises(Rebuilt, match="read anew"):
                ask()


def test_a_long_tail_is_sorted_in(look: MadeLook, monkeypatch: pytest.MonkeyPatch) -> None:
    from agentaudit.analysis.explore import index as module

    monkeypatch.setattr(module, "_TAIL_ROWS", 10)
    with Index(look) as index:
        assert index.wait(60)
        look.seal(made.odd(11, 3))
        assert index.refresh(60)
        built = index._state.built
        assert built is not None
        assert (built.base_rows, built.tail_rows) == (3_011, 0)


# --- several at once ------------------------------------------------------------------------------


def test_many_threads_ask_while_it_grows(look: MadeLook) -> None:
    rows = made.plain(3_000, 5)
    drops = sum(row["operation"] == "DROP TABLE" for row in rows)
    with Index(look) as index, ThreadPoolExecutor(6) as pool:
        assert index.wait(60)

        def ask(turn: int) -> bool:
            kind = turn % 5
            if kind == 0:
                look.live = made.odd(turn % 7, 1)
                return index.refresh(60)
            if kind == 1:
                return bool(index.rows(Filter(operation=("DROP TABLE",))).facts["n"] == drops)
            if kind == 2:
                text = f"id = {turn % 40}"
                n = sum(text in row["text"] for row in rows)
                return bool(index.rows(Filter(text=text)).facts["n"] == n)
            if kind == 3:
                span = {"since": BEGAN_US, "until": BEGAN_US + 10 * HOUR_US, "width": 10}
                return sum(lane["n"] for lane in index.bins(**span).facts["lanes"]) >= 3_000
            return bool(index.facets().facts["facets"]["user"]["values"])

        assert all(pool.map(ask, range(100)))


def test_a_newer_question_on_a_channel_drops_the_one_before(look: MadeLook) -> None:
    with Index(look) as index, ThreadPoolExecutor(1) as pool:
        assert index.wait(60)
        built = index._state.built
        assert built is not None
        begun, held = threading.Event(), threading.Event()
        base = built.base

        def slow(text: str, *taking: Any) -> Any:
            if text == "slow":
                begun.set()
                assert held.wait(60)
            return base(text, *taking)

        built.base = slow  # type: ignore[method-assign]
        asked = {"filter": {"text": "slow"}}
        first = pool.submit(index.answer, "rows", asked, channel="list")
        assert begun.wait(60)
        assert index.answer("rows", {"limit": 1}, channel="list").facts["n"] == 3_000
        assert index.answer("rows", {"limit": 2}, channel="other").facts["n"] == 3_000
        held.set()
        with pytest.raises(Superseded):
            first.result(60)


@pytest.mark.parametrize("over", ["the archive", "cells"])
def test_a_running_question_is_interrupted(look: MadeLook, over: str) -> None:
    with Index(look) as index:
        assert index.wait(60)
        state, built = index._state, index._state.built
        assert built is not None
        started = threading.Event()

        def endless() -> None:
            turn, sql = Turn("list"), "SELECT count(*) FROM range(10000000) a, range(10000000) b"
            base = built.base("")
            with built.reading() as cursor, state.taking(cursor, turn):
                started.set()
                if over == "cells":
                    cells = pa.table({"lane": [1]})
                    Answers(built, cursor, Filter(), base, turn)._over(cells, f"{sql}, cells")
                cursor.execute(sql)

        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(endless)
            assert started.wait(60)
            pause = threading.Event()
            while not running.done():
                index.answer("overview", channel="list")
                pause.wait(0.05)
            with pytest.raises(Superseded):
                running.result(0)


# --- what a browser sends -------------------------------------------------------------------------


HOSTILE: list[tuple[Any, Any, str]] = [
    ("__init__", {}, "question: unknown"),
    ("_hours", {}, "question: unknown"),
    (None, {}, "question: unknown"),
    (["rows"], {}, "question: unknown"),
    ("rows", [], "an object expected, found list"),
    ("rows", {"sql": "DROP TABLE base"}, "unknown argument 'sql'"),
    ("rows", {7: 1}, "unknown argument int"),
    ("rows", {"filter": {"x": 1}}, "unknown key"),
    ("rows", {"limit": 501}, "1 to 500 expected, found 501"),
    ("rows", {"limit": "5; DROP TABLE base"}, "a whole number expected, found str"),
    ("rows", {"limit": float("inf")}, "a whole number expected, found float"),
    ("rows", {"offset": -1}, "expected, found -1"),
    ("rows", {"order": "t; --"}, "newest or oldest expected"),
    ("rows", {"order": []}, "newest or oldest expected"),
    ("rows", {"after": 5}, "an object of t and id expected"),
    ("rows", {"after": {"t": 5}}, "an object of t and id expected"),
    ("rows", {"after": {"t": 5, "id": None}}, "a whole number expected, found none"),
    ("rows", {"after": {"t": 5, "id": 1}, "offset": 3}, "offset or after"),
    ("bins", {"since": 0}, r"bins\.until: a time expected, found none"),
    ("bins", {"since": 5, "until": 5}, "since before until"),
    ("bins", {"since": 5, "until": 10**18}, "from 1970 to 9999"),
    ("bins", {"since": 0, "until": 9, "width": 0}, "1 to 4096 expected"),
    ("bins", {"since": 0, "until": 9, "lanes": "base"}, "none, session, user"),
    ("marks", {"since": 0, "until": 9, "limit": 10**9}, "1 to 5000 expected"),
    ("sessions", {"order": "severity"}, "newest, oldest, gravest or most expected"),
    ("locate", {"session": "' OR ''='", "command_no": 1}, "a whole session id expected"),
    ("position", {"id": 3}, "a time expected"),
    ("overview", {"filter": {}}, "unknown argument 'filter'"),
]


@pytest.mark.parametrize(("name", "arguments", "answer"), HOSTILE)
def test_what_no_question_is_gets_an_answer_that_names_it(
    name: Any, arguments: Any, answer: str, hostile_index: Index
) -> None:
    with pytest.raises(QuestionError, match=answer):
        hostile_index.answer(name, arguments)


@pytest.fixture(scope="module")
def hostile_index(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with Index(MadeLook(tmp_path_factory.mktemp("made"))) as index:
        assert index.wait(60)
        yield index


def test_facts_are_json(look: MadeLook) -> None:
    look.live = made.odd(100, 9)
    with Index(look) as index:
        assert index.wait(60)
        span = {"since": BEGAN_US, "until": BEGAN_US + HOUR_US}
        for name in ("overview", "facets", "rows", "sessions"):
            json.dumps(index.answer(name).facts, allow_nan=False)
        for name in ("bins", "marks"):
            json.dumps(index.answer(name, {**span, "lanes": "agent"}).facts, allow_nan=False)


# --- nothing left behind --------------------------------------------------------------------------


def test_its_files_are_private_and_go_with_it(look: MadeLook, temporary: Path) -> None:
    with Index(look) as index:
        assert index.wait(60)
        (folder,) = temporary.iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert (folder / "index.duckdb").is_file()
    assert list(temporary.iterdir()) == []
    with pytest.raises(QuestionError, match="it is closed"):
        index.overview()
    with pytest.raises(QuestionError, match="it is closed"):
        index.refresh()


def test_closing_while_it_is_built_leaves_nothing(look: MadeLook, temporary: Path) -> None:
    Index(look).close()
    assert list(temporary.iterdir()) == []


def test_an_index_that_nobody_holds_leaves_nothing(look: MadeLook, temporary: Path) -> None:
    index = Index(look)
    assert index.wait(60)
    thread = index._thread
    del index
    gc.collect()
    thread.join(60)
    assert list(temporary.iterdir()) == []


def test_the_end_of_the_process_leaves_nothing(recorded: Recorded, temporary: Path) -> None:
    program = (
        "import sys, agentaudit\n"
        "from agentaudit.analysis.explore import Index\n"
        "index = Index(agentaudit.load(sys.argv[1]))\n"
        "assert index.wait(60)\n"
        "print(index.overview().facts['n'])\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(recorded.path)],
        env={**os.environ, "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert run.stdout == "14\n"
    assert list(temporary.iterdir()) == []


def test_what_a_killed_process_left_is_removed_by_the_next(temporary: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(60)
    left = temporary / f"agentaudit-explore-{ended.pid}-abc"
    kept = temporary / f"agentaudit-explore-{os.getpid()}-abc"
    other = temporary / "agentaudit-explore-notes"
    for folder in (left, kept, other):
        folder.mkdir()
        (folder / "index.duckdb").write_bytes(b"recorded")
    fresh = private_folder()
    assert {path.name for path in temporary.iterdir()} == {kept.name, other.name, fresh.name}


def test_nothing_outside_archive_and_folder_can_be_read(look: MadeLook) -> None:
    import duckdb

    with Index(look) as index:
        assert index.wait(60)
        built = index._state.built
        assert built is not None
        with built.reading() as cursor, pytest.raises(duckdb.PermissionException):
            cursor.execute("SELECT * FROM read_text('/etc/hostname')")
        with built.reading() as cursor, pytest.raises(duckdb.Error):
            cursor.execute("SET enable_external_access = true")


def test_a_look_gives_an_archive_as_it_is(recorded: Recorded) -> None:
    from agentaudit.analysis.explore.look import Look

    look = Look(aa.load(recorded.path))
    assert isinstance(look.snapshot(), Snapshot)
    assert look.gateways() == [{"name": "gw1", "clock": "scripted"}]
    assert look.stamp() == look.stamp()
