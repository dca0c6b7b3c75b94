"""Dialogues of a client and a server, and what is made of them; no socket, no server.

What the server answers, and when, is from the protocol's flow (postgresql.org/docs/current/
protocol-flow.html) and from PostgreSQL 15 and its source where the flow is silent.
"""

from __future__ import annotations

import hashlib

import pytest

from agentaudit.errors import ClientProtocolError, TargetProtocolError
from agentaudit.model import MAX_EVENT_BYTES, Command, Event, Flag, Kind, Refusal, Side, Step
from agentaudit.protocols import postgres_prepared, postgres_requests
from agentaudit.protocols.postgres import Conversation
from tests.protocols.wire import (
    BIND_COMPLETE,
    CLOSE_COMPLETE,
    COPY_BOTH,
    COPY_DONE,
    COPY_IN,
    COPY_OUT,
    EMPTY_QUERY,
    FLUSH,
    NO_DATA,
    PARSE_COMPLETE,
    PORTAL_SUSPENDED,
    SYNC,
    TERMINATE,
    Talk,
    at_semicolons,
    bind,
    close_portal,
    close_statement,
    command_complete,
    copy_data,
    copy_fail,
    data_row,
    describe_portal,
    describe_statement,
    error,
    execute,
    function_call,
    message,
    notice,
    notification,
    parameter_description,
    parameter_status,
    parse,
    query,
    ran,
    ready,
    row_description,
    run,
    string,
    told,
)

DENIED = Refusal(code="42501", message="agentaudit: denied", detail="session 1", hint="ask")


@pytest.fixture
def talk() -> Talk:
    return Talk(Conversation(split=at_semicolons))


# Simple queries.


def test_a_query_is_one_command_from_its_text_to_ready_for_query(talk: Talk) -> None:
    asked = query("SELECT a FROM t;")
    (step,) = talk.client(asked)

    assert step.frame == asked
    assert step.events == (
        Event(
            kind=Kind.REQUEST,
            side=Side.CLIENT,
            command_no=0,
            text="SELECT a FROM t;",
            payload=asked,
            orig_len=len(asked),
        ),
    )
    (command,) = step.starts
    assert (command.text, command.params, command.status) == (
        "SELECT a FROM t;",
        None,
        "incomplete",
    )

    answered = row_description(("a", 23)) + data_row(b"1") + data_row(b"2")
    answered += command_complete("SELECT 2") + ready()
    (step,) = talk.target(answered)

    assert step.frame == answered
    assert step.ends == (command,)
    (event,) = step.events
    assert (event.kind, event.command_no, event.text) == (Kind.RESPONSE, 0, None)
    assert (event.payload, event.flags) == (answered, Flag.FROM_TARGET)
    assert (command.status, command.rows_returned, command.rows_affected) == ("ok", 2, None)
    assert (command.columns, command.txn_no, command.txn_status) == (("a",), 1, "I")


def test_each_statement_of_a_query_is_a_command_with_its_own_answer(talk: Talk) -> None:
    (asked,) = talk.client(query("BEGIN; SELECT 1; INSERT INTO t VALUES (1)"))
    assert [c.text for c in asked.starts] == ["BEGIN", "SELECT 1", "INSERT INTO t VALUES (1)"]
    assert told([asked]) == [(0, "BEGIN; SELECT 1; INSERT INTO t VALUES (1)")]

    steps = talk.target(
        command_complete("BEGIN")
        + row_description(("?column?", 23))
        + data_row(b"1")
        + command_complete("SELECT 1")
        + command_complete("INSERT 0 1")
        + ready("T")
    )

    assert [(step.events[0].command_no, len(step.ends)) for step in steps] == [
        (0, 1),
        (1, 1),
        (2, 1),
    ]
    begin, select, insert = talk.ended
    assert (begin.rows_returned, select.rows_returned, insert.rows_affected) == (None, 1, 1)
    # Only the last one's state was reported.
    assert [c.txn_status for c in talk.ended] == [None, None, "T"]
    assert [c.status for c in talk.ended] == ["ok"] * 3


def test_a_statement_that_fails_leaves_those_behind_it_incomplete(talk: Talk) -> None:
    talk.client(query("SELECT 1; SELECT 1/0; SELECT 3"))
    talk.target(row_description(("a", 23)) + data_row(b"1") + command_complete("SELECT 1"))
    steps = talk.target(error("22012", "division by zero") + ready())

    assert told(steps) == [(1, "ERROR 22012 division by zero"), (1, None)]
    ok, failed, never = (talk.commands[n] for n in range(3))
    assert (ok.status, failed.status, never.status) == ("ok", "error", "incomplete")
    assert (failed.error_code, failed.error_text) == ("22012", "division by zero")
    assert (never.error_code, never.error_text) == (None, "not run: a command before it failed")
    assert (failed.txn_status, never.txn_status, never.txn_no) == ("I", None, None)
    assert sorted(talk.ended_nos()) == [0, 1, 2]


def test_an_empty_query_is_a_command_that_returned_nothing(talk: Talk) -> None:
    talk.client(query(""))
    talk.target(EMPTY_QUERY + ready())

    (command,) = talk.ended
    assert (command.text, command.status, command.rows_returned) == ("", "ok", None)


def test_more_results_than_statements_all_belong_to_the_last_one() -> None:
    talk = Talk()  # nobody divides queries
    talk.client(query("SELECT 1; DELETE FROM t; SELECT 2"))
    talk.target(row_description(("a", 23)) + data_row(b"1") + command_complete("SELECT 1"))
    talk.target(command_complete("DELETE 5"))
    talk.target(row_description(("b", 23)) + data_row(b"2") + command_complete("SELECT 1"))
    assert talk.ended == []
    talk.target(ready())

    (command,) = talk.ended
    assert (command.rows_returned, command.rows_affected, command.columns) == (2, 5, ("b",))


def test_a_later_result_of_an_undivided_query_may_fail() -> None:
    talk = Talk()
    talk.client(query("SELECT 1; SELECT 1/0"))
    talk.target(row_description(("a", 23)) + data_row(b"1") + command_complete("SELECT 1"))
    talk.target(error("22012") + ready())

    (command,) = talk.ended
    assert (command.status, command.error_code, command.rows_returned) == ("error", "22012", 1)


def test_statements_that_the_server_did_not_see_are_incomplete(talk: Talk) -> None:
    talk.client(query("SELECT 'a;b'"))  # our divider is naive on purpose
    talk.target(row_description(("a", 25)) + data_row(b"a;b") + command_complete("SELECT 1"))
    talk.target(ready())

    assert [c.status for c in talk.ended] == ["ok", "incomplete"]


def test_with_backslashes_in_plain_strings_a_query_is_not_divided() -> None:
    talk = Talk(Conversation(split=at_semicolons, parameters={"standard_conforming_strings": "on"}))
    talk.client(query("SET standard_conforming_strings = off"))
    talk.target(
        parameter_status("standard_conforming_strings", "off") + command_complete("SET") + ready()
    )

    (step,) = talk.client(query(r"SELECT 'it\'s; x'; SELECT 2"))

    assert [c.text for c in step.starts] == [r"SELECT 'it\'s; x'; SELECT 2"]


def test_a_backslash_in_what_is_sent_ahead_of_a_report_is_ambiguous(talk: Talk) -> None:
    """The server tells of a setting when it is ready, and reads what follows by it before."""
    said = r"SELECT '\d; x'"
    (ahead,) = talk.client(query(said))
    talk.client(query("SELECT f()"))
    (behind,) = talk.client(query(said))
    talk.target((command_complete("SELECT 1") + ready()) * 3)
    talk.client(query("BEGIN"))
    (settled,) = talk.client(query(said))

    steps = (ahead, behind, settled)
    assert [step.starts[0].is_ambiguous for step in steps] == [False, True, False]
    assert [len(step.starts) for step in steps] == [2, 1, 2]  # our divider is naive on purpose


@pytest.mark.parametrize(
    ("ahead", "is_ambiguous"),
    [
        ("BEGIN", False),
        ("START TRANSACTION READ ONLY", False),
        ("COMMIT", True),
        ("ROLLBACK", True),
    ],
)
def test_the_end_of_a_transaction_may_undo_a_setting(
    talk: Talk, ahead: str, is_ambiguous: bool
) -> None:
    talk.client(query(ahead))

    (step,) = talk.client(query(r"SELECT '\'"))

    assert step.starts[0].is_ambiguous == is_ambiguous


def test_texts_are_read_in_the_client_encoding_that_the_server_reports() -> None:
    talk = Talk(Conversation(parameters={"client_encoding": "LATIN1"}))
    talk.client(query("SELECT 'é'".encode("latin-1")))
    assert talk.commands[0].text == "SELECT 'é'"
    talk.target(parameter_status("client_encoding", "UTF8") + command_complete("SET") + ready())
    talk.client(query("SELECT 'é'"))

    assert talk.commands[1].text == "SELECT 'é'"


def test_a_text_over_64_kib_is_cut_in_the_row_and_whole_for_the_judge(talk: Talk) -> None:
    sql = "SELECT '" + "é" * 40_000 + "'"
    (step,) = talk.client(query(sql))

    command = talk.commands[0]
    assert len(command.text.encode()) <= 65_536 < len(command.text.encode()) + 2
    assert sql.startswith(command.text)
    assert command.sql == sql
    assert step.events[0].text == sql


# The extended protocol.


def test_parse_bind_describe_execute_sync_together_are_one_step(talk: Talk) -> None:
    asked = run("SELECT $1", [b"x"])
    (step,) = talk.client(asked)

    assert step.frame == asked
    assert told([step]) == [(0, "SELECT $1")]
    (command,) = step.starts
    assert (command.text, command.params) == ("SELECT $1", ("x",))

    (step,) = talk.target(ran("SELECT 1", data_row(b"x")) + ready())

    assert step.ends == (command,)
    assert (command.columns, command.rows_returned, command.txn_status) == (("a",), 1, "I")


def test_byte_by_byte_nothing_goes_on_before_the_server_is_made_to_answer(talk: Talk) -> None:
    asked = run("SELECT 1")
    steps = talk.client(asked, size=1)

    # Execute comes with what it needs; the Sync, which nobody could foresee, by itself.
    assert [step.frame for step in steps] == [asked[:-5], SYNC]
    assert told(steps) == [(0, "SELECT 1"), (0, None)]


def test_parse_alone_waits_for_flush_or_sync(talk: Talk) -> None:
    prepared = parse("s1", "SELECT $1::int") + describe_statement("s1")
    assert talk.client(prepared) == []

    (step,) = talk.client(FLUSH)

    assert step.frame == prepared + FLUSH
    assert told([step]) == [(-1, "SELECT $1::int")]
    assert step.starts == ()
    (step,) = talk.target(
        PARSE_COMPLETE + parameter_description(23) + row_description(("int4", 23))
    )
    assert (step.events[0].command_no, step.ends) == (-1, ())


def test_every_execution_of_a_prepared_statement_is_a_command_with_its_parameters(
    talk: Talk,
) -> None:
    talk.client(parse("s1", "SELECT $1::int, $2") + describe_statement("s1") + SYNC)
    talk.target(PARSE_COMPLETE + parameter_description(23, 25))
    talk.target(row_description(("int4", 23), ("text", 25)) + ready())
    for n in range(1000):
        value = n.to_bytes(4, "big")
        talk.client(bind("", "s1", [value, b"x"], [1, 0], [1]) + execute() + SYNC)
        talk.target(BIND_COMPLETE + data_row(value, b"x") + command_complete("SELECT 1") + ready())

    assert len(talk.commands) == len(talk.ended) == 1000
    assert [c.params for c in talk.commands.values()] == [(str(n), "x") for n in range(1000)]
    command = talk.commands[999]
    assert command.text == "SELECT $1::int, $2"
    assert command.columns == ("int4", "text")
    # Described before the Bind, whose one format is for all columns.
    assert [(c.name, c.type, c.format) for c in command.result_columns] == [
        ("int4", 23, 1),
        ("text", 25, 1),
    ]
    assert [c.txn_no for c in talk.ended] == list(range(1, 1001))


def test_a_pipeline_of_executions_pairs_answers_by_position(talk: Talk) -> None:
    parts = [parse("", "INSERT INTO t VALUES ($1)")]
    parts += [bind("", "", [str(n).encode()]) + execute() for n in range(5)]
    steps = talk.client(b"".join(parts) + SYNC)
    assert [len(step.starts) for step in steps] == [1] * 5
    assert steps[0].frame.startswith(parts[0])
    assert steps[4].frame.endswith(SYNC)

    answers = PARSE_COMPLETE
    answers += b"".join(BIND_COMPLETE + command_complete(f"INSERT 0 {n}") for n in range(5))
    talk.target(answers + ready())

    assert [(c.command_no, c.rows_affected) for c in talk.ended] == [(n, n) for n in range(5)]
    # One implicit transaction; only its last command's end was reported.
    assert {c.txn_no for c in talk.ended} == {1}
    assert [c.txn_status for c in talk.ended] == [None] * 4 + ["I"]


def test_what_is_pipelined_behind_a_failure_never_ran(talk: Talk) -> None:
    talk.client(
        parse("", "SELECT 1/$1") + bind("", "", [b"0"]) + execute()
        + parse("s", "SELECT 2") + bind("", "s") + execute()
        + SYNC
        + parse("", "SELECT 3") + bind() + execute() + SYNC
    )  # fmt: skip
    steps = talk.target(PARSE_COMPLETE + BIND_COMPLETE + error("22012") + ready())
    assert [c.command_no for c in steps[1].ends] == [1]
    assert told(steps)[1:] == [(0, "ERROR 22012 no"), (0, None)]
    talk.target(PARSE_COMPLETE + BIND_COMPLETE + command_complete("SELECT 0") + ready())

    assert [talk.commands[n].status for n in range(3)] == ["error", "incomplete", "ok"]
    assert talk.commands[0].txn_status == "I"
    # The statement was skipped, too: its name stands for nothing.
    talk.client(bind("", "s") + execute() + SYNC)
    assert talk.commands[3].text == 'EXECUTE "s"'


def test_an_error_of_parse_is_the_fault_of_its_command(talk: Talk) -> None:
    talk.client(run("SELECT * FROM nowhere"))
    steps = talk.target(error("42P01", 'relation "nowhere" does not exist') + ready())

    (command,) = talk.ended
    assert (command.status, command.error_code) == ("error", "42P01")
    assert told(steps)[0] == (0, 'ERROR 42P01 relation "nowhere" does not exist')


def test_a_statement_that_cannot_be_prepared_is_a_command_that_failed(talk: Talk) -> None:
    asked = talk.client(parse("s1", "SELEC") + describe_statement("s1") + SYNC)
    steps = talk.target(error("42601") + ready("E"))

    assert told(asked) == [(-1, "SELEC")]
    assert told(steps) == [(0, "ERROR 42601 no"), (0, None)]
    (command,) = steps[0].starts
    assert talk.ended == [command]
    assert (command.text, command.status, command.error_code) == ("SELEC", "error", "42601")
    assert command.txn_status == "E"
    with pytest.raises(ValueError, match="starts commands"):  # it is too late for that
        talk.conversation.refuse(steps[0], DENIED)


def test_a_statement_that_cannot_be_prepared_ends_at_once_where_no_sync_is_owed(
    talk: Talk,
) -> None:
    talk.client(parse("s1", "SELEC") + FLUSH)
    (step,) = talk.target(error("42601"))

    assert step.starts == step.ends == (talk.commands[0],)
    assert told(talk.client(SYNC)) == [(-1, None)]
    assert told(talk.target(ready())) == [(-1, None)]


def test_an_error_of_bind_without_execute_belongs_to_no_command(talk: Talk) -> None:
    talk.client(bind("p", "nowhere") + SYNC)
    steps = talk.target(error("26000") + ready())

    assert told(steps) == [(-1, "ERROR 26000 no")]
    assert talk.commands == {}


def test_commands_sent_after_an_error_and_before_the_sync_end_at_once(talk: Talk) -> None:
    talk.client(parse("", "SELECT 1/0") + bind() + execute() + FLUSH)
    (first, second) = talk.target(PARSE_COMPLETE + BIND_COMPLETE + error("22012"))
    assert first.ends == ()
    assert second.ends == (talk.commands[0],)
    assert talk.commands[0].txn_status is None

    (step,) = talk.client(bind() + execute() + FLUSH)
    assert step.ends == step.starts == (talk.commands[1],)
    (step,) = talk.client(query("SELECT 2; SELECT 3"))  # skipped as well (tcop/postgres.c)
    assert [c.status for c in step.ends] == ["incomplete", "incomplete"]

    talk.client(SYNC)
    (step,) = talk.target(ready())
    assert step.ends == ()
    talk.client(query("SELECT 4"))
    talk.target(command_complete("SELECT 0") + ready())
    assert talk.ended_nos() == [0, 1, 2, 3, 4]


def test_a_deferred_constraint_fails_the_last_command_at_the_sync(talk: Talk) -> None:
    talk.client(run("INSERT INTO t VALUES (1)"))
    talk.target(PARSE_COMPLETE + BIND_COMPLETE + NO_DATA + command_complete("INSERT 0 1"))
    assert talk.ended == []
    talk.target(error("23505", "duplicate key") + ready())

    (command,) = talk.ended
    assert (command.status, command.error_code) == ("error", "23505")
    assert (command.rows_affected, command.txn_status) == (None, "I")


def test_a_suspended_portal_is_executed_again_as_a_command_of_its_own(talk: Talk) -> None:
    talk.client(query("BEGIN"))
    talk.target(command_complete("BEGIN") + ready("T"))
    talk.client(parse("", "SELECT n FROM t") + bind("p") + describe_portal("p") + execute("p", 2))
    talk.client(FLUSH)
    talk.target(
        PARSE_COMPLETE + BIND_COMPLETE + row_description(("n", 23))
        + data_row(b"1") + data_row(b"2") + PORTAL_SUSPENDED
    )  # fmt: skip
    talk.client(execute("p", 2) + SYNC)
    talk.target(data_row(b"3") + command_complete("SELECT 1") + ready("T"))

    _, first, second = talk.ended
    assert [c.text for c in (first, second)] == ["SELECT n FROM t"] * 2
    assert (first.status, first.rows_returned, first.txn_status) == ("ok", 2, None)
    assert (second.status, second.rows_returned, second.txn_status) == ("ok", 1, "T")
    assert second.columns == ("n",)
    assert [c.txn_no for c in talk.ended] == [1, 1, 1]


def test_a_portal_is_forgotten_with_its_transaction_and_not_before(talk: Talk) -> None:
    talk.client(parse("", "SELECT 1") + bind("p") + execute("p") + SYNC)
    talk.client(parse("", "SELECT 2") + bind("p") + SYNC)  # sent ahead of the first answer
    talk.target(PARSE_COMPLETE + BIND_COMPLETE + command_complete("SELECT 0") + ready())
    talk.target(PARSE_COMPLETE + BIND_COMPLETE + ready("T"))
    talk.client(execute("p") + SYNC)
    assert talk.commands[1].text == "SELECT 2"
    talk.target(command_complete("SELECT 0") + ready())

    talk.client(execute("p", 5) + SYNC)

    assert talk.commands[2].text == 'FETCH 5 FROM "p"'
    assert talk.commands[2].params is None


def test_a_portal_that_is_closed_is_known_no_more(talk: Talk) -> None:
    talk.client(parse("", "SELECT 1") + bind("p") + close_portal("p") + execute("p") + SYNC)

    assert talk.commands[0].text == 'FETCH ALL FROM "p"'
    talk.target(PARSE_COMPLETE + BIND_COMPLETE + CLOSE_COMPLETE + error("34000") + ready())
    assert talk.commands[0].status == "error"


def test_describing_an_unknown_portal_is_answered_all_the_same(talk: Talk) -> None:
    talk.client(describe_portal("cursor") + SYNC)
    (step,) = talk.target(row_description(("a", 23)) + ready())

    assert step.events[0].command_no == -1


def test_rows_without_a_description_are_counted(talk: Talk) -> None:
    talk.client(parse("", "SELECT 1") + bind() + execute() + SYNC)
    talk.target(PARSE_COMPLETE + BIND_COMPLETE + data_row(b"1") + command_complete("SELECT 1"))
    talk.target(ready())

    (command,) = talk.ended
    assert (command.columns, command.rows_returned) == ((), 1)
    assert talk.commands[0].result_columns == ()


def test_two_executions_in_a_row_are_two_commands(talk: Talk) -> None:
    steps = talk.client(parse("", "SELECT 1") + bind() + execute("", 1) + execute() + SYNC)

    assert [told([step]) for step in steps] == [[(0, "SELECT 1")], [(1, "SELECT 1")]]


def test_a_query_behind_held_messages_is_a_step_of_its_own(talk: Talk) -> None:
    held = parse("s", "SELECT 1")
    assert talk.client(held) == []
    steps = talk.client(query("SELECT 2"))

    assert [step.frame for step in steps] == [held, query("SELECT 2")]
    assert told(steps) == [(-1, "SELECT 1"), (0, "SELECT 2")]


def test_a_sync_alone_after_its_command_has_ended_belongs_to_none(talk: Talk) -> None:
    talk.client(parse("", "SELECT 1") + bind() + execute() + FLUSH)
    talk.target(PARSE_COMPLETE + BIND_COMPLETE + command_complete("SELECT 0"))
    assert talk.ended_nos() == [0]
    assert told(talk.client(SYNC)) == [(-1, None)]
    assert told(talk.target(ready())) == [(-1, None)]


def test_terminate_is_a_step(talk: Talk) -> None:
    held = parse("s", "SELECT 1")
    steps = talk.client(held + TERMINATE)

    assert [step.frame for step in steps] == [held, TERMINATE]
    assert told(steps)[1] == (-1, "Terminate")


# Parameters.


def test_parameters_are_text_or_hexadecimal_or_a_plain_type(talk: Talk) -> None:
    talk.client(parse("s", "SELECT $1, $2, $3, $4", 23, 17, 16) + SYNC)
    talk.target(PARSE_COMPLETE + ready())
    talk.client(bind("", "s", [b"\0\0\0\7", b"\1\2", b"\1", b"\3"], [1]) + execute() + SYNC)

    assert talk.commands[0].params == ("7", "\\x0102", "true", "\\x03")


@pytest.mark.parametrize("form", [0, 1])
def test_parameters_over_64_kib_together_are_not_in_the_row(talk: Talk, form: int) -> None:
    value = b"x" * (40_000 if form == 0 else 20_000)  # hexadecimal doubles it
    talk.client(run("SELECT $1, $2", [value, value], formats=[form]))

    assert talk.commands[0].params is None


def test_parameters_of_exactly_64_kib_are_in_the_row(talk: Talk) -> None:
    talk.client(run("SELECT $1", [b"x" * 65_536]))

    assert talk.commands[0].params == ("x" * 65_536,)


def test_a_parameter_may_be_null(talk: Talk) -> None:
    talk.client(run("SELECT $1, $2", [None, b""]))

    assert talk.commands[0].params == (None, "")


# Names.


def test_a_statement_made_by_sql_reads_as_execute(talk: Talk) -> None:
    talk.client(query("PREPARE p AS SELECT 1"))
    talk.target(command_complete("PREPARE") + ready())
    talk.client(bind("", "p") + execute() + SYNC)

    assert talk.commands[1].text == 'EXECUTE "p"'


def test_a_name_means_again_what_it_meant_when_a_parse_fails(talk: Talk) -> None:
    talk.client(parse("s", "SELECT 1") + SYNC)
    talk.target(PARSE_COMPLETE + ready())
    talk.client(parse("s", "SELECT 2") + SYNC)
    talk.target(error("42P05", "already exists") + ready())
    talk.client(bind("", "s") + execute() + SYNC)

    assert talk.commands[1].text == "SELECT 1"


def test_a_name_means_again_what_it_meant_when_its_close_is_skipped(talk: Talk) -> None:
    talk.client(parse("s", "SELECT 1") + SYNC)
    talk.target(PARSE_COMPLETE + ready())
    talk.client(parse("x", "SELEC") + close_statement("s") + SYNC)
    talk.target(error("42601") + ready())
    talk.client(bind("", "s") + execute() + SYNC)
    assert talk.commands[1].text == "SELECT 1"
    talk.target(BIND_COMPLETE + command_complete("SELECT 0") + ready())

    talk.client(close_statement("s") + SYNC)
    talk.target(CLOSE_COMPLETE + ready())
    talk.client(bind("", "s") + execute() + SYNC)
    assert talk.commands[2].text == 'EXECUTE "s"'


def test_names_sent_ahead_of_answers_settle_when_these_come(talk: Talk) -> None:
    talk.client(parse("s", "SELECT 1") + SYNC)
    talk.target(PARSE_COMPLETE + ready())
    # Closed and made anew in one go, then twice more, which fails both times.
    talk.client(close_statement("s") + parse("s", "SELECT 2") + SYNC)
    talk.client(parse("s", "SELECT 3") + SYNC + parse("s", "SELECT 4") + SYNC)
    talk.target(CLOSE_COMPLETE + PARSE_COMPLETE + ready())
    talk.target(error("42P05") + ready() + error("42P05") + ready())
    talk.client(bind("", "s") + execute() + SYNC)

    assert talk.commands[2].text == "SELECT 2"


def test_what_discard_dropped_does_not_come_back_when_a_parse_sent_ahead_fails(
    talk: Talk,
) -> None:
    talk.client(parse("s", "SELECT 1") + SYNC)
    talk.target(PARSE_COMPLETE + ready())
    talk.client(query("DISCARD ALL") + parse("s", "SELEC") + SYNC)
    talk.target(command_complete("DISCARD ALL") + ready() + error("42601") + ready())
    talk.client(bind("", "s") + execute() + SYNC)

    assert talk.commands[2].text == 'EXECUTE "s"'


def test_deallocate_of_what_is_not_known_drops_nothing(talk: Talk) -> None:
    talk.client(parse("s", "SELECT 1") + SYNC)
    talk.target(PARSE_COMPLETE + ready())
    talk.client(query("DEALLOCATE other"))
    talk.target(command_complete("DEALLOCATE") + ready())
    talk.client(bind("", "s") + execute() + SYNC)

    assert talk.commands[1].text == "SELECT 1"


def test_a_deallocate_that_does_not_say_plainly_what_it_drops_drops_all(talk: Talk) -> None:
    talk.client(parse("s", "SELECT 1") + SYNC)
    talk.target(PARSE_COMPLETE + ready())
    talk.client(query("/* s */ DEALLOCATE s"))
    talk.target(command_complete("DEALLOCATE") + ready())
    talk.client(bind("", "s") + execute() + SYNC)

    assert talk.commands[1].text == 'EXECUTE "s"'


# A name whose meaning is not settled.


def test_a_statement_parsed_again_behind_a_sync_is_not_bound_before_the_server_has_answered(
    talk: Talk,
) -> None:
    talk.client(parse("x", "DELETE FROM t") + SYNC)
    talk.target(PARSE_COMPLETE + ready())
    again = parse("x", "SELECT 1") + SYNC
    then = bind("", "x") + execute() + SYNC

    steps = talk.client(again + then)
    assert b"".join(step.frame for step in steps) == again
    answer = talk.target(error("42P05") + ready())
    assert [step.side for step in answer][-1] is Side.CLIENT
    assert answer[-1].frame == then
    assert answer[-1].starts[0].text == "DELETE FROM t"


def test_what_a_skipped_parse_would_have_named_is_not_what_runs(talk: Talk) -> None:
    talk.client(parse("", "DELETE FROM t") + SYNC)
    talk.target(PARSE_COMPLETE + ready())
    talk.client(bind("", "nope") + parse("", "SELECT 1") + SYNC + bind("", "") + execute() + SYNC)
    talk.target(error("26000") + ready())
    talk.target(BIND_COMPLETE + command_complete("DELETE 3") + ready())

    assert [c.text for c in talk.commands.values()][-1] == "DELETE FROM t"


def test_a_bind_of_a_fresh_statement_waits_for_nobody(talk: Talk) -> None:
    whole = parse("x", "SELECT 1") + bind("", "x") + execute() + SYNC
    assert b"".join(step.frame for step in talk.client(whole + whole)) == whole + whole


def test_a_portal_bound_again_behind_a_sync_is_not_executed_before_the_server_has_answered(
    talk: Talk,
) -> None:
    talk.client(query("BEGIN") + parse("r", "ROLLBACK") + bind("p", "r") + SYNC)
    talk.target(
        command_complete("BEGIN") + ready("T") + PARSE_COMPLETE + BIND_COMPLETE + ready("T")
    )
    talk.client(parse("s", "SELECT 1") + SYNC)
    talk.target(PARSE_COMPLETE + ready("T"))
    talk.client(bind("p", "s") + SYNC + execute("p") + SYNC)
    talk.target(error("42P03") + ready("E"))
    talk.target(command_complete("ROLLBACK") + ready())

    assert talk.commands[1].text == "ROLLBACK"


def test_more_than_16_mib_behind_an_unsettled_statement_end_the_connection(talk: Talk) -> None:
    talk.client(parse("x", "SELECT 1") + SYNC)
    talk.client(bind("", "x") + execute() + SYNC)
    for _ in range(60):
        talk.client(query("SELECT '" + "x" * 250_000 + "'"))
    with pytest.raises(ClientProtocolError, match="16 MiB"):
        talk.client(b"".join(query("SELECT '" + "x" * 250_000 + "'") for _ in range(10)))


def test_what_is_skipped_keeps_its_own_text(talk: Talk) -> None:
    talk.client(parse("", "SELECT 1/0") + bind() + execute() + FLUSH)
    talk.target(PARSE_COMPLETE + BIND_COMPLETE + error("22012"))
    talk.client(parse("", "DELETE FROM t") + bind() + execute() + SYNC)
    talk.target(ready())

    assert [c.text for c in talk.commands.values()] == ["SELECT 1/0", "DELETE FROM t"]
    talk.client(bind("", "") + execute() + SYNC)
    assert talk.commands[2].text == "SELECT 1/0"


def test_an_answer_that_says_more_than_the_text_makes_a_read_unknown(talk: Talk) -> None:
    talk.client(parse("", "SELECT 1") + bind() + execute() + SYNC)
    (command,) = talk.commands.values()
    command.cls, command.confidence = "read", "certain"
    talk.target(PARSE_COMPLETE + BIND_COMPLETE + command_complete("DELETE 5") + ready())

    assert (command.cls, command.confidence) == ("unknown", "uncertain")
    assert command.risk == ("answered as DELETE",)


@pytest.mark.parametrize(
    ("formats", "expected"), [([], [0, 0]), ([1], [1, 1]), ([0, 1], [0, 1]), ([0, 1, 1], [0, 0])]
)
def test_a_statements_columns_have_the_formats_of_the_bind(
    talk: Talk, formats: list[int], expected: list[int]
) -> None:
    talk.client(parse("s", "SELECT 1, 2") + describe_statement("s") + SYNC)
    talk.target(PARSE_COMPLETE + parameter_description())
    talk.target(row_description(("a", 23), ("b", 23)) + ready())
    talk.client(bind("", "s", result_formats=formats) + execute() + SYNC)

    assert [c.format for c in talk.commands[0].result_columns] == expected


def test_a_portals_columns_are_those_that_its_description_said(talk: Talk) -> None:
    talk.client(run("SELECT 1", result_formats=[1]))
    talk.target(PARSE_COMPLETE + BIND_COMPLETE + row_description(("a", 23, 1)))

    assert [c.format for c in talk.commands[0].result_columns] == [1]


def test_a_querys_columns_are_those_of_its_result(talk: Talk) -> None:
    talk.client(query("SELECT 1"))
    talk.target(row_description(("a", 23)))

    assert [c.name for c in talk.commands[0].result_columns] == ["a"]


@pytest.mark.parametrize(
    ("sql", "tag"),
    [
        ("DEALLOCATE s", "DEALLOCATE"),
        ('deallocate prepare "s";', "DEALLOCATE"),
        ("DEALLOCATE ALL", "DEALLOCATE ALL"),
        ("DISCARD ALL", "DISCARD ALL"),
    ],
)
def test_sql_that_drops_a_statement_drops_its_name(talk: Talk, sql: str, tag: str) -> None:
    talk.client(parse("s", "SELECT 1") + SYNC)
    talk.target(PARSE_COMPLETE + ready())
    talk.client(query(sql))
    talk.client(parse("t", "SELECT 2") + SYNC)  # sent ahead: it comes after the drop
    talk.target(command_complete(tag) + ready() + PARSE_COMPLETE + ready())
    talk.client(bind("", "s") + execute() + SYNC + bind("", "t") + execute() + SYNC)

    assert [talk.commands[n].text for n in (1, 2)] == ['EXECUTE "s"', "SELECT 2"]


def test_statements_beyond_the_memory_bound_are_forgotten_oldest_first(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_prepared, "MAX_PREPARED_BYTES", 10_000)
    for n in range(100):
        talk.client(parse(f"s{n}", f"SELECT {n}") + SYNC)
        talk.target(PARSE_COMPLETE + ready())
    talk.client(bind("", "s0") + execute() + SYNC + bind("", "s99") + execute() + SYNC)

    assert [c.text for c in talk.commands.values()] == ['EXECUTE "s0"', "SELECT 99"]


def test_portals_beyond_the_memory_bound_are_forgotten_oldest_first(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_prepared, "MAX_PORTALS", 2)
    talk.client(parse("", "SELECT 1") + bind("a") + bind("b") + bind("c"))
    talk.client(execute("a") + execute("c") + SYNC)

    assert [c.text for c in talk.commands.values()] == ['FETCH ALL FROM "a"', "SELECT 1"]


# Out of band.


def test_notices_settings_and_notifications_pair_with_nothing(talk: Talk) -> None:
    talk.target(notification("jobs", "1") + parameter_status("TimeZone", "UTC"))
    talk.client(run("SELECT 1"))
    talk.target(notice("before") + PARSE_COMPLETE + parameter_status("TimeZone", "CET"))
    steps = talk.target(
        BIND_COMPLETE + NO_DATA + notice("in the middle") + notification("jobs", "2")
        + command_complete("SELECT 0") + notice("late") + ready()
    )  # fmt: skip

    assert told(steps) == [(0, "NOTICE 00000 in the middle\nNOTICE 00000 late")]
    assert [event.command_no for event in talk.events()] == [-1, 0, 0, 0]
    assert talk.commands[0].status == "ok"


def test_fatal_in_a_command_ends_it_as_an_error_at_once(talk: Talk) -> None:
    talk.client(query("SELECT pg_sleep(9)"))
    (step,) = talk.target(error("57P01", "terminating connection", "FATAL"))

    assert told([step]) == [(0, "FATAL 57P01 terminating connection")]
    assert step.ends == (talk.commands[0],)
    assert (talk.commands[0].status, talk.commands[0].error_code) == ("error", "57P01")


@pytest.mark.parametrize(
    ("asked", "answered", "status"),
    [
        (query("DELETE FROM t"), command_complete("DELETE 1"), "ok"),
        (run("DELETE FROM t"), ran("DELETE 1"), "error"),
    ],
)
def test_fatal_before_ready_for_query_undoes_what_only_the_sync_would_commit(
    talk: Talk, asked: bytes, answered: bytes, status: str
) -> None:
    talk.client(asked)
    talk.target(answered)
    talk.target(error("57P01", "terminating connection", "FATAL"))

    (command,) = talk.ended
    assert (command.status, command.txn_status) == (status, None)


def test_fatal_out_of_nowhere_reaches_the_client(talk: Talk) -> None:
    (step,) = talk.target(error("57P01", "terminating connection", "FATAL"))

    assert (step.events[0].command_no, step.ends) == (-1, ())


def test_a_cancelled_command_says_so(talk: Talk) -> None:
    talk.client(query("SELECT pg_sleep(9)"))
    talk.target(error("57014", "canceling statement due to user request") + ready())

    assert (talk.ended[0].status, talk.ended[0].error_code) == ("cancelled", "57014")


# Transactions.


def test_commands_between_two_idle_states_share_a_transaction_number(talk: Talk) -> None:
    for sql, tag, status in [
        ("SELECT 1", "SELECT 0", "I"),
        ("BEGIN", "BEGIN", "T"),
        ("DELETE FROM t", "DELETE 3", "T"),
        ("COMMIT", "COMMIT", "I"),
        ("SELECT 2", "SELECT 0", "I"),
    ]:
        talk.client(query(sql))
        talk.target(command_complete(tag) + ready(status))
        assert talk.conversation.txn_status == status
        assert talk.conversation.in_transaction == (status != "I")

    assert [c.txn_no for c in talk.ended] == [1, 2, 2, 2, 3]


def test_a_commit_inside_a_query_begins_a_new_number(talk: Talk) -> None:
    talk.client(query("BEGIN; COMMIT; SELECT 1"))
    talk.target(command_complete("BEGIN") + command_complete("COMMIT"))
    talk.target(command_complete("SELECT 0") + ready())

    assert [c.txn_no for c in talk.ended] == [1, 1, 2]


@pytest.mark.parametrize(
    ("sql", "tag", "ends"),
    [
        ("ROLLBACK", "ROLLBACK", True),
        ("abort work", "ROLLBACK", True),
        ("ROLLBACK AND CHAIN", "ROLLBACK", True),
        ("COMMIT AND CHAIN", "COMMIT", True),
        ("COMMIT AND CHAIN", "ROLLBACK", True),  # the transaction had failed
        ("PREPARE TRANSACTION 'x'", "PREPARE TRANSACTION", True),
        ("ROLLBACK TO a", "ROLLBACK", False),
        ("Rollback Work To Savepoint a", "ROLLBACK", False),
        # A comment may hold another.
        ("-- and chain\nROLLBACK /* /* */ AND CHAIN -- */ TRANSACTION\tTO a", "ROLLBACK", False),
        ("ROLLBACK -- TO a\n AND CHAIN", "ROLLBACK", True),
        ("/* /* */ ROLLBACK TO a */ ROLLBACK", "ROLLBACK", True),
        ("SAVEPOINT a", "SAVEPOINT", False),
    ],
)
def test_a_transaction_ends_where_the_next_one_begins_at_once(
    talk: Talk, sql: str, tag: str, ends: bool
) -> None:
    for each, answer in [("BEGIN", "BEGIN"), (sql, tag), ("SELECT 1", "SELECT 0")]:
        talk.client(query(each))
        talk.target(command_complete(answer) + ready("T"))

    assert [c.txn_no for c in talk.ended] == [1, 1, 2 if ends else 1]


# Counting.


@pytest.mark.parametrize(
    ("tag", "returned", "affected"),
    [
        ("INSERT 0 3", None, 3),
        ("UPDATE 0", None, 0),
        ("DELETE 7", None, 7),
        ("MERGE 2", None, 2),
        ("SELECT 0", 0, None),
        ("SELECT 5", None, 5),  # CREATE TABLE AS: no row was sent
        ("MOVE 4", None, None),
        ("FETCH 0", 0, None),
        ("CREATE TABLE", None, None),
        ("BEGIN", None, None),
        ("SELECT 99999999999999999999", 0, None),
    ],
)
def test_rows_are_counted_by_what_the_tag_means(
    talk: Talk, tag: str, returned: int | None, affected: int | None
) -> None:
    talk.client(query("x"))
    talk.target(command_complete(tag) + ready())

    assert (talk.ended[0].rows_returned, talk.ended[0].rows_affected) == (returned, affected)


def test_returning_counts_both_ways(talk: Talk) -> None:
    talk.client(query("DELETE FROM t RETURNING a"))
    talk.target(row_description(("a", 23)) + data_row(b"1") + data_row(b"2"))
    talk.target(command_complete("DELETE 2") + ready())

    assert (talk.ended[0].rows_returned, talk.ended[0].rows_affected) == (2, 2)


# COPY.


def test_copy_in_by_a_query_is_one_command_with_its_data(talk: Talk) -> None:
    talk.client(query("COPY t FROM STDIN"))
    talk.target(COPY_IN)
    data = copy_data(b"1\n") + copy_data(b"2\n")
    (step,) = talk.client(data)
    assert (step.frame, told([step])) == (data, [(0, None)])
    (step,) = talk.client(copy_data(b"3\n") + COPY_DONE)
    assert step.events[0].command_no == 0
    talk.target(command_complete("COPY 3") + ready())

    assert (talk.ended[0].status, talk.ended[0].rows_affected) == ("ok", 3)
    assert talk.ended[0].rows_returned is None


def test_copy_out_counts_what_the_tag_says(talk: Talk) -> None:
    talk.client(query("COPY t TO STDOUT"))
    steps = talk.target(COPY_OUT + copy_data(b"1\n") + copy_data(b"2\n") + COPY_DONE)
    steps += talk.target(command_complete("COPY 2") + ready())

    assert {event.command_no for step in steps for event in step.events} == {0}
    assert (talk.ended[0].rows_returned, talk.ended[0].rows_affected) == (2, None)


def test_copy_both_passes(talk: Talk) -> None:
    talk.client(query("START_REPLICATION SLOT s LOGICAL 0/0"))
    talk.target(COPY_BOTH + copy_data(b"w"))
    talk.client(copy_data(b"r") + COPY_DONE)
    talk.target(COPY_DONE + command_complete("COPY 0") + ready())

    assert talk.ended[0].status == "ok"


def test_a_sync_sent_before_the_server_said_copy_is_read_as_part_of_it(talk: Talk) -> None:
    # libpq: PQexecParams("COPY …") sends Sync at once, and PQputCopyEnd another one.
    talk.client(run("COPY t FROM STDIN"))
    talk.target(PARSE_COMPLETE + BIND_COMPLETE + NO_DATA + COPY_IN)
    talk.client(copy_data(b"1\n"))
    talk.client(SYNC)  # this one too is ignored
    talk.client(COPY_DONE + SYNC)
    talk.target(command_complete("COPY 1") + ready())
    assert (talk.ended[0].status, talk.ended[0].txn_status) == ("ok", "I")

    talk.client(query("SELECT 1"))
    talk.target(command_complete("SELECT 0") + ready())
    assert talk.ended_nos() == [0, 1]


def test_a_copy_sent_whole_before_the_server_said_copy_pairs_its_own_sync(talk: Talk) -> None:
    talk.client(run("COPY t FROM STDIN") + copy_data(b"1\n") + COPY_DONE + SYNC)
    talk.client(run("SELECT 1"))
    talk.target(PARSE_COMPLETE + BIND_COMPLETE + NO_DATA + COPY_IN)
    talk.target(command_complete("COPY 1") + ready())
    talk.target(ran("SELECT 0") + ready())

    assert [c.status for c in talk.ended] == ["ok", "ok"]


def test_a_copy_in_that_fails_lets_the_client_finish_talking(talk: Talk) -> None:
    talk.client(query("COPY t FROM STDIN"))
    talk.target(COPY_IN)
    talk.client(copy_data(b"zzz\n"))
    talk.target(error("22P02", "invalid input syntax") + ready())
    assert talk.ended[0].status == "error"

    (step,) = talk.client(copy_data(b"1\n") + copy_fail("stopped"))
    assert told([step]) == [(-1, None)]
    talk.client(query("SELECT 1"))
    talk.target(command_complete("SELECT 0") + ready())
    assert talk.ended_nos() == [0, 1]


def test_an_extended_copy_that_fails_skips_to_the_sync_behind_it(talk: Talk) -> None:
    talk.client(run("COPY t FROM STDIN"))
    talk.target(PARSE_COMPLETE + BIND_COMPLETE + NO_DATA + COPY_IN)
    talk.client(copy_data(b"zzz\n"))
    talk.target(error("22P02"))
    assert talk.ended_nos() == [0]
    talk.client(copy_fail("stopped") + SYNC)
    talk.target(ready())
    talk.client(run("SELECT 1"))
    talk.target(ran("SELECT 0") + ready())

    assert [c.status for c in talk.ended] == ["error", "ok"]


def test_a_copy_that_fails_before_it_reads_answers_the_sync_that_it_did_not_ignore(
    talk: Talk,
) -> None:
    # A BEFORE STATEMENT trigger fails after CopyInResponse, before a message is read.
    talk.client(run("COPY t FROM STDIN"))
    talk.target(PARSE_COMPLETE + BIND_COMPLETE + NO_DATA + COPY_IN + error("P0001"))
    talk.target(ready())
    talk.client(COPY_DONE + SYNC)
    talk.target(ready())
    talk.client(run("SELECT 1"))
    talk.target(ran("SELECT 0") + ready())

    assert [c.status for c in talk.ended] == ["error", "ok"]


# Long messages.


def test_a_long_row_passes_in_pieces_whose_hash_is_in_the_command(talk: Talk) -> None:
    talk.client(query("SELECT blob"))
    row = data_row(bytes(range(256)) * 4096)
    head = row_description(("blob", 17))
    steps = talk.target(head + row + command_complete("SELECT 1") + ready())

    sizes = [len(step.frame) for step in steps]
    assert sizes[1:5] == [MAX_EVENT_BYTES] * 4
    flags = [bool(step.events[0].flags & Flag.CONTINUED) for step in steps]
    assert flags == [False, True, True, True, True, False, False]
    assert b"".join(step.frame for step in steps[1:6]) == row
    (command,) = talk.ended
    assert (command.rows_returned, command.sha256) == (1, (hashlib.sha256(row).hexdigest(),))


def test_a_message_of_exactly_an_event_is_not_a_long_one(talk: Talk) -> None:
    talk.client(query("SELECT blob"))
    row = data_row(b"x" * (MAX_EVENT_BYTES - 11))
    assert len(row) == MAX_EVENT_BYTES
    (step,) = talk.target(row)

    assert step.events[0].flags == Flag.FROM_TARGET
    row = data_row(b"x" * (MAX_EVENT_BYTES - 10))
    assert len(talk.target(row)) == 2


def test_a_run_of_rows_is_cut_at_a_row_before_it_outgrows_an_event(talk: Talk) -> None:
    talk.client(query("SELECT a"))
    row = data_row(b"x" * 1000)
    steps = talk.target(row * 1000)

    assert [len(step.frame) % len(row) for step in steps] == [0] * len(steps)
    assert all(len(step.frame) <= MAX_EVENT_BYTES for step in steps)
    assert len(steps) == 4


def test_a_long_error_is_told_by_its_beginning(talk: Talk) -> None:
    talk.client(query("DO $$…$$"))
    steps = talk.target(error("P0001", "x" * 600_000) + ready())

    (command,) = talk.ended
    assert (command.error_code, command.error_text) == ("P0001", "x" * 65_536)
    assert len(steps) == 4


def test_long_copy_data_of_the_client_passes_in_pieces(talk: Talk) -> None:
    talk.client(query("COPY t FROM STDIN"))
    talk.target(COPY_IN)
    data = copy_data(b"x" * 600_000)
    steps = talk.client(data + COPY_DONE, size=70_000)

    assert [bool(step.events[0].flags & Flag.CONTINUED) for step in steps] == [
        True,
        True,
        False,
        False,
    ]
    assert b"".join(step.frame for step in steps) == data + COPY_DONE
    assert {step.events[0].command_no for step in steps} == {0}
    assert talk.commands[0].sha256 == (hashlib.sha256(data).hexdigest(),)


def test_a_long_bind_passes_in_pieces_and_its_hash_is_in_the_execution(talk: Talk) -> None:
    bound = bind("", "", [b"x" * (2 << 20)])
    steps = talk.client(parse("", "INSERT INTO t VALUES ($1)") + bound + execute() + SYNC)

    assert b"".join(step.frame for step in steps[1:-1]) == bound
    assert told(steps)[-1] == (0, "INSERT INTO t VALUES ($1)")
    command = talk.commands[0]
    assert command.params is None
    assert command.sha256 == (hashlib.sha256(bound).hexdigest(),)
    # The Parse went ahead of its command, and still fails it.
    talk.target(error("42P01") + ready())
    assert (command.status, command.error_code) == ("error", "42P01")


def test_a_command_names_the_hash_of_frames_that_are_more_than_an_event(talk: Talk) -> None:
    asked = query("SELECT '" + "x" * 300_000 + "'")
    talk.client(asked)

    assert talk.commands[0].sha256 == (hashlib.sha256(asked).hexdigest(),)


def test_a_command_names_a_thousand_hashes_at_most(talk: Talk) -> None:
    for _ in range(1100):
        talk.commands.setdefault(0, talk.conversation._ledger.begin("x", "x")).add_hash("00")

    assert len(talk.commands[0].sha256) == 1000


# Refusals.


def refusing(talk: Talk, data: bytes, number: int = 0) -> Step:
    """Have the client say `data`, refuse the step of one command, return what stands in for it."""
    steps = talk.client(data)
    (step,) = (step for step in steps if step.starts and step.starts[0].command_no == number)
    talk.steps.remove(step)
    (stand_in,) = talk.refuse(step, DENIED)
    return stand_in


def test_a_refused_query_never_reaches_the_target_and_is_answered_at_its_turn(talk: Talk) -> None:
    talk.client(query("SELECT 1"))
    stand_in = refusing(talk, query("DROP TABLE t"), 1)

    assert b"DROP" not in stand_in.frame
    assert stand_in.synthetic
    assert stand_in.events[0].flags == Flag.SYNTHETIC
    # The server answers the first query first, then fails where the refused one stood.
    steps = talk.target(command_complete("SELECT 0") + ready() + error("42601", "syntax") + ready())

    sent = b"".join(step.frame for step in steps)
    first = command_complete("SELECT 0") + ready()
    assert sent.startswith(first)
    assert sent.endswith(ready())
    assert b"42501" in sent[len(first) :]
    assert b"syntax" not in sent
    assert [c.status for c in talk.ended] == ["ok", "denied"]
    denied = talk.ended[1]
    assert (denied.error_code, denied.error_text) == ("42501", "agentaudit: denied")
    (told_step,) = (step for step in steps if step.synthetic)
    assert told_step.events[0].flags == Flag.FROM_TARGET | Flag.SYNTHETIC
    assert told_step.events[0].text == "ERROR 42501 agentaudit: denied"


def test_a_refused_execution_fails_what_is_pipelined_behind_it(talk: Talk) -> None:
    stand_in = refusing(
        talk,
        parse("", "SELECT 1") + bind() + execute()
        + parse("s", "DELETE FROM t") + bind("", "s") + execute()
        + parse("", "SELECT 3") + bind() + execute() + SYNC,
        1,
    )  # fmt: skip

    assert stand_in.frame[:1] == b"P"
    assert SYNC not in stand_in.frame
    talk.target(PARSE_COMPLETE + BIND_COMPLETE + command_complete("SELECT 0"))
    talk.target(error("42601") + ready())
    assert {c.command_no: c.status for c in talk.ended} == {0: "ok", 1: "denied", 2: "incomplete"}
    talk.client(bind("", "s") + execute() + SYNC)
    assert talk.commands[3].text == 'EXECUTE "s"'


def test_a_refused_execution_keeps_its_sync(talk: Talk) -> None:
    stand_in = refusing(talk, run("DELETE FROM t"))
    assert stand_in.frame.endswith(SYNC)
    (step,) = talk.target(error("42601"))
    assert (step.synthetic, step.ends) == (True, ())
    (step,) = talk.target(ready("E"))

    assert step.ends == (talk.commands[0],)
    assert (talk.commands[0].status, talk.commands[0].txn_status) == ("denied", "E")
    assert talk.conversation.in_transaction


def test_all_statements_of_a_refused_query_are_denied(talk: Talk) -> None:
    refusing(talk, query("BEGIN; DELETE FROM t; COMMIT"))
    talk.target(error("42601") + ready())

    assert sorted((c.command_no, c.status) for c in talk.ended) == [
        (0, "denied"),
        (1, "denied"),
        (2, "denied"),
    ]


def test_a_refusal_behind_an_error_is_skipped_with_the_rest(talk: Talk) -> None:
    stand_in = refusing(
        talk,
        parse("", "SELECT 1/0")
        + bind()
        + execute()
        + parse("", "DROP TABLE t")
        + bind()
        + execute()
        + SYNC,
        1,
    )
    talk.target(PARSE_COMPLETE + BIND_COMPLETE + error("22012") + ready())

    assert stand_in.frame.endswith(SYNC)
    assert {c.command_no: c.status for c in talk.ended} == {0: "error", 1: "denied"}


@pytest.mark.parametrize(
    ("data", "left"),
    [(bind() + execute(), []), (bind() + execute() + SYNC, [SYNC]), (query("SELECT 2"), [])],
)
def test_of_what_the_server_skips_a_refusal_leaves_only_the_sync(
    talk: Talk, data: bytes, left: list[bytes]
) -> None:
    talk.client(parse("", "SELECT 1/0") + bind() + execute() + FLUSH)
    talk.target(PARSE_COMPLETE + BIND_COMPLETE + error("22012"))
    (step,) = talk.client(data)

    assert [s.frame for s in talk.conversation.refuse(step, DENIED)] == left


def test_only_a_step_that_starts_a_command_can_be_refused(talk: Talk) -> None:
    (step,) = talk.client(parse("s", "SELECT 1") + SYNC)

    with pytest.raises(ValueError, match="starts commands"):
        talk.conversation.refuse(step, DENIED)


def test_fatal_in_the_place_of_a_refusal_is_passed_on(talk: Talk) -> None:
    refusing(talk, query("DROP TABLE t"))
    (step,) = talk.target(error("57P01", "shutting down", "FATAL"))

    assert not step.synthetic
    assert b"57P01" in step.frame
    assert step.ends == (talk.commands[0],)
    assert talk.commands[0].status == "denied"


def test_a_function_call_is_refused_recorded_and_not_passed_on(talk: Talk) -> None:
    asked = function_call(2200)
    (step,) = talk.client(asked)

    assert step.synthetic
    assert step.frame[:1] != b"F"
    request, stand_in = step.events
    assert (request.payload, request.flags, request.text) == (asked, Flag.NONE, "FunctionCall")
    assert (stand_in.payload, stand_in.flags) == (step.frame, Flag.SYNTHETIC)
    (command,) = step.starts
    steps = talk.target(error("42601") + ready())
    assert b"0A000" in steps[0].frame
    assert talk.ended == [command]
    assert (command.status, command.decision, command.rule) == ("denied", "deny", "protocol")


def test_a_query_that_is_too_long_is_refused_with_all_of_it_recorded(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_requests, "MAX_DECIDED_BYTES", 400_000)
    asked = query("SELECT '" + "x" * 600_000 + "'")
    steps = talk.client(asked, size=100_000)

    assert [step.frame[:1] for step in steps] == [b"", b"", b"P"]
    recorded = b"".join(
        event.payload or b"" for event in talk.events() if not event.flags & Flag.SYNTHETIC
    )
    assert recorded == asked
    (command,) = talk.commands.values()
    assert len(command.text) == 65_536
    assert command.sha256 == (hashlib.sha256(asked).hexdigest(),)
    with pytest.raises(ValueError, match="starts commands"):
        talk.conversation.refuse(steps[0], DENIED)
    (told_step, end) = talk.target(error("42601") + ready())
    assert b"54000" in told_step.frame
    assert end.ends == (command,)
    assert command.status == "denied"


def test_a_parse_that_is_too_long_denies_the_execution_behind_it(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_requests, "MAX_DECIDED_BYTES", 400_000)
    steps = talk.client(
        parse("s", "SELECT '" + "x" * 600_000 + "'") + bind("", "s") + execute() + SYNC
    )

    assert all(b"xxx" not in step.frame for step in steps)
    (told_step, _) = talk.target(error("42601") + ready())
    assert b"54000" in told_step.frame
    (command,) = talk.ended
    assert (command.status, command.error_code) == ("denied", "54000")
    talk.client(bind("", "s") + execute() + SYNC)
    assert talk.commands[1].text == 'EXECUTE "s"'


@pytest.mark.parametrize(
    "asked", [query("x" * 600_000), parse("", "x" * 600_000), function_call(1)]
)
def test_what_is_refused_while_the_server_skips_needs_no_stand_in(
    talk: Talk, monkeypatch: pytest.MonkeyPatch, asked: bytes
) -> None:
    monkeypatch.setattr(postgres_requests, "MAX_DECIDED_BYTES", 400_000)
    talk.client(parse("", "SELECT 1/0") + bind() + execute() + FLUSH)
    talk.target(PARSE_COMPLETE + BIND_COMPLETE + error("22012"))
    steps = talk.client(asked)

    assert b"".join(step.frame for step in steps) == b""
    talk.client(SYNC)
    talk.target(ready())
    talk.client(query("SELECT 1"))
    talk.target(command_complete("SELECT 0") + ready())
    assert all(command.is_ended for command in talk.commands.values())


def test_a_long_error_in_the_place_of_a_refusal_ends_the_connection(talk: Talk) -> None:
    refusing(talk, query("DROP TABLE t"))
    talk.target(error("42601", "x" * 600_000))

    assert isinstance(talk.conversation.broken, TargetProtocolError)


def test_frames_held_beyond_the_limit_go_on_without_their_execute(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_requests, "MAX_DECIDED_BYTES", 1000)
    (step,) = talk.client(parse("", "SELECT '" + "x" * 2000 + "'"))
    assert told([step])[0][0] == -1
    talk.client(bind() + execute() + SYNC)
    # The Parse's failure is still that of the command.
    talk.target(error("42601") + ready())
    assert talk.commands[0].status == "error"


# Errors.


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        message("p", string("again")),  # no password after the login
        message("S", b"x"),
        message("H", b"x"),
        message("X", b"x"),
        message("c", b"x"),
        b"Q\xff\xff\xff\xff",
        b"Q\0\0\0\3",
        message("D", b"S" + b"x" * 20_000),
        message("D", b"Xname\0"),
        message("D", b"Sname"),
        message("D", b"Sna\0me\0"),
        message("C", b"Pname\0\0"),
        message("E", b"portal\0\0\0\0"),
        message("E", b"portalxxxx"),
        query(b"SELECT 1\0; DROP TABLE t"),
        message("Q", b"SELECT 1"),
        message("P", b"name\0SELECT 1\0\0\1"),
        message("P", b"name\0SELECT 1\0\0\0x"),
        message("P", b"nameSELECT 1"),
        message("P", b"n\0SELECT 1"),
        message("B", b"portalstatement"),
        message("B", b"\0\0" + b"\0\1\0\1" + b"\0\1" + b"\0\0\0\5abc" + b"\0\0"),
        message("B", b"\0\0" + b"\0\2\0\1\0\1" + b"\0\1" + b"\0\0\0\1a" + b"\0\0"),
        message("B", b"\0\0" + b"\xff\xff" + b"\0\0" + b"\0\0\0\0"),
        message("B", b"\0\0" + b"\0\0" + b"\0\0" + b"\0\0" + b"x"),
        message("B", b"\0\0" + b"\0\0" + b"\0\1" + b"\xff\xff\xff\xfe" + b"\0\0"),
        message("B", b"\0\0" + b"\0\0" + b"\0\5" + b"\0\0\0\0" + b"\0\0"),
        message("B", b"x" * (2 << 20)),
    ],
)
def test_a_client_that_breaks_the_protocol_is_named(talk: Talk, data: bytes) -> None:
    with pytest.raises(ClientProtocolError) as raised:
        talk.client(data)
    assert "DROP" not in str(raised.value)

    with pytest.raises(ClientProtocolError):  # and it stays so
        talk.client(SYNC)


def believed(talk: Talk, data: bytes) -> None:
    """Have the target say `data`; raise the protocol error, if only the next call would."""
    talk.target(data, size=1 << 18)
    if talk.conversation.broken is not None:
        raise talk.conversation.broken


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\0\0",
        b"Z\0\0\0\0",
        message("R", b"\0\0\0\0"),
        message("V"),
        ready(),
        PARSE_COMPLETE,
        BIND_COMPLETE,
        CLOSE_COMPLETE,
        NO_DATA,
        EMPTY_QUERY,
        PORTAL_SUSPENDED,
        data_row(b"1"),
        command_complete("SELECT 1"),
        row_description(("a", 23)),
        parameter_description(23),
        COPY_IN,
        COPY_OUT,
        COPY_DONE,
        copy_data(b"1"),
        error("42601"),
        message("S", b"name"),
        message("S", b"a\0b\0c\0"),
        data_row(b"x" * 600_000),
    ],
)
def test_an_answer_to_nothing_is_a_protocol_error_of_the_target(talk: Talk, data: bytes) -> None:
    with pytest.raises(TargetProtocolError):
        believed(talk, data)


@pytest.mark.parametrize(
    "data",
    [
        ready(),  # before Execute was answered
        CLOSE_COMPLETE,
        BIND_COMPLETE + BIND_COMPLETE,
        BIND_COMPLETE + message("T", b"\0\2a\0"),
        BIND_COMPLETE + message("T", b"\0\0x"),
        BIND_COMPLETE + message("T", b"\xff\xff"),
        BIND_COMPLETE + message("t", b"\0"),
        BIND_COMPLETE + message("t", b"\0\2\0\0\0\1"),
        BIND_COMPLETE + message("t", b"\0\1\0\0\0"),
        BIND_COMPLETE + NO_DATA + command_complete("SELECT 0") + ready("X"),
        BIND_COMPLETE + NO_DATA + message("T", b"x" * 600_000),
        BIND_COMPLETE + NO_DATA + copy_data(b"x" * 600_000),
    ],
)
def test_an_answer_to_something_else_is_a_protocol_error_of_the_target(
    talk: Talk, data: bytes
) -> None:
    talk.client(parse("", "SELECT 1") + SYNC)
    talk.target(PARSE_COMPLETE + ready())
    talk.client(bind() + describe_portal() + execute() + SYNC)
    with pytest.raises(TargetProtocolError):
        believed(talk, data)


def test_good_messages_before_garbage_are_returned_and_then_it_is_told(talk: Talk) -> None:
    steps = talk.client(query("SELECT 1") + b"\xff" * 5)

    assert [step.frame for step in steps] == [query("SELECT 1")]
    assert isinstance(talk.conversation.broken, ClientProtocolError)
    with pytest.raises(ClientProtocolError):
        talk.target(ready())


@pytest.mark.parametrize("garbage", [b"\xff" * 5, message("B", b"malformed")])
def test_held_messages_before_garbage_are_returned_too(talk: Talk, garbage: bytes) -> None:
    (step,) = talk.client(parse("s", "SELECT 1") + garbage)

    assert step.frame == parse("s", "SELECT 1")
    assert talk.conversation.broken is not None


def test_a_command_belongs_to_one_step_and_ends_once(talk: Talk) -> None:
    commands: list[Command] = []
    for step in talk.client(run("SELECT 1") * 3):
        commands += step.starts
    for _ in range(3):
        talk.target(ran("SELECT 0") + ready())

    assert talk.ended == commands


def test_a_parse_that_fails_is_not_the_fault_of_another_statement_that_was_run_behind_it() -> None:
    talk = Talk()
    talk.client(parse("one", "SELECT 1") + SYNC)
    talk.target(PARSE_COMPLETE + ready())
    talk.client(parse("two", "SELECT nothing") + bind("", "one"))
    talk.client(execute() + SYNC)
    talk.target(error("42703") + ready())

    assert [(c.text, c.status, c.error_code) for c in talk.ended] == [
        ("SELECT 1", "incomplete", None),
        ("SELECT nothing", "error", "42703"),
    ]


def test_the_end_of_a_copy_that_was_sent_ahead_of_the_one_under_way_is_its_own() -> None:
    talk = Talk()
    talk.client(query("COPY a FROM STDIN") + copy_data(b"1\n") + COPY_DONE)
    talk.target(COPY_IN)
    # libpq's order: the server reads the first Sync as part of the COPY, and answers the second.
    talk.client(parse("", "COPY b FROM STDIN") + bind() + execute() + SYNC)
    talk.client(copy_data(b"1\n") + COPY_DONE + SYNC + query("SELECT 1"))
    talk.target(command_complete("COPY 1") + ready())
    talk.target(PARSE_COMPLETE + BIND_COMPLETE + COPY_IN + command_complete("COPY 1") + ready())
    talk.target(
        row_description(("a", 23)) + data_row(b"1") + command_complete("SELECT 1") + ready()
    )

    assert [(c.text, c.status, c.txn_status) for c in talk.ended] == [
        ("COPY a FROM STDIN", "ok", "I"),
        ("COPY b FROM STDIN", "ok", "I"),
        ("SELECT 1", "ok", "I"),
    ]


@pytest.mark.parametrize(
    "answer", [row_description(("a", 23)), data_row(b"1"), command_complete("SELECT 1")]
)
def test_nothing_answers_a_query_that_has_failed(talk: Talk, answer: bytes) -> None:
    """It would be told as done, and the client's library tells an error and a result."""
    talk.client(query("SELECT 1"))
    talk.target(error("42601"))

    with pytest.raises(TargetProtocolError, match="has failed already"):
        talk.target(answer + ready())

    assert talk.commands[0].status == "error"


@pytest.mark.parametrize("asked", [query("SELECT 1"), run("SELECT 1")])
def test_a_command_has_the_first_of_its_errors(talk: Talk, asked: bytes) -> None:
    """A server whose own cleaning up fails tells of that too, before it is ready."""
    talk.client(asked)
    steps = talk.target(error("22012", "first") + error("XX000", "second") + ready())

    assert [(c.status, c.error_code, c.error_text) for c in talk.ended] == [
        ("error", "22012", "first")
    ]
    assert [text for _, text in told(steps) if text] == ["ERROR 22012 first", "ERROR XX000 second"]


def test_a_row_out_of_its_place_does_not_take_the_message_before_it_along() -> None:
    talk = Talk()
    talk.client(parse("", "SELECT 1") + describe_statement() + SYNC)

    (step,) = talk.target(PARSE_COMPLETE + row_description(("a", 23)) + data_row(b"1"))

    assert step.frame == PARSE_COMPLETE + row_description(("a", 23))
    assert isinstance(talk.conversation.broken, TargetProtocolError)


def test_what_is_never_answered_and_never_run_is_not_held_for_long() -> None:
    talk = Talk()

    steps = talk.client(parse("", "SELECT 1") * 5_000)

    assert b"".join(step.frame for step in steps) == parse("", "SELECT 1") * 5_000
    assert not talk.conversation.is_behind


def test_a_conversation_with_ten_thousand_answers_owed_is_behind_until_some_have_come() -> None:
    talk = Talk()
    talk.client(SYNC * 10_000)
    assert not talk.conversation.is_behind

    talk.client(SYNC)
    assert talk.conversation.is_behind
    talk.target(ready())
    assert not talk.conversation.is_behind


def test_half_a_million_answers_that_never_come_are_forgotten_in_peace() -> None:
    talk = Talk()
    for _ in range(10):
        talk.conversation.receive(Side.CLIENT, describe_portal() * 50_000)

    # What is chained must not be freed by recursion, or the process dies of it.
    del talk.conversation
