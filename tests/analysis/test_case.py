"""What a `Case` answers, and what it refuses; over archives made by the real recorder."""

from __future__ import annotations

import asyncio
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

import agentaudit as aa
from agentaudit.archive.drill.machine import rewrite_parquet
from agentaudit.archive.segment import SCHEMAS
from agentaudit.errors import ArchiveError, QuestionError
from tests.analysis.recording import (
    OPENED_US,
    TEXT,
    Recorded,
    Script,
    ScriptedClock,
    investigation,
    play,
    record,
    start_recorder,
)

KEYS = {"key_m", "key_t", "key_p"}


def numbers(relation: duckdb.DuckDBPyRelation) -> list[int]:
    return [row[0] for row in relation.project("command_no").fetchall()]


def users(relation: duckdb.DuckDBPyRelation) -> list[str]:
    return [row[0] for row in relation.project("user").fetchall()]


# --- opening --------------------------------------------------------------------------------------


def test_a_folder_that_is_no_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"FORMAT"):
        aa.load(tmp_path)


def test_a_later_format_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "FORMAT").write_text("agentaudit archive 2\n")
    with pytest.raises(ArchiveError, match="archive 2"):
        aa.load(tmp_path)


def test_an_archive_without_a_session_answers_with_nothing(tmp_path: Path) -> None:
    empty = aa.load(record(tmp_path).path)
    assert len(empty.sessions()) == len(empty.commands()) == len(empty.search("x")) == 0


def test_the_views_have_the_columns_of_the_archive(case: aa.Case) -> None:
    for table in ("events", "commands", "decisions", "access"):
        assert case.sql(f"from {table}").columns == SCHEMAS[table].names
    assert case.sql("from sessions").columns == [
        n for n in SCHEMAS["sessions"].names if n not in KEYS
    ]


# --- sessions and commands ------------------------------------------------------------------------


def test_sessions_come_newest_first_and_without_the_gateways_own(case: aa.Case) -> None:
    assert users(case.sessions()) == ["<img src=x onerror=alert(1)>", "copilot-7"]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"user": "copilot-7"}, 1),
        ({"user": "COPILOT-7"}, 0),
        ({"agent": "codex", "target": "orders"}, 1),
        ({"cls": "schema"}, 1),
        ({"cls": "write", "status": "error"}, 0),
        ({"table": "customers"}, 1),
        ({"status": "error"}, 2),
        ({"since": "2026-11-03T10:02:00"}, 2),
        ({"since": "2026-11-03T10:03:00"}, 1),
        ({"until": "2026-11-03T10:00:00"}, 0),
        ({"until": datetime(2026, 11, 3, 12, 1, tzinfo=UTC) - timedelta(hours=2)}, 1),
        ({"since": date(2026, 11, 3), "until": date(2026, 11, 4)}, 2),
        ({"since": "2026-11-03T12:03:00+02:00"}, 1),
    ],
)
def test_sessions_match_all_that_is_asked(case: aa.Case, asked: dict[str, Any], found: int) -> None:
    assert len(case.sessions(**asked)) == found


def test_commands_come_newest_first(case: aa.Case, recorded: Recorded) -> None:
    assert numbers(case.commands(session=recorded.sessions[0])) == list(range(11, -1, -1))


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"cls": "write"}, [7, 4]),
        ({"status": "error", "user": "copilot-7"}, [10, 9, 2]),
        ({"operation": "delete"}, [7]),
        ({"table": "tables"}, [1]),
        ({"table": "information_schema.TABLES"}, [1]),
        (
            {
                "table": "customers",
                "since": "2026-11-03T10:00:04.5",
                "until": "2026-11-03T10:00:13",
            },
            [4],
        ),
        ({"target": "elsewhere"}, []),
    ],
)
def test_commands_match_all_that_is_asked(
    case: aa.Case, asked: dict[str, Any], found: list[int]
) -> None:
    assert numbers(case.commands(**asked)) == found


def test_a_command_row_says_what_happened(case: aa.Case, recorded: Recorded) -> None:
    row = case.session(recorded.sessions[0]).command(4)
    assert row["text"] == "UPDATE customers SET email = $1 WHERE id = $2"
    assert row["params"] == ["ada@lovelace.example", "7"]
    assert (row["operation"], row["class"], row["status"]) == ("UPDATE", "write", "ok")
    assert (row["rows_affected"], row["duration_us"]) == (1, 4_100)
    assert row["started_at"] == datetime.fromtimestamp(OPENED_US / 1e6, UTC) + timedelta(
        microseconds=4_806_000
    )


@pytest.mark.parametrize("time", ["yesterday", "2026-13-01", ""])
def test_a_time_that_is_none_is_refused(case: aa.Case, time: str) -> None:
    with pytest.raises(QuestionError, match="ISO 8601"):
        case.sessions(since=time)


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ({"since": 5}, "since: an ISO 8601 text, date or datetime expected, found int"),
        ({"until": b"2026"}, "until: .* found bytes"),
        ({"user": ["secret"]}, "user: text expected, found list"),
        ({"table": 7}, "table: text expected, found int"),
        ({"cls": "x"}, "cls: read, write, schema, admin, session or unknown expected"),
        ({"status": "OK"}, "status: ok, error, denied, cancelled or incomplete expected"),
    ],
)
def test_what_cannot_be_asked_is_named_and_not_repeated(
    case: aa.Case, asked: dict[str, Any], answer: str
) -> None:
    for question in (case.sessions, case.commands):
        with pytest.raises(QuestionError, match=answer) as caught:
            question(**asked)
        assert "secret" not in str(caught.value)


# --- search ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("EMIAL", {("request", 2), ("response", 2)}),
        ("ada@lovelace", {("params", 4)}),
        ("customer 1234", {("result", 5)}),
        ("c%@example", set()),
        ("SELECT_1", set()),
        ("division by zero", {("response", 9)}),
    ],
)
def test_search_finds_text_in_statements_parameters_errors_and_results(
    case: aa.Case, text: str, places: set[tuple[str, int]]
) -> None:
    found = case.search(text, user="copilot-7").project("place, command_no").fetchall()
    assert set(found) == places


def test_search_finds_bytes_that_are_no_text(tmp_path: Path) -> None:
    script = Script().query("SELECT 1", columns=[("x", TEXT)], rows=[["Zoë \\ 漢"], [b"\xff\xfe"]])
    case = aa.load(record(tmp_path, script).path)
    for text in ("Zoë", "\\ 漢"):
        assert len(case.search(text)) == 1, text


def test_search_for_nothing_is_refused(case: aa.Case) -> None:
    with pytest.raises(QuestionError):
        case.search("")


# --- what a question may do -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "COPY commands TO '{archive}/stolen.csv'",
        "CREATE TABLE mine AS SELECT 1",
        "ATTACH '/tmp/other.db'",
        "SELECT 1; SELECT 2",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        "DROP VIEW commands",
        "INSERT INTO live_commands DEFAULT VALUES",
        "PRAGMA database_list",
        "",
    ],
)
def test_sql_takes_one_statement_that_reads(case: aa.Case, query: str) -> None:
    with pytest.raises(QuestionError, match="one SELECT expected"):
        case.sql(query.format(archive=case.path))
    assert not (case.path / "stolen.csv").exists()


@pytest.mark.parametrize(
    "source",
    [
        "read_text('/etc/hostname')",
        "read_csv('/etc/passwd')",
        "glob('/etc/*')",
        "'/etc/passwd.csv'",
    ],
)
def test_sql_reads_nothing_outside_the_archive(case: aa.Case, source: str) -> None:
    with pytest.raises(duckdb.PermissionException):
        case.sql(f"SELECT * FROM {source}").fetchall()


def test_sql_does_not_see_the_callers_variables(case: aa.Case) -> None:
    secret = case.sql("SELECT 1 AS x").to_arrow_table()
    assert secret.num_rows == 1
    with pytest.raises(duckdb.CatalogException):
        case.sql("FROM secret").fetchall()


def test_sql_takes_named_parameters_as_values(case: aa.Case) -> None:
    hostile = "x' OR '1' = '1"
    asked = case.sql("FROM commands WHERE text = $text", {"text": hostile})
    assert len(asked) == 0


def test_an_answer_is_read_in_the_formats_of_the_field(case: aa.Case) -> None:
    asked = case.sessions().project("user, commands")
    assert (
        asked.pl()["commands"].to_list()
        == asked.to_arrow_table()["commands"].to_pylist()
        == [2, 12]
    )


def test_many_threads_may_ask_at_once(case: aa.Case, recorded: Recorded) -> None:
    def ask(turn: int) -> int:
        session = case.session(recorded.sessions[0])
        if turn % 3 == 0:
            return len(case.commands(session=session.id))
        if turn % 3 == 1:
            return session.count
        return sum(1 for _ in session.traffic()) // 2

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(48))) == {12}


# --- one session ----------------------------------------------------------------------------------


def test_a_session_is_named_by_the_beginning_of_its_id(case: aa.Case, recorded: Recorded) -> None:
    first = recorded.sessions[0]
    assert str(case.session(first[:20]).id) == str(case.session(first.upper()).id) == first


@pytest.mark.parametrize(
    ("named", "answer"),
    [
        ("0199aaaa-0000", "not in this archive"),
        ("short", "at least 8"),
        ("no-such-session", "a session id"),
        ("%%%%%%%%", "a session id"),
    ],
)
def test_a_session_that_is_not_there_is_refused(case: aa.Case, named: str, answer: str) -> None:
    with pytest.raises(QuestionError, match=answer):
        case.session(named)


def test_the_beginning_of_two_ids_is_not_enough(tmp_path: Path) -> None:
    made = record(tmp_path, Script(), Script(), gap_us=1_000)
    shared = made.sessions[0][:8]
    assert shared == made.sessions[1][:8]
    with pytest.raises(QuestionError, match="several sessions"):
        aa.load(made.path).session(shared)


# --- the live journal, and growth -----------------------------------------------------------------


async def test_live_sessions_show_with_what_runs_right_now(tmp_path: Path) -> None:
    clock = ScriptedClock()
    recorder = await start_recorder(tmp_path, clock)
    script = Script(reason=None).query("SELECT 1", columns=[("x", TEXT)], rows=[["1"]])
    script.unanswered("DELETE FROM orders")
    session = play(recorder, clock, script)
    await written(recorder)
    case = aa.load(tmp_path / "archive")
    live = case.session(session.session_id)
    assert live.facts["closed_at"] is None
    assert live.commands.project("text, status, ended_at IS NULL").fetchall() == [
        ("SELECT 1", "ok", False),
        ("DELETE FROM orders", "incomplete", True),
    ]
    session.close("client")
    await recorder.stop()
    assert live.facts["close_reason"] == "client"
    assert live.command(1)["ended_at"] is not None


async def test_a_case_sees_what_is_recorded_after_it_was_opened(tmp_path: Path) -> None:
    clock = ScriptedClock()
    recorder = await start_recorder(tmp_path, clock)
    case = aa.load(tmp_path / "archive")
    assert len(case.sessions()) == 0
    for expected in (1, 2):
        play(recorder, clock, investigation())
        await written(recorder)
        assert len(case.sessions()) == expected
        assert len(case.commands(cls="write")) == 2 * expected
    before = case.sql("FROM commands ORDER BY first_event_no").fetchall()
    await recorder.stop()
    # Sealing moves every row from the journal to Parquet; no answer may change with it.
    assert case.sql("FROM commands ORDER BY first_event_no").fetchall() == before


async def test_commands_of_before_there_were_origins_are_read_beside_new_ones(
    tmp_path: Path,
) -> None:
    table = Script().query("SELECT x FROM t", columns=[("x", TEXT, 16401, 2)], rows=[["1"]])
    first = record(tmp_path, table)
    (path,) = (first.path / "commands").rglob("*.parquet")
    rewrite_parquet(path, lambda rows: rows.drop_columns(["origins"]))
    query = "SELECT origins, columns FROM commands ORDER BY started_at"

    assert aa.load(first.path).sql(query).fetchall() == [(None, ["x"])]

    expression = Script().query("SELECT 1", columns=[("x", TEXT)], rows=[["1"]])
    record(tmp_path, expression, table, later_us=3_600_000_000)
    case = aa.load(first.path)
    expected = [(None, ["x"]), (None, ["x"]), (["16401.2"], ["x"])]
    assert case.sql(query).fetchall() == expected
    clock = ScriptedClock()
    clock.us += 7_200_000_000
    recorder = await start_recorder(tmp_path, clock)
    play(recorder, clock, table)
    await written(recorder)
    assert case.sql(query).fetchall() == [*expected, (["16401.2"], ["x"])]
    assert case.commands().columns == list(SCHEMAS["commands"].names)
    await recorder.stop()


def test_a_session_that_spans_segments_is_one_row(tmp_path: Path) -> None:
    async def run() -> str:
        clock = ScriptedClock()
        recorder = await start_recorder(tmp_path, clock, segment_events=10)
        session = play(recorder, clock, investigation())
        await recorder.stop()
        return str(session.session_id)

    identity = asyncio.run(run())
    case = aa.load(tmp_path / "archive")
    (row,) = case.sessions().project("session_id, commands, is_final").fetchall()
    assert (str(row[0]), row[1], row[2]) == (identity, 12, True)
    assert numbers(case.session(identity).commands) == list(range(12))


def test_an_archive_that_was_rolled_back_is_warned_of(tmp_path: Path) -> None:
    made = record(tmp_path, investigation())
    earlier = tmp_path / "earlier"
    shutil.copytree(made.path, earlier)
    record(tmp_path, investigation(), later_us=10**9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert aa.load(made.path).contradictions == ()
    with pytest.warns(UserWarning, match="run verify") as told:
        case = aa.load(earlier)
    assert told[0].filename == __file__
    assert "gw1" in case.contradictions[0]


async def written(recorder: Any) -> None:
    """Wait until everything recorded so far is in the journal."""
    done = asyncio.get_running_loop().create_future()
    recorder.release(lambda: done.set_result(None), synced=False)
    await asyncio.wait_for(done, 10)


# --- verify ---------------------------------------------------------------------------------------


def test_verify_says_yes_only_with_a_key_from_outside(case: aa.Case, recorded: Recorded) -> None:
    assert case.verify().ok is None
    assert case.verify(recorded.key, deep=True).ok is True
    key_file = recorded.path.parent / "keys" / "gw1.vkey"
    assert case.verify(key_file).ok is case.verify(str(key_file)).ok is True


def test_verify_names_a_key_file_that_is_not_there(case: aa.Case, tmp_path: Path) -> None:
    with pytest.raises(QuestionError, match=r"no\.vkey"):
        case.verify(tmp_path / "no.vkey")


def test_verify_takes_no_empty_file_for_a_key(case: aa.Case, tmp_path: Path) -> None:
    (tmp_path / "empty.vkey").write_text("\n")
    with pytest.raises(QuestionError, match=r"empty\.vkey: the file holds no key"):
        case.verify(tmp_path / "empty.vkey")
