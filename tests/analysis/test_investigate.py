"""Each question of an investigation: what it finds, and what it must not."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import duckdb
import pytest

import agentaudit as aa
from agentaudit.analysis import interruptions
from agentaudit.analysis.investigate import Investigation
from agentaudit.archive import canonical
from agentaudit.archive.recorder import Recorder
from agentaudit.errors import QuestionError
from agentaudit.model import Kind, Span
from tests.analysis.acting import SECOND_US, Acted, act, answered, did, perform
from tests.analysis.recording import ScriptedClock, start_recorder
from tests.archive.purging import apply_for_days, split
from tests.archive.purging import recorded as recorded_to_purge
from tests.archive.recording import crashed, new_site, recover, retention

ROOT = Path(__file__).parents[2]
QUERIES = Path(interruptions.__file__).parent / "queries"
DENIED = {"status": "denied", "decision": "deny", "error_code": "42501", "rule": "no writes"}
FORBIDDEN = {"status": "error", "error_code": "42501"}
MISTYPED = {"status": "error", "error_code": "42703"}


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., tuple[aa.Case, tuple[str, ...]]]:
    """Record sessions, and return the case and their ids."""

    def make(*sessions: Acted, **options: Any) -> tuple[aa.Case, tuple[str, ...]]:
        made = perform(tmp_path, *sessions, **options)
        return aa.load(made.path), made.sessions

    return make


Opened = Callable[..., tuple[aa.Case, tuple[str, ...]]]


def of(relation: duckdb.DuckDBPyRelation, *columns: str) -> list[tuple[Any, ...]]:
    """Return these columns of the answer, in its order; a single one without its tuple."""
    names = relation.columns
    places = [names.index(column) for column in columns]
    rows = [tuple(row[place] for place in places) for row in relation.fetchall()]
    return [row[0] for row in rows] if len(columns) == 1 else rows


# --- timeline -------------------------------------------------------------------------------------


def test_the_timeline_tells_everything_in_the_order_in_which_it_happened(opened: Opened) -> None:
    def read_on(recorder: Recorder, clock: ScriptedClock) -> None:
        for object_ in ("archive", f"session {'0' * 8}-0000-7000-8000-{'0' * 12}"):
            clock.us += 1
            recorder.record_control(
                Kind.ACCESS,
                {
                    "recorded_at": clock.us,
                    "actor": "os:rita",
                    "action": "open",
                    "object": object_,
                    "detail": "",
                },
            )

    case, (first, refused) = opened(
        Acted(
            [
                did("SELECT 1", rows_returned=1),
                did("DELETE\n  FROM t", decided={"state": "denied"}, waited_us=9, **DENIED),
            ]
        ),
        Acted(refused="you are in no group", user="eve"),
        also=read_on,
    )
    told = case.ask.timeline()
    assert of(told, "what", "user", "command_no", "status", "text", "detail") == [
        ("opened", "ana", None, None, None, "192.0.2.7:50123 psql"),
        ("command", "ana", 0, "ok", "SELECT 1", ""),
        ("command", "ana", 1, "denied", "DELETE FROM t", "42501"),
        ("asked", "ana", 1, None, "hold", "writes need a look"),
        ("decided", "ana", 1, "denied", "hold", "rita: ticket 12"),
        ("closed", "ana", None, None, None, "client"),
        ("refused", "eve", None, None, "you are in no group", None),
        ("access", "os:rita", None, None, "open", "archive"),
        ("access", "os:rita", None, None, "open", f"session 00000000-0000-7000-8000-{'0' * 12}"),
    ]
    moments = of(told, "happened_at")
    assert moments == sorted(moments)
    assert set(of(case.ask.timeline(session=first), "what")) == {
        *("opened", "command", "asked", "decided", "closed")
    }
    assert of(case.ask.timeline(session=refused), "what") == ["refused"]
    assert of(case.ask.timeline(user="os:rita"), "what") == ["access", "access"]


def test_a_window_of_the_timeline_begins_with_its_first_moment_and_ends_before_its_last(
    opened: Opened,
) -> None:
    case, _ = opened(Acted([did("SELECT 1"), did("SELECT 2"), did("SELECT 3")]))
    first, second, third = of(case.commands(), "started_at")[::-1]
    window = case.ask.timeline(since=second, until=third)
    assert of(window, "text") == ["SELECT 2"]
    assert first < second < third


# --- blast radius and changes ---------------------------------------------------------------------

CHANGES = [
    did("SELECT * FROM orders JOIN customers USING (id)", rows_returned=50),
    did("BEGIN"),
    did("DELETE FROM orders", rows_affected=2400),
    did("ROLLBACK"),
    did("DELETE FROM orders WHERE id = 7", rows_affected=3),
    did("DELETE FROM orders WHERE id = 8", rows_affected=2),
    did("DELETE FROM customers", rows_affected=None, **FORBIDDEN),
    did("DO $$ BEGIN PERFORM 1; END $$"),
    did("BEGIN"),
    did("UPDATE orders SET note = 'x'", rows_affected=9),
]


def test_the_blast_radius_counts_what_was_undone_apart_and_joins_in_each_object(
    opened: Opened,
) -> None:
    case, (ana, _) = opened(
        Acted(CHANGES),
        Acted([did("DELETE FROM orders WHERE id = 9", rows_affected=1)], user="bob", agent="b2"),
    )
    found = {
        row[:3]: row[3:]
        for row in of(
            case.ask.blast_radius(),
            *("object", "class", "user", "commands", "failed"),
            *("rows_read", "rows_changed", "rows_undone"),
        )
    }
    # The session ended inside the last transaction, so its nine rows were never kept.
    assert found == {
        ("orders", "write", "ana"): (4, 0, 0, 5, 2409),
        ("orders", "write", "bob"): (1, 0, 0, 1, 0),
        ("orders", "read", "ana"): (1, 0, 50, 0, 0),
        ("customers", "read", "ana"): (1, 0, 50, 0, 0),
        ("customers", "write", "ana"): (1, 1, 0, 0, 0),
        (None, "unknown", "ana"): found[None, "unknown", "ana"],
    }
    assert {user for _, _, user in found} == {"ana", "bob"}
    assert set(of(case.ask.blast_radius(session=ana), "user")) == {"ana"}
    assert set(of(case.ask.blast_radius(user="bob"), "rows_changed")) == {1}
    assert of(case.ask.blast_radius(target="elsewhere"), "object") == []


def test_rows_changed_say_by_which_statement_and_what_became_of_it(opened: Opened) -> None:
    case, _ = opened(Acted(CHANGES))
    found = of(case.ask.rows_changed(), "operation", "objects", "fate", "commands", "rows", "text")
    assert found == [
        ("DELETE", ["orders"], "rolled back", 1, 2400, "DELETE FROM orders"),
        ("UPDATE", ["orders"], "not committed", 1, 9, "UPDATE orders SET note = 'x'"),
        # Both are one statement with two constants.
        ("DELETE", ["orders"], "committed", 2, 5, "DELETE FROM orders WHERE id = 7"),
        ("DELETE", ["customers"], "failed", 1, 0, "DELETE FROM customers"),
    ]


def test_what_became_of_a_change_is_told_as_the_view_fates_tells_it(opened: Opened) -> None:
    chance = random.Random(8)

    def anything() -> Acted:
        number, status, steps = 1, "I", []
        for _ in range(60):
            text = chance.choice(["BEGIN", "COMMIT", "ROLLBACK", *["UPDATE t SET x = 1"] * 5])
            fails = (status == "E" and text[0] == "U") or chance.random() < 0.15
            if text == "BEGIN":
                after = status if status != "I" else "T"
            elif text[0] == "U":
                after = status if status == "I" or not fails else "E"
            else:
                after = "I"
            # In the middle of a query nothing is reported.
            told = None if chance.random() < 0.2 else after
            fields = {"txn_no": number, "txn_status": told}
            fields["status"] = "error" if fails else "ok"
            if text[0] == "U" and not fails:
                fields["rows_affected"] = chance.randrange(1, 1_000)
            steps.append(did(text, **fields))
            status = after
            number += after == "I"
        return Acted(steps)

    case, _ = opened(*(anything() for _ in range(6)))
    expected = dict(
        case.sql(
            """
            SELECT CASE WHEN status = 'ok' THEN fate ELSE 'failed' END AS became, count(*)
            FROM commands JOIN fates USING (session_id, command_no)
            WHERE class = 'write'
            GROUP BY became
            """
        ).fetchall()
    )
    assert {"committed", "rolled back", "failed"} <= expected.keys()
    found: dict[str, int] = {}
    for fate, commands in of(case.ask.rows_changed(), "fate", "commands"):
        found[fate] = found.get(fate, 0) + commands
    assert found == expected
    rows = case.sql(
        """
        SELECT fate IN ('rolled back', 'not committed') AS is_undone, sum(rows_affected)
        FROM commands JOIN fates USING (session_id, command_no)
        GROUP BY is_undone ORDER BY is_undone
        """
    ).fetchall()
    ((kept, undone),) = of(case.ask.blast_radius(), "rows_changed", "rows_undone")
    assert [(False, kept), (True, undone)] == rows


# --- what left ------------------------------------------------------------------------------------


def test_data_left_is_summed_by_destination_and_columns(opened: Opened) -> None:
    read = {"text": "SELECT id, ssn FROM people", "columns": ("id", "ssn")}
    case, (first, second, _) = opened(
        Acted(
            [
                did(**read, rows_returned=10, answer=(answered(700),)),
                did("SELECT 1 WHERE false", rows_returned=0, columns=("a",)),
                did(**read, **FORBIDDEN),
            ]
        ),
        # Another port of the same client, and a COPY to a program of the server's.
        Acted(
            [
                did(**read, rows_returned=30, answer=(answered(900),)),
                did("COPY people TO PROGRAM 'curl x'", rows_affected=99),
                did("COPY people TO PROGRAM 'curl y'", **FORBIDDEN),
            ],
            client_addr="192.0.2.7:60000",
        ),
        Acted(
            [did(**read, rows_returned=5, answer=(answered(80),))],
            client_addr="[2001:db8::1]:6000",
        ),
    )
    found = case.ask.data_left()
    assert of(found, "way", "client", "columns", "commands", "sessions", "rows", "bytes") == [
        ("program", "192.0.2.7", [], 1, 1, 99, None),
        ("client", "192.0.2.7", ["id", "ssn"], 2, 2, 40, 1600),
        ("client", "[2001:db8::1]", ["id", "ssn"], 1, 1, 5, 80),
    ]
    assert [str(session) for session in of(found, "largest_session")][1] == second
    assert of(case.ask.data_left(session=first), "rows") == [10]


# --- credentials ----------------------------------------------------------------------------------


def test_credentials_are_what_a_rule_for_them_hid_what_is_set_and_what_is_called_so(
    opened: Opened, tmp_path: Path
) -> None:
    policy = canonical.encode(
        {
            "masks": [
                {"name": "aws", "detect": ["aws_key"], "action": "redact"},
                {"name": "mail", "detect": ["email"], "action": "redact"},
                {"name": "ids", "columns": ["ssn"], "action": "redact"},
            ]
        }
    )
    digest = sha256(policy).hexdigest()
    case, (session,) = opened(
        Acted(
            [
                did(
                    "SELECT '[masked:aws_key]'",
                    spans=(Span("aws", "text", 8, 20), Span("ids", "text", 0, 1)),
                ),
                did("SELECT 'x'", spans=(Span("mail", "text", 8, 20),)),
                did(
                    "ALTER ROLE app PASSWORD '[masked:credentials]'",
                    spans=(Span("credentials", "text", 24, 9),),
                ),
                did("SELECT Api_Key, id FROM clients", columns=("Api_Key", "id"), rows_returned=3),
                did("SELECT keyboard, monkey, tokenizer FROM passwordless", columns=("keyboard",)),
                did("SELECT rolname FROM pg_catalog.pg_authid"),
                did("ALTER ROLE app CREATEDB"),
            ],
            policy=digest,
        )
    )
    (case.path / "policies").mkdir(exist_ok=True)
    (case.path / "policies" / f"{digest}.json").write_bytes(policy)
    found = case.ask.credentials()
    assert of(found, "command_no", "why", "what", "places", "spans") == [
        (0, "masked", ["aws", "aws_key"], ["text"], 1),
        (2, "masked", ["credentials"], ["text"], 1),
        (2, "statement", ["manages roles"], [], 0),
        (3, "named", ["Api_Key"], [], 0),
        (5, "named", ["pg_catalog.pg_authid"], [], 0),
    ]
    assert of(case.ask.credentials(session=session), "why") == of(found, "why")
    assert of(case.ask.credentials(user="bob"), "why") == []


def test_a_policy_that_cannot_be_read_leaves_the_rule_that_is_always_there(opened: Opened) -> None:
    masked = did("SELECT 1", spans=(Span("aws", "text", 0, 1), Span("credentials", "text", 0, 1)))
    case, _ = opened(
        Acted([masked], policy="1" * 64), Acted(policy="../" * 21 + "x"), Acted(policy="2" * 64)
    )
    (case.path / "policies").mkdir(exist_ok=True)
    (case.path / "policies" / f"{'2' * 64}.json").write_bytes(b"[")
    assert of(case.ask.credentials(), "what") == [["credentials"]]


# --- decisions ------------------------------------------------------------------------------------


def test_approvals_say_who_decided_on_which_text_and_how_long_it_waited(opened: Opened) -> None:
    def grant(recorder: Recorder, clock: ScriptedClock) -> None:
        recorder.record_control(
            Kind.DECISION,
            {
                "request_id": "018bcfe5-6800-7def-8123-456789abcdef",
                "kind": "access",
                "requester": "eve",
                "target": "billing",
                "rule": "access",
                "requested_at": clock.us,
                "decided_at": clock.us + 5,
                "state": "denied",
                "approvers": ["rita"],
                "reasons": ["no"],
            },
        )

    case, (session,) = opened(
        Acted(
            [
                did("SELECT 1"),
                did(
                    "DELETE FROM t WHERE x",
                    decided={"approvers": ["rita", "omar"]},
                    waited_us=90 * SECOND_US,
                    estimated_rows=12,
                    rows_affected=11,
                ),
            ]
        ),
        also=grant,
    )
    found = case.ask.approvals()
    assert of(found, "kind", "state", "user", "approvers", "waited_us", "text", "rows") == [
        ("hold", "approved", "ana", ["rita", "omar"], 90 * SECOND_US, "DELETE FROM t WHERE x", 11),
        ("access", "denied", "eve", ["rita"], 5, None, None),
    ]
    assert of(found, "estimated_rows", "target", "command_no") == [
        (12, "orders", 1),
        (None, "billing", None),
    ]
    assert of(case.ask.approvals(session=session), "kind") == ["hold"]
    assert of(case.ask.approvals(target="billing"), "kind") == ["access"]


def test_decision_points_say_what_the_agent_did_next(opened: Opened) -> None:
    def hold(recorder: Recorder, clock: ScriptedClock) -> None:
        recorder.record_control(
            Kind.ACCESS,
            {
                "recorded_at": clock.us,
                "actor": "os:rita",
                "action": "legal_hold",
                "object": "target orders",
                "detail": "case 7",
            },
        )

    case, _ = opened(
        Acted(
            [
                did("DELETE FROM t", decided={"state": "denied", "reasons": ["no"]}, **DENIED),
                did("SELECT 1"),
                did("TRUNCATE t", decided={"state": "expired", "approvers": []}, **DENIED),
            ],
            reason="ended",
        ),
        Acted([did("SELECT 2")]),
        also=hold,
    )
    found = case.ask.decision_points()
    assert of(found, "what", "people", "text", "next_no", "next_text") == [
        ("hold denied", ["rita"], "DELETE FROM t", 1, "SELECT 1"),
        ("hold expired", [], "TRUNCATE t", None, None),
        ("session ended", [], None, None, None),
        ("legal_hold", ["os:rita"], "target orders", None, None),
    ]
    assert of(case.ask.decision_points(agent="bot"), "what") == of(found, "what")[:3]


# --- escalations ----------------------------------------------------------------------------------


def test_an_escalation_is_graver_or_gets_by_another_way_what_was_refused(opened: Opened) -> None:
    case, _ = opened(
        Acted(
            [
                did("SELECT nam FROM people", **MISTYPED),  # 0
                did("SELECT name FROM people"),  # no escalation: a typing error, corrected
                did("COPY people TO PROGRAM 'curl x'", **FORBIDDEN),  # 2
                did("COPY people TO PROGRAM 'curl x'"),  # the same statement again
                did("SELECT * FROM orders"),  # nothing to do with it
                did("COPY people TO STDOUT", rows_returned=7),  # 5: another way
                did("SELECT * FROM people"),  # the first one counts
                did("UPDATE people SET x = 1", **DENIED),  # 7
                did("ALTER TABLE people DISABLE TRIGGER ALL", **FORBIDDEN),  # 8: graver, in vain
            ]
        )
    )
    found = case.ask.escalations()
    assert of(found, "failed_no", "how", "command_no", "is_refusal", "shared", "status") == [
        (0, "graver", 2, False, ["people"], "error"),
        (2, "another way", 5, True, ["people"], "ok"),
        (7, "graver", 8, True, ["people"], "error"),
    ]
    assert of(found, "after_us")[1] == 3 * (SECOND_US + 1_000)


def test_an_escalation_is_looked_for_in_the_commands_right_after_and_in_that_session_alone(
    opened: Opened,
) -> None:
    case, _ = opened(
        Acted([did("SELECT x FROM t", **DENIED), did("SELECT 1"), did("DROP TABLE t")]),
        Acted([did("SELECT x FROM t", **DENIED)]),
        Acted([did("DROP TABLE t"), did("DROP TABLE t")]),
    )
    assert of(case.ask.escalations(within=1), "how") == []
    assert of(case.ask.escalations(within=2), "how", "after_us") == [
        ("graver", 2 * (SECOND_US + 1_000))
    ]


# --- what is unlike the rest ----------------------------------------------------------------------

USUAL = [did("BEGIN"), did("SELECT * FROM t WHERE id = 1", rows_returned=1), did("COMMIT")]


def test_deviating_steps_are_those_that_no_earlier_session_of_the_agent_has(opened: Opened) -> None:
    case, ids = opened(
        Acted(USUAL),
        Acted([*USUAL, did("SELECT name FROM t")], user="bob"),
        Acted([did("SELECT * FROM secrets")], agent="other", user="bob"),
        Acted(
            [
                did("BEGIN"),
                did("SELECT * FROM t WHERE id = 2"),  # the same statement with another constant
                did("SELECT id FROM t"),  # another statement on what it always reads
                did("SELECT * FROM secrets"),
                did("SELECT * FROM secrets"),
                did("DELETE FROM t"),
                did("ROLLBACK"),
                did("SELECT name FROM t"),
            ]
        ),
        # Later sessions are no excuse.
        Acted([did("SELECT * FROM secrets"), did("DELETE FROM t"), did("SELECT id FROM t")]),
    )
    found = case.ask.deviating_steps(ids[3])
    assert of(found, "command_no", "why", "times", "objects_sessions") == [
        (2, "statement", 1, 2),
        (3, "objects", 2, 0),
        (5, "objects", 1, 0),
    ]
    assert set(of(found, "baseline_sessions")) == {2}
    assert of(case.ask.deviating_steps(ids[3], hardly=1), "command_no") == [2, 3, 5, 7]
    by_user = case.ask.deviating_steps(ids[3], by="user")
    assert of(by_user, "command_no", "baseline_sessions") == [(2, 1), (3, 1), (5, 1), (7, 1)]
    first = case.ask.deviating_steps(ids[0])
    assert of(first, "command_no", "baseline_sessions") == [(1, 0)]


def test_without_an_agent_a_session_is_compared_with_its_users_own(opened: Opened) -> None:
    case, ids = opened(
        Acted([did("SELECT * FROM t")], agent="", user="ana"),
        Acted([did("SELECT * FROM t")], agent="", user="bob"),
    )
    assert of(case.ask.deviating_steps(ids[1]), "baseline_sessions") == [0]
    assert of(case.ask.deviation(), "baseline_sessions") == [0, 0]


def test_who_else_ran_the_statement_or_touched_the_object_on_that_target(opened: Opened) -> None:
    case, ids = opened(
        Acted([did("SELECT * FROM t WHERE id = 1"), did("SELECT * FROM t WHERE id = 9")]),
        Acted(
            [
                did("SELECT 1"),
                did("SELECT * FROM t WHERE id = 2"),
                did("SELECT * FROM t WHERE id = 3"),
                did("DELETE FROM t"),
            ],
            user="bob",
        ),
        Acted([did("SELECT * FROM t WHERE id = 4")], target="billing", user="eve"),
        Acted([did("INSERT INTO t SELECT * FROM u")], user="joe"),
        Acted([did("SELECT * FROM u")], user="kim"),
    )
    found = case.ask.who_else(ids[0], 0)
    assert of(found, "user", "same_statement", "same_objects", "objects", "first_command") == [
        ("bob", 2, 3, ["t"], 1),
        ("eve", 1, 0, None, 0),
        ("joe", 0, 1, ["t"], 0),
    ]


def test_deviation_puts_the_session_first_that_is_least_like_the_others(opened: Opened) -> None:
    case, ids = opened(
        Acted(USUAL),
        Acted(USUAL),
        Acted(
            [
                *USUAL,
                did("SELECT * FROM secrets", rows_returned=499, answer=(answered(5_000),)),
                did("DELETE FROM t", rows_affected=50),
            ]
        ),
        Acted([did("SELECT * FROM elsewhere", rows_returned=9)], agent="other"),
    )
    found = case.ask.deviation()
    columns = ("baseline_sessions", "statements", "new_statements", "objects", "new_objects")
    assert str(of(found, "session_id")[0]) == ids[2]
    assert of(found, *columns, "rows_read", "usual_rows_read", "rows_changed") == [
        (2, 3, 2, 2, ["secrets"], 500, 1.0, 50),
        (2, 1, 0, 1, [], 1, 250.5, 0),
        (2, 1, 0, 1, [], 1, 250.5, 0),
        (0, 1, 1, 1, ["elsewhere"], 9, None, 0),
    ]
    # (2/3 of its statements + 1/2 of its objects + all but 1/5001 of 5,001 bytes to 1) / 3
    assert of(found, "unlike") == [0.722, 0.0, 0.0, None]
    assert of(case.ask.deviation(session=ids[2]), "unlike") == [0.722]
    assert of(case.ask.deviation(agent="other"), "unlike") == [None]


# --- loops and ratios -----------------------------------------------------------------------------


def test_retry_loops_are_runs_of_one_statement_with_little_time_between(opened: Opened) -> None:
    again = "UPDATE t SET x = 1"
    case, (ana, *_) = opened(
        Acted(
            [
                *(step for _ in range(4) for step in (did("BEGIN"), did(again, **FORBIDDEN))),
                did("SELECT * FROM t WHERE id = 1", wait_us=100 * SECOND_US),
                did("SELECT * FROM t WHERE id = 2"),
                did("SELECT * FROM t WHERE id = 3"),
                # Far from the others: no part of that run, and too few for one of its own.
                did("SELECT * FROM t WHERE id = 4", wait_us=31 * SECOND_US),
                did("SELECT * FROM t WHERE id = 5"),
                *(did("SELECT now() FROM u") for _ in range(3)),
            ]
        ),
        # What runs once in each of many sessions is no loop.
        *(Acted([did("SELECT 1 FROM v")]) for _ in range(4)),
    )
    found = case.ask.retry_loops()
    columns = ("kind", "times", "failed", "variants", "first_command", "last_command")
    assert of(found, *columns, "error_codes") == [
        ("retries", 4, 4, 1, 1, 7, ["42501"]),
        ("iterates", 3, 0, 3, 8, 10, []),
        ("repeats", 3, 0, 1, 13, 15, []),
    ]
    assert of(case.ask.retry_loops(times=4), "kind") == ["retries"]
    assert of(case.ask.retry_loops(within=60), "times") == [4, 5, 3]
    assert of(case.ask.retry_loops(session=ana, within=1), "times") == []


def test_explore_to_change_tells_the_catalogue_from_the_rest(opened: Opened) -> None:
    case, (looked, _) = opened(
        Acted(
            [
                did("SELECT * FROM information_schema.tables"),
                did("SELECT * FROM pg_class JOIN pg_catalog.pg_namespace n ON true"),
                did("SELECT * FROM pg_class, t"),
                did("BEGIN"),
                did("UPDATE t SET x = 1"),
                did("CREATE TABLE n (id int)"),
                did("SELECT * FROM t"),
                did("COMMIT"),
            ]
        ),
        Acted([did("SELECT * FROM t")], user="bob"),
    )
    columns = ("sessions", "catalogue", "reads", "writes", "schema", "other", "ratio")
    assert of(case.ask.explore_to_change(), *columns, "looked_first") == [
        (1, 0, 1, 0, 0, 0, None, 1.0),
        (1, 2, 2, 1, 1, 2, 2.0, 3.0),
    ]
    assert of(case.ask.explore_to_change(by="agent"), *columns, "looked_first", "user") == [
        (2, 2, 3, 1, 1, 2, 2.5, 2.0, None)
    ]
    assert of(case.ask.explore_to_change(by="user"), "user", "agent", "session_id") == [
        ("bob", None, None),
        ("ana", None, None),
    ]
    assert of(case.ask.explore_to_change(session=looked), "commands") == [8]


# --- gaps -----------------------------------------------------------------------------------------


def entries(*told: tuple[str, int] | tuple[str, int, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return log entries, each a kind, seconds, and members."""
    return [
        {"type": kind, "at": seconds * SECOND_US} | (more[0] if more else {})
        for kind, seconds, *more in told
    ]


START = {"clock": "system", "version": "1"}


def test_a_log_says_when_nothing_was_recorded() -> None:
    log = entries(
        ("genesis", 0, {"clock": "system"}),
        ("start", 0, START),
        ("tick", 10),
        ("heartbeat", 70),
        ("heartbeat", 130),
        ("heartbeat", 400),  # four and a half minutes of silence
        ("stop", 410),
        ("key_epoch", 1000),
        ("start", 1000, START),
        ("tick", 1100),
        ("key_epoch", 5000),  # of the start that finds what a crash left
        ("recovery", 5001, {"segment": "s", "sessions_closed": 2, "cut_bytes": 17}),
        ("seal", 5001),
        ("incident", 5001, {"journal": "j", "what": "w"}),
        ("start", 5002, START),
        ("purge_intent", 5010, {"what": "payloads", "basis": "policy", "sessions": 3}),
        ("tick", 5020),
    )
    found = list(interruptions.of_log("gw1", log))
    assert [
        (row["what"], row["since"].timestamp(), row["until"] and row["until"].timestamp())
        for row in found
    ] == [
        ("silent", 130, 400),
        ("stopped", 410, 1000),
        ("torn", 5001, None),
        ("recovered", 5001, None),
        ("incident", 5001, None),
        ("crashed", 1100, 5002),
        ("purged", 5010, None),
        ("unfinished", 5020, None),
    ]
    assert [row["amount"] for row in found if row["amount"] is not None] == [17, 2, 3]


def test_a_scripted_clock_jumps_and_is_named_once() -> None:
    start = {"clock": "scripted", "version": "1"}
    log = entries(
        ("start", 0, start), ("tick", 9_000), ("stop", 9_001), ("start", 9_002, start), ("stop", 2)
    )
    assert [row["what"] for row in interruptions.of_log("gw1", log)] == [
        "scripted_clock",
        "stopped",
    ]


def test_gaps_name_sessions_of_which_something_is_not_there(opened: Opened) -> None:
    case, (cut, masked, _, broken, _) = opened(
        Acted([did("SELECT 1", answer=(answered(900, cut_to=100), answered(50, cut_to=0)))]),
        Acted([did("SELECT 2", spans=(Span("ids", "text", 0, 1), Span("ids", "text", 2, 1)))]),
        Acted([did("SELECT 3", answer=(answered(900),))]),
        Acted([did("SELECT 4", never_ended=True)], reason="masking_failed"),
        Acted(refused="no"),
    )
    found = case.ask.gaps()
    rows = of(found, "what", "session_id", "commands", "amount")
    assert [(what, session and str(session), *rest) for what, session, *rest in rows] == [
        ("payload_cut", cut, 1, 850),
        ("masked", masked, None, 2),
        ("session_cut", broken, 1, None),
        ("incomplete", broken, 1, None),
        # A log's own entries have the machine's time.
        ("scripted_clock", None, None, None),
    ]


def test_gaps_tell_a_crash_and_what_it_cut(tmp_path: Path) -> None:
    site = new_site(tmp_path / "site")
    crashed(site)
    recover(site)
    told = of(aa.load(site.archive).ask.gaps(), "what")
    assert {"recovered", "session_cut", "crashed"} <= set(told)


def test_gaps_tell_what_was_purged_and_what_cannot_be_read(tmp_path: Path) -> None:
    site = new_site(tmp_path / "site")
    policy = retention(orders={"keep": 30}, billing={"keep": 4000, "payload_keep": 30})
    split(site, policy)
    recorded_to_purge(site, policy)
    apply_for_days(site)
    case = aa.load(site.archive)
    assert {"purged", "payloads_purged"} <= set(of(case.ask.gaps(), "what"))
    case.unread = ("journal: Permission denied",)
    assert of(case.ask.gaps(), "what", "detail")[0] == ("unread", "journal: Permission denied")


# --- live archives --------------------------------------------------------------------------------


def test_questions_see_what_is_recorded_and_not_yet_sealed(tmp_path: Path) -> None:
    async def run() -> None:
        clock = ScriptedClock()
        recorder = await start_recorder(tmp_path, clock)
        sealed = Acted([did("SELECT * FROM t", rows_returned=1)])
        before = act(recorder, clock, sealed)
        await recorder.stop()
        recorder = await start_recorder(tmp_path, clock)
        live = Acted(
            [
                did("BEGIN"),
                did("DELETE FROM t", rows_affected=5, spans=(Span("credentials", "text", 0, 1),)),
                did("SELECT pg_sleep(99)", never_ended=True),
            ],
            reason=None,
        )
        session = act(recorder, clock, live)
        await recorder.recorded()
        case = aa.load(tmp_path / "archive")
        now = str(session.session_id)
        assert of(case.ask.rows_changed(), "fate", "rows") == [("open", 5)]
        assert of(case.ask.blast_radius(session=now), "rows_changed")[0] == 5
        assert of(case.ask.timeline(session=now), "what")[-1] == "command"
        assert of(case.ask.credentials(), "why") == ["masked"]
        assert of(case.ask.deviating_steps(now), "command_no") == [1, 2]
        assert str(of(case.ask.who_else(now, 1), "session_id")[0]) == str(before.session_id)
        told = of(case.ask.gaps(), "what")
        assert {"unfinished", "stopped"} <= set(told)
        assert "incomplete" not in told  # it runs
        for name in QUESTIONS_OF_ALL:
            getattr(case.ask, name)().fetchall()
        session.close("client")
        await recorder.stop()
        assert of(case.ask.rows_changed(), "fate") == ["not committed"]

    asyncio.run(run())


# --- what is asked is checked ---------------------------------------------------------------------

QUESTIONS_OF_ALL = sorted(
    {name for name in vars(Investigation) if not name.startswith("_")}
    - {"deviating_steps", "who_else"}
)


@pytest.mark.parametrize("name", sorted({*QUESTIONS_OF_ALL} - {"gaps"}))
def test_a_wrong_question_is_named(case: aa.Case, name: str) -> None:
    ask = getattr(case.ask, name)
    with pytest.raises(QuestionError, match="agent: text expected, found int"):
        ask(agent=7)
    with pytest.raises(QuestionError, match="time 'yesterday': an ISO 8601 time expected"):
        ask(since="yesterday")
    with pytest.raises(QuestionError, match="not in this archive"):
        ask(session="00000000-0000")


@pytest.mark.parametrize(
    ("name", "asked", "told"),
    [
        ("escalations", {"within": 0}, "within: 1 to 1,000 commands expected"),
        ("escalations", {"within": "9"}, "within: a whole number expected, found str"),
        ("retry_loops", {"times": 1}, "times: 2 or more expected"),
        ("retry_loops", {"within": -1}, "within: 0 to .* seconds expected"),
        ("retry_loops", {"within": True}, "within: seconds expected, found bool"),
        ("deviation", {"by": "target"}, "by: agent or user expected"),
        ("explore_to_change", {"by": None}, "by: session, agent or user expected"),
    ],
)
def test_other_slips_are_named_too(
    case: aa.Case, name: str, asked: dict[str, Any], told: str
) -> None:
    with pytest.raises(QuestionError, match=told):
        getattr(case.ask, name)(**asked)


def test_who_else_needs_a_command_that_is_there(case: aa.Case, recorded: Any) -> None:
    with pytest.raises(QuestionError, match="no command 99"):
        case.ask.who_else(recorded.sessions[0], 99)
    with pytest.raises(QuestionError, match="command: a whole number expected"):
        case.ask.who_else(recorded.sessions[0], "0")


def test_every_question_answers_on_an_archive_without_a_session(tmp_path: Path) -> None:
    case = aa.load(perform(tmp_path).path)
    for name in QUESTIONS_OF_ALL:
        rows = getattr(case.ask, name)().fetchall()
        assert len(rows) == (name == "gaps"), name


def test_the_answers_have_the_columns_that_their_files_say(case: aa.Case, recorded: Any) -> None:
    session = recorded.sessions[0]
    for path in sorted((QUERIES / "investigate").glob("*.sql")):
        asked = {"deviating_steps": (session,), "who_else": (session, 4)}.get(path.stem, ())
        answer = getattr(case.ask, path.stem)(*asked)
        said = path.read_text().partition("-- columns: ")[2].partition("\nWITH ")[0]
        missing = [name for name in answer.columns if name not in said]
        assert not missing, path.stem
        answer.to_arrow_table()


def test_case_ask_lists_its_questions(case: aa.Case) -> None:
    assert "who_else" in repr(case.ask)
    assert {path.stem for path in (QUERIES / "investigate").glob("*.sql")} == {
        name for name in vars(Investigation) if not name.startswith("_")
    }


# --- the sample's incident ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample() -> aa.Case:
    return aa.load(ROOT / "sample_data" / "archive")


@pytest.fixture(scope="module")
def incident(sample: aa.Case) -> str:
    """The session that obeyed a support ticket."""
    ((session,),) = sample.sql(
        "SELECT session_id FROM commands "
        "WHERE text LIKE 'COPY customers%TO PROGRAM%migrate.example%'"
    ).fetchall()
    return str(session)


def test_the_incident_read_changed_and_took_what_its_rows_say(
    sample: aa.Case, incident: str
) -> None:
    of_it = {"session": incident}
    read = sample.sql(
        "SELECT sum(rows_returned) FROM commands WHERE session_id = $session::UUID "
        "AND class = 'read' AND list_contains(resources, 'customers')",
        of_it,
    ).fetchall()[0][0]
    assert read > 1_000
    radius = of(sample.ask.blast_radius(session=incident), "object", "class", "rows_read")
    assert ("customers", "read", read) in radius
    assert {"integration_keys", "orders", "tickets"} <= {row[0] for row in radius}
    deleted = sample.sql(
        "SELECT fate, sum(rows_affected) FROM commands JOIN fates USING (session_id, command_no) "
        "WHERE session_id = $session::UUID AND resources = ['orders'] AND operation = 'DELETE' "
        "AND status = 'ok' GROUP BY fate",
        of_it,
    ).fetchall()
    assert deleted
    changed = of(sample.ask.rows_changed(session=incident), "objects", "fate", "rows")
    for fate, rows in deleted:
        assert (["orders"], fate, rows) in changed
    left = sample.ask.data_left(session=incident)
    most = of(left, "objects", "way", "agent")[0]
    assert most == (["customers"], "client", "copilot-7")
    credentials = of(sample.ask.credentials(session=incident), "what", "why")
    assert any("integration_keys" in what and why == "named" for what, why in credentials)


def test_the_incident_went_round_a_refusal(sample: aa.Case, incident: str) -> None:
    found = sample.ask.escalations(session=incident)
    assert ("COPY", True, "another way", ["customers"], "COPY") in of(
        found, "failed_operation", "is_refusal", "how", "shared", "operation"
    )


def test_the_incident_left_its_agents_way(sample: aa.Case, incident: str) -> None:
    steps = of(sample.ask.deviating_steps(incident), "resources", "why")
    assert (["integration_keys"], "objects") in steps
    ((new, alike),) = of(sample.ask.deviation(session=incident), "new_objects", "baseline_sessions")
    assert "integration_keys" in new
    assert alike > 0
    loops = of(sample.ask.retry_loops(session=incident), "resources", "kind")
    assert (["tickets"], "iterates") in loops
    told = of(sample.ask.timeline(session=incident), "what")
    assert told[0] == "opened"
    assert told.count("command") == sample.session(incident).count
