"""One session: its bytes, its long texts, what became of its transactions, and its transcript."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import agentaudit as aa
from agentaudit.errors import QuestionError
from agentaudit.model import Side
from tests.analysis.recording import INT4, TEXT, Recorded, Script, hostile, investigation, record

DIRECTIONS = (("client", "asked"), ("target", "answered"))


def only(tmp_path: Path, script: Script) -> aa.Session:
    made = record(tmp_path, script)
    return aa.load(made.path).session(made.sessions[0])


@pytest.mark.parametrize(("side", "bytes_of"), DIRECTIONS)
def test_the_stream_of_a_side_is_what_it_sent(
    case: aa.Case, recorded: Recorded, side: str, bytes_of: str
) -> None:
    sent = b"".join(getattr(exchange, bytes_of) for exchange in investigation().exchanges)
    session = case.session(recorded.sessions[0])
    assert b"".join(session.stream(side)) == b"".join(session.stream(Side(side))) == sent


@pytest.mark.parametrize(("side", "bytes_of"), DIRECTIONS)
def test_the_stream_of_a_command_is_its_own(
    case: aa.Case, recorded: Recorded, side: str, bytes_of: str
) -> None:
    session = case.session(recorded.sessions[0])
    for number, exchange in enumerate(investigation().exchanges):
        assert b"".join(session.stream(side, command_no=number)) == getattr(exchange, bytes_of)


def test_a_side_that_there_is_not_is_refused(case: aa.Case, recorded: Recorded) -> None:
    with pytest.raises(QuestionError, match="client or target"):
        next(case.session(recorded.sessions[0]).stream("server"))


@pytest.mark.parametrize(("side", "bytes_of"), DIRECTIONS)
def test_a_large_answer_comes_back_whole_from_its_chunks(
    tmp_path: Path, side: str, bytes_of: str
) -> None:
    script = Script()
    # Three answers beyond a window of memory; the third is the second again, so it is stored once.
    for seed in (3, 7, 7):
        row = [bytes((seed * i) % 251 + 1 for i in range(300_000)), "x" * 9_000]
        script.query("SELECT big", columns=[("b", TEXT), ("t", TEXT)], rows=[row] * 20)
    sent = b"".join(getattr(exchange, bytes_of) for exchange in script.exchanges)
    assert b"".join(only(tmp_path, script).stream(side)) == sent


def test_a_long_statement_is_whole_though_its_row_is_not(tmp_path: Path) -> None:
    statement = "SELECT '" + "ü漢🙂x" * 40_000 + "'"
    session = only(tmp_path, Script().query(statement, columns=[("x", TEXT)], rows=[["1"]]))
    assert len(session.command(0)["text"].encode()) <= 64 * 1024
    assert session.statement(0) == statement
    case = aa.load(tmp_path / "archive")
    assert case.search("🙂x'").project("place").fetchall() == [("request",)]


def test_a_command_that_there_is_not_is_refused(case: aa.Case, recorded: Recorded) -> None:
    session = case.session(recorded.sessions[0])
    for number in (12, -1):
        with pytest.raises(QuestionError, match=f"no command {number} among its 12"):
            session.command(number)


# --- transactions ---------------------------------------------------------------------------------


def fates(session: aa.Session) -> list[str]:
    return [fate for _, fate in session.ask("session_fates").fetchall()]


def test_what_is_outside_a_transaction_is_committed_or_failed_by_itself(tmp_path: Path) -> None:
    script = Script().query("INSERT INTO t VALUES (1)", tag="INSERT 0 1")
    script.query("INSERT INTO t VALUES (1)", error=("23505", "duplicate key"))
    assert fates(only(tmp_path, script)) == ["committed", "rolled back"]


def test_all_of_a_transaction_shares_its_end(tmp_path: Path) -> None:
    script = Script()
    for end in ("COMMIT", "ROLLBACK"):
        script.query("BEGIN", tag="BEGIN").query("DELETE FROM t", tag="DELETE 7")
        script.query(end, tag=end)
    assert fates(only(tmp_path, script)) == ["committed"] * 3 + ["rolled back"] * 3


def test_the_commit_of_a_failed_transaction_rolls_back(tmp_path: Path) -> None:
    script = Script().query("BEGIN", tag="BEGIN").query("DELETE FROM t", tag="DELETE 7")
    script.query("SELECT 1/0", error=("22012", "division by zero"))
    script.query("COMMIT", tag="ROLLBACK")
    assert set(fates(only(tmp_path, script))) == {"rolled back"}


def test_what_a_session_left_open_was_not_committed(tmp_path: Path) -> None:
    script = Script(reason="client_gone").query("DELETE FROM t", tag="DELETE 1")
    script.query("BEGIN", tag="BEGIN").query("DELETE FROM t", tag="DELETE 7")
    assert fates(only(tmp_path, script)) == ["committed", "not committed", "not committed"]


# --- transcript -----------------------------------------------------------------------------------


def test_a_transcript_tells_statements_parameters_results_and_errors(
    case: aa.Case, recorded: Recorded
) -> None:
    told = case.session(recorded.sessions[0]).transcript(rows=2)
    assert "copilot-7 (agent codex) on orders (postgres)" in told
    assert "$2 = 7" in told
    assert "id | name         | email           | balance | vip" in told
    assert "… 1,232 rows more" in told
    assert "error 22012: division by zero" in told
    assert "ok, 5,120 rows changed, 310.0 ms, in transaction, rolled back" in told


def test_a_transcript_of_hostile_texts_holds_nothing_that_a_terminal_obeys(
    case: aa.Case, recorded: Recorded
) -> None:
    told = case.session(recorded.sessions[1]).transcript()
    assert not any(
        (ord(c) < 0x20 and c != "\n") or 0x7F <= ord(c) < 0xA0 or 0x202A <= ord(c) <= 0x202E
        for c in told
    )
    for sent in ("\\x1b]0;owned\\x07", "\\x1b[2J", "\\u202edrowssap\\u202c", "\\x9b", "\\u2066"):
        assert sent in told


def test_a_transcript_in_parts_is_the_transcript(case: aa.Case, recorded: Recorded) -> None:
    session = case.session(recorded.sessions[0])
    heading, *parts = session.told(rows=3)
    assert "\n".join([heading, *parts]) == session.transcript(rows=3)
    assert parts == [session.told_command(number, rows=3) for number in range(12)]


# --- results, as far as they concern the session --------------------------------------------------


def test_a_result_has_the_recorded_rows_and_no_more_than_asked(
    case: aa.Case, recorded: Recorded
) -> None:
    session = case.session(recorded.sessions[0])
    whole = session.result(5)
    assert (whole.num_rows, whole.column_names) == (1_234, ["id", "name", "email", "note"])
    assert whole.slice(6, 1).to_pylist() == [
        {"id": 7, "name": "Customer 7", "email": "c7@example.com", "note": None}
    ]
    assert session.result(5, limit=10).equals(whole.slice(0, 10))
    assert sum(batch.num_rows for batch in session.result_batches(5)) == 1_234


@pytest.mark.parametrize("limit", [-1, "ten", 1.5, True])
def test_a_limit_that_is_no_number_of_rows_is_refused(
    case: aa.Case, recorded: Recorded, limit: Any
) -> None:
    session = case.session(recorded.sessions[0])
    with pytest.raises(QuestionError, match="limit: "):
        session.result(5, limit=limit)
    with pytest.raises(QuestionError, match="limit: "):
        session.results(limit=limit)


def test_a_number_that_is_none_names_no_command(case: aa.Case, recorded: Recorded) -> None:
    with pytest.raises(QuestionError, match="command_no: a whole number expected, found str"):
        case.session(recorded.sessions[0]).command("one")  # type: ignore[arg-type]


def test_a_command_without_rows_has_a_result_without_columns(
    case: aa.Case, recorded: Recorded
) -> None:
    assert case.session(recorded.sessions[0]).result(4).num_columns == 0


def test_results_of_a_session_come_in_one_pass(case: aa.Case, recorded: Recorded) -> None:
    results = dict(case.session(recorded.sessions[0]).results(limit=3))
    assert {number: table.num_rows for number, table in results.items() if table.num_columns} == {
        1: 3,
        3: 1,
        5: 3,
        8: 1,
    }


def test_hostile_names_and_values_come_back_as_they_were(tmp_path: Path) -> None:
    table = only(tmp_path, hostile()).result(0)
    assert table.column_names == ["<b onmouseover=alert(1)>", "esc\x1b[31m"]
    assert (
        table.to_pylist()[0]["<b onmouseover=alert(1)>"] == "<img src=x onerror='window.pwned = 1'>"
    )


def test_columns_of_one_name_are_both_there(tmp_path: Path) -> None:
    script = Script().query(
        "SELECT 1 AS x, 2 AS x", columns=[("x", INT4), ("x", INT4)], rows=[["1", "2"]]
    )
    table = only(tmp_path, script).result(0)
    assert [column.to_pylist() for column in table.columns] == [[1], [2]]
