"""What a `Filter` takes from a browser, and that the SQL and Python it prints mean the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import agentaudit as aa
from agentaudit.analysis.explore import Filter, Index
from agentaudit.analysis.explore.filters import FACETS, iso, literal
from agentaudit.analysis.store import Store
from agentaudit.errors import QuestionError
from tests.analysis.explore import made
from tests.analysis.explore.made import BEGAN_US, HOUR_US, MadeLook, Row
from tests.analysis.recording import Recorded, recorded

__all__ = ["recorded"]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return made.Rows(made.plain(150, 1) + made.odd(250, 2))


@pytest.fixture(scope="module")
def look(tmp_path_factory: pytest.TempPathFactory, rows: list[Row]) -> MadeLook:
    look = MadeLook(tmp_path_factory.mktemp("made"))
    look.seal(rows[:200])
    look.seal(rows[200:300])
    look.live = rows[300:]
    return look


@pytest.fixture(scope="module")
def index(look: MadeLook) -> Iterator[Index]:
    with Index(look) as index:
        assert index.wait(60)
        yield index


@pytest.fixture(scope="module")
def store(look: MadeLook) -> Store:
    store = Store(look.archive)
    snap = look.snapshot()
    live = {name: table for name, table in snap.live.items() if name != "blobs"}
    store.show(snap.files, live | {"blobs": blobs(snap.live["blobs"])})
    return store


def blobs(table: Any) -> Any:
    import pyarrow as pa

    return table.append_column("gateway", pa.array([], pa.string()))


VALUES: dict[str, tuple[str, ...]] = {
    "session": tuple(str(made.identity(one)) for one in (0, 1, 5, 100, 103, 107, 999)),
    "user": ("user-0", "user-1", "nobody", *made.ODD),
    "agent": ("agent-0", "agent-1", *made.ODD),
    "target": ("orders", *made.ODD),
    "protocol": ("postgres", "ssh", "?", ""),
    "cls": made.GRAVITY[:-1],
    "status": made.STATUS[:-1],
    "decision": made.DECISION[:-1],
    "operation": ("SELECT", "select", "UPDATE", "COPY", "", "é"),
    "risk": ("drops", "no where", *made.ODD),
    "table": ("orders", "ORDERS", "public.orders", "customers", *made.ODD),
    "flags": ("error", "held", "denied", "masked", "large"),
}
TIMES = (
    st.none()
    | st.sampled_from(
        [0, BEGAN_US, BEGAN_US + 1, BEGAN_US + HOUR_US, BEGAN_US + 5 * HOUR_US, 10**17]
    )
    | st.integers(BEGAN_US, BEGAN_US + 12 * HOUR_US)
)


@st.composite
def filters(draw: st.DrawFn) -> Filter:
    chosen = draw(st.lists(st.sampled_from(sorted(VALUES)), max_size=3, unique=True))
    asked: dict[str, Any] = {
        name: draw(st.lists(st.sampled_from(VALUES[name]), min_size=1, max_size=4))
        for name in chosen
    }
    asked["since"] = draw(TIMES)
    asked["until"] = draw(TIMES)
    texts = ("", "", "SELECT", "x where", "ZOË", "école", *made.ODD)
    asked["text"] = draw(st.sampled_from(texts))
    return Filter.parse(asked)


def named(rows: list[Row]) -> list[tuple[str, int]]:
    return sorted((str(row["session_id"]), row["command_no"]) for row in rows)


def every(index: Index, asked: Filter) -> list[Row]:
    found: list[Row] = []
    while True:
        answer = index.rows(asked, offset=len(found), limit=500)
        found += made.table(answer.buffers[0])
        if len(found) >= answer.facts["n"]:
            return found


@settings(max_examples=60, deadline=None)
@given(asked=filters())
def test_index_sql_and_python_select_what_the_filter_says(
    asked: Filter, rows: list[Row], index: Index, store: Store
) -> None:
    expected = named([row for row in rows if made.matches(row, asked)])
    assert named(every(index, asked)) == expected
    assert named(store.ask(asked.sql()).to_arrow_table().to_pylist()) == expected


class Asked:
    """A case as far as printed Python needs it, over the views of a `Store`."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def sql(self, query: str) -> list[Row]:
        rows: list[Row] = self.store.ask(query).to_arrow_table().to_pylist()
        return rows


@settings(max_examples=60, deadline=None)
@given(asked=filters())
def test_printed_python_selects_the_same_or_says_so_by_commands(
    asked: Filter, rows: list[Row], store: Store
) -> None:
    printed = asked.python()
    assert all(line.isprintable() for line in printed.splitlines())
    if printed.startswith("case.sql("):
        found = eval(printed, {"case": Asked(store)})
        assert named(found) == named([row for row in rows if made.matches(row, asked)])
    else:
        assert asked.to_json().keys() <= {
            *("session", "user", "agent", "target", "cls", "status", "operation", "table"),
            *("since", "until"),
        }


OF_CASE = {
    "user": ("copilot-7", "<img src=x onerror=alert(1)>", "nobody"),
    "agent": ("codex", "\u202egnp.exe"),
    "target": ("orders", "orders</style><script>"),
    "cls": ("read", "write", "session"),
    "status": ("ok", "error"),
    "operation": ("SELECT", "select", "UPDATE"),
    "table": ("customers", "Tables", "information_schema.tables"),
    "protocol": ("postgres",),
    "flags": ("error", "large"),
}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_printed_python_and_sql_run_on_a_real_case(data: st.DataObject, recorded: Recorded) -> None:
    case = CASES.setdefault(str(recorded.path), aa.load(recorded.path))
    chosen = data.draw(st.lists(st.sampled_from(sorted(OF_CASE)), max_size=3, unique=True))
    asked = Filter.parse(
        {
            **{
                name: data.draw(st.lists(st.sampled_from(OF_CASE[name]), min_size=1, max_size=2))
                for name in chosen
            },
            "since": data.draw(st.none() | st.just(BEGAN_US + 4_000_000)),
            "until": data.draw(st.none() | st.just(BEGAN_US + 100_000_000)),
            "text": data.draw(st.sampled_from(("", "select", "--"))),
        }
    )
    index = INDEXES.setdefault(str(recorded.path), Index(case))
    assert index.wait(60)
    found = named(every(index, asked))
    assert named(eval(asked.python(), {"case": case}).to_arrow_table().to_pylist()) == found
    assert named(case.sql(asked.sql()).to_arrow_table().to_pylist()) == found


CASES: dict[str, aa.Case] = {}
INDEXES: dict[str, Index] = {}


@pytest.fixture(scope="module", autouse=True)
def _closed() -> Iterator[None]:
    yield
    for index in INDEXES.values():
        index.close()


@given(asked=filters())
def test_json_comes_back_as_the_same_filter(asked: Filter) -> None:
    assert Filter.parse(asked.to_json()) == asked


@given(text=st.text(max_size=40).filter(lambda text: "\0" not in text))
def test_a_literal_prints_and_means_the_text(text: str) -> None:
    import duckdb

    said = literal(text)
    assert said.isprintable()
    assert duckdb.sql(f"SELECT {said}").fetchall() == [(text,)]


@pytest.mark.parametrize("facet", [*FACETS, "flags", "since", "until", "text"])
def test_without_takes_one_clause_away(facet: str) -> None:
    everything: dict[str, Any] = {name: [VALUES[name][0]] for name in VALUES}
    asked = Filter.parse({**everything, "since": 1, "until": 2, "text": "x"})
    assert asked.without(facet).to_json().keys() == asked.to_json().keys() - {facet}


HOSTILE: list[tuple[Any, str]] = [
    (None, "filter: an object expected, found NoneType"),
    ([], "an object expected, found list"),
    ("user", "an object expected, found str"),
    ({"sql": "x"}, "unknown key 'sql'"),
    ({"__class__": []}, "unknown key"),
    ({1: []}, "unknown key int"),
    ({"user": "ada"}, r"filter\.user: a list expected, found str"),
    ({"user": {"ada": 1}}, "a list expected, found dict"),
    ({"user": [1]}, "text expected, found int"),
    ({"user": [None]}, "text expected, found NoneType"),
    ({"user": [["ada"]]}, "text expected, found list"),
    ({"user": ["x" * 2_001]}, "at most 2000 characters expected, found 2001"),
    ({"user": ["x"] * 201}, "at most 200 values expected, found 201"),
    ({"user": ["\ud800"]}, "half a character"),
    ({"text": "\udfff"}, "half a character"),
    ({"text": 5}, r"filter\.text: text expected, found int"),
    ({"text": None}, "text expected, found NoneType"),
    ({"text": "x" * 1_001}, "at most 1000 characters expected, found 1001"),
    ({"cls": ["select"]}, "read, write, schema, admin, session or unknown expected"),
    ({"status": ["OK"]}, "ok, error, denied, cancelled or incomplete expected"),
    ({"decision": [""]}, "allow, deny or hold expected"),
    ({"flags": ["1"]}, "error, held, denied, masked or large expected"),
    ({"session": ["0199aaaa"]}, "whole session ids expected"),
    ({"session": ["x' OR 1=1 --" + "-" * 24]}, "whole session ids expected"),
    ({"since": "now"}, r"filter\.since: whole microseconds expected, found str"),
    ({"since": True}, "found bool"),
    ({"since": 1.5}, "found float"),
    ({"since": float("nan")}, "found float"),
    ({"until": -1}, "from 1970 to 9999"),
    ({"until": 10**30}, "from 1970 to 9999"),
]


@pytest.mark.parametrize(("asked", "answer"), HOSTILE)
def test_what_no_filter_is_gets_an_answer_that_names_it(asked: Any, answer: str) -> None:
    with pytest.raises(QuestionError, match=answer):
        Filter.parse(asked)


def test_a_refusal_never_repeats_what_was_asked() -> None:
    for asked in ({"cls": ["s3cret"]}, {"session": ["s3cret"]}, {"since": "s3cret"}):
        with pytest.raises(QuestionError) as caught:
            Filter.parse(asked)
        assert "s3cret" not in str(caught.value)


def test_times_read_as_iso_8601() -> None:
    assert iso(BEGAN_US) == "2026-11-03T10:00:00.000000Z"
    assert iso(0) == "1970-01-01T00:00:00.000000Z"


def test_sql_of_no_filter_is_all_newest_first() -> None:
    assert Filter().sql() == (
        "SELECT *\nFROM commands\nORDER BY started_at DESC, session_id DESC, command_no DESC"
    )
    assert Filter().python() == "case.commands()"


def test_made_files_lie_where_the_store_may_read(look: MadeLook) -> None:
    assert all(Path(path).is_file() for path in look.files)


def test_a_text_in_the_place_of_values_is_not_taken_for_its_letters() -> None:
    with pytest.raises(QuestionError, match="user: a tuple"):
        Filter(user="ana")  # type: ignore[arg-type]
