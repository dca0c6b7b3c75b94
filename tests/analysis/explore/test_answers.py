"""Every answer against plain Python over the same rows: sorted, sealed since then, and live."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentaudit.analysis.explore import Filter, Index
from agentaudit.analysis.explore import built as made_index
from agentaudit.analysis.explore.answers import LANES, MAX_LANES, OPEN_FACETS, SESSION_ORDERS
from agentaudit.analysis.explore.filters import MAX_US
from tests.analysis.explore import made
from tests.analysis.explore.made import BEGAN_US, HOUR_US, MadeLook, Row
from tests.analysis.explore.test_filters import VALUES

END_US = BEGAN_US + 1_000 * HOUR_US


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return made.Rows(made.plain(6_000, 3) + made.odd(300, 4))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, rows: list[Row]) -> Iterator[Index]:
    look = MadeLook(tmp_path_factory.mktemp("made"))
    look.seal(rows[:3_000])
    look.seal(rows[3_000:5_900] + rows[6_000:6_100])
    with Index(look) as index, pytest.MonkeyPatch.context() as few:
        assert index.wait(60)
        built = index._state.built
        assert built is not None
        few.setattr(made_index, "_PICKED_ROWS", 400)
        assert built.base("id = 7").rows is not None
        assert built.base("x").levels, "so many that they are added up"
        assert {"hour_full", "minutes", "ever_full"} <= {level.name for level in built.levels}
        look.seal(rows[5_900:6_000] + rows[6_100:6_150])
        look.live = rows[6_150:]
        assert index.refresh(60)
        assert index._state.built is built, "the tail was taken, nothing was built again"
        assert (built.base_rows, built.tail_rows) == (6_000, 300)
        yield index


TIMES = st.one_of(
    st.none(),
    st.sampled_from([BEGAN_US, BEGAN_US + HOUR_US, BEGAN_US + 3 * HOUR_US + 1, 0, END_US]),
    st.integers(BEGAN_US, BEGAN_US + 12 * HOUR_US),
)


@st.composite
def filters(draw: st.DrawFn) -> Filter:
    names = ("user", "agent", "cls", "status", "operation", "flags", "table", "risk", "session")
    chosen = draw(st.lists(st.sampled_from(names), max_size=2, unique=True))
    asked: dict[str, Any] = {
        name: draw(st.lists(st.sampled_from(VALUES[name]), min_size=1, max_size=4))
        for name in chosen
    }
    text = draw(st.sampled_from(("", "", "", "", "id = 7", "DROP", "x", "zoë")))
    return Filter.parse({**asked, "since": draw(TIMES), "until": draw(TIMES), "text": text})


@st.composite
def views(draw: st.DrawFn) -> tuple[int, int]:
    if draw(st.booleans()):
        since = draw(st.integers(BEGAN_US - HOUR_US, BEGAN_US + 11 * HOUR_US))
        return since, since + draw(
            st.sampled_from([1, 1_000, 60_000_000, HOUR_US, 8 * HOUR_US, 900 * HOUR_US])
        )
    return draw(st.sampled_from([(BEGAN_US, END_US), (0, MAX_US), (BEGAN_US, BEGAN_US + 1)]))


def lane_of(row: Row, lanes: str) -> str:
    if lanes == "none":
        return ""
    if lanes == "class":
        return made.GRAVITY[made.class_code(row)]
    return str(row["session_id"]) if lanes == "session" else (row[lanes] or "")


def id_of(index: Index, row: Row) -> int:
    found = index.locate(row["session_id"], row["command_no"]).facts
    assert found["t"] == row["t"]
    identity: int = found["id"]
    return identity


@settings(max_examples=60, deadline=None)
@given(
    asked=filters(),
    view=views(),
    lanes=st.sampled_from(LANES),
    width=st.sampled_from([1, 7, 100, 1_200, 4_096]),
)
def test_bins_count_every_command_and_hide_nothing_grave(
    asked: Filter, view: tuple[int, int], lanes: str, width: int, rows: list[Row], index: Index
) -> None:
    since, until = view
    answer = index.bins(asked, since=since, until=until, width=width, lanes=lanes)
    origin, step, count = (answer.facts[name] for name in ("origin", "step", "count"))
    assert origin <= since
    assert since < origin + step
    assert until <= origin + step * count < until + step
    assert count <= width + 1
    assert step < 2 * max(2, -(-(until - since) // width) + 1)
    expected: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in rows:
        if origin <= row["t"] < origin + step * count and made.matches(row, asked):
            expected[lane_of(row, lanes), (row["t"] - origin) // step].append(row)
    names = [lane["name"] for lane in answer.facts["lanes"]]
    assert len(names) <= MAX_LANES
    found = made.table(answer.buffers[0])
    assert {(names[cell["lane"]], cell["bin"]) for cell in found} == expected.keys()
    for cell in found:
        inside = expected[names[cell["lane"]], cell["bin"]]
        assert cell["n"] == len(inside)
        assert cell["severity"] == max(map(made.severity, inside))
        gravest = [row for row in inside if made.severity(row) == cell["severity"]]
        assert cell["cls"] == min(map(made.class_code, gravest))
        bits = 0
        for row in inside:
            bits |= made.bits(row)
        assert cell["flags"] == bits
    assert answer.facts["n"] == sum(map(len, expected.values()))
    for lane in answer.facts["lanes"]:
        inside = [
            row for (name, _), some in expected.items() if name == lane["name"] for row in some
        ]
        assert lane["n"] == len(inside)
        assert lane["severity"] == max(map(made.severity, inside))


def test_a_bin_names_a_command_among_its_gravest(rows: list[Row], index: Index) -> None:
    answer = index.bins(since=BEGAN_US, until=BEGAN_US + 10 * HOUR_US, width=10)
    by_id = {id_of(index, row): row for row in rows if made.severity(row) == 3}
    cells = [cell for cell in made.table(answer.buffers[0]) if cell["severity"] == 3]
    assert cells
    for cell in cells:
        named = by_id[cell["id"]]
        start = answer.facts["origin"] + cell["bin"] * answer.facts["step"]
        assert start <= named["t"] < start + answer.facts["step"]
        assert made.class_code(named) == cell["cls"]


def test_lanes_beyond_64_are_one_lane_which_is_as_grave_as_they_are(tmp_path: Any) -> None:
    look = MadeLook(tmp_path)
    look.seal(
        [
            made.row(session=number, command_no=0, t=BEGAN_US + number, cls="read", status=status)
            for number in range(200)
            for status in (["error"] if number in range(50, 150) else ["ok"])
        ]
    )
    with Index(look) as index:
        assert index.wait(60)
        for answer in (
            index.bins(since=BEGAN_US, until=BEGAN_US + 200, lanes="session"),
            index.marks(since=BEGAN_US, until=BEGAN_US + 200, lanes="session"),
        ):
            *shown, others = answer.facts["lanes"]
            assert len(shown) == 63
            assert {lane["severity"] for lane in shown} == {2}
            assert others == {"name": None, "n": 137, "severity": 2, "others": 137}
            found = made.table(answer.buffers[0])
            assert sum(cell.get("n", 1) for cell in found if cell["lane"] == 63) == 137


@settings(max_examples=30, deadline=None)
@given(
    asked=filters(),
    view=views(),
    lanes=st.sampled_from(LANES),
    limit=st.sampled_from([1, 50, 5_000]),
)
def test_marks_are_the_commands_where_they_are_few(
    asked: Filter, view: tuple[int, int], lanes: str, limit: int, rows: list[Row], index: Index
) -> None:
    since, until = view
    answer = index.marks(asked, since=since, until=until, lanes=lanes, limit=limit)
    expected = [row for row in rows if since <= row["t"] < until and made.matches(row, asked)]
    assert answer.facts["n"] == len(expected)
    assert answer.facts["complete"] == (len(expected) <= limit)
    if not answer.facts["complete"]:
        assert answer.buffers == ()
        return
    names = [lane["name"] for lane in answer.facts["lanes"]]
    found = made.table(answer.buffers[0])
    assert [mark["t"] for mark in found] == sorted(row["t"] for row in expected)
    said = Counter(
        (mark["t"], mark["duration"], names[mark["lane"]], mark["cls"], mark["flags"],
         mark["severity"])
        for mark in found
    )  # fmt: skip
    assert said == Counter(
        (row["t"], row["duration_us"], lane_of(row, lanes), made.class_code(row), made.bits(row),
         made.severity(row))
        for row in expected
    )  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(asked=filters())
def test_facets_count_what_each_value_would_leave(
    asked: Filter, rows: list[Row], index: Index
) -> None:
    facets = index.facets(asked).facts["facets"]
    for facet, answer in facets.items():
        left = [row for row in rows if made.matches(row, asked.without(facet))]
        expected = Counter(value for row in left for value in values_of(row, facet))
        ranked = sorted(expected.items(), key=lambda item: (-item[1], item[0]))
        assert [n for _, n in answer["values"]] == [n for _, n in ranked[:50]], facet
        assert all(expected[value] == n for value, n in answer["values"])
        if len(ranked) <= 50:
            assert answer["values"] == [list(item) for item in ranked]
        assert answer["more"] == max(0, len(ranked) - 50)


@settings(max_examples=60, deadline=None)
@given(
    asked=filters(),
    facet=st.sampled_from(OPEN_FACETS),
    text=st.sampled_from(["", "", "o", "ORDERS", "%", "-1"]),
    limit=st.sampled_from([1, 7, 200]),
)
def test_all_values_of_a_facet_can_be_reached_page_by_page(
    asked: Filter, facet: str, text: str, limit: int, rows: list[Row], index: Index
) -> None:
    left = [row for row in rows if made.matches(row, asked.without(facet))]
    counts = Counter(value for row in left for value in values_of(row, facet))
    expected = {value: n for value, n in counts.items() if text.lower() in value.lower()}
    found: list[list[Any]] = []
    while page := index.values(facet, asked, text=text, offset=len(found), limit=limit).facts:
        found += page["values"]
        if len(page["values"]) < limit:
            break
        assert page["n"] == len(expected)
    assert len(found) == len(expected), "none comes twice"
    assert dict(found) == expected
    assert [n for _, n in found] == sorted(expected.values(), reverse=True)


def values_of(row: Row, facet: str) -> set[str]:
    if facet == "session":
        return {row["session_id"]}
    if facet == "flags":
        return made.flags(row)
    if facet == "risk":
        return set(row["risk"])
    if facet == "table":
        return set(row["resources"])
    if facet == "cls":
        return {made.GRAVITY[made.class_code(row)]}
    if facet in ("status", "decision"):
        known = made.STATUS if facet == "status" else made.DECISION
        return {row[facet] if row[facet] in known else ""}
    return {row[facet] or ""}


@settings(max_examples=60, deadline=None)
@given(
    asked=filters(),
    order=st.sampled_from(["newest", "oldest"]),
    at=st.floats(0, 1),
    limit=st.sampled_from([1, 3, 100]),
)
def test_pages_by_offset_and_by_command_are_one_list_and_position_finds_them(
    asked: Filter, order: str, at: float, limit: int, rows: list[Row], index: Index
) -> None:
    expected = [row for row in rows if made.matches(row, asked)]
    times = sorted((row["t"] for row in expected), reverse=order == "newest")
    offset = int(at * len(expected))
    page = index.rows(asked, order=order, offset=offset, limit=limit)
    assert page.facts["n"] == len(expected)
    found = made.table(page.buffers[0])
    assert [row["t"] for row in found] == times[offset : offset + limit]
    for place, row in enumerate(found):
        position = index.position(asked, t=row["t"], id=row["id"], order=order).facts
        assert (position["position"], position["matches"]) == (offset + place, True)
        assert position["n"] == len(expected)
        before = index.position(asked, t=row["t"], order=order).facts["position"]
        newer = sum(t > row["t"] if order == "newest" else t < row["t"] for t in times)
        assert before == newer
    if found:
        last = found[-1]["t"], found[-1]["id"]
        following = index.rows(asked, order=order, after=last, limit=limit)
        again = index.rows(asked, order=order, offset=offset + len(found), limit=limit)
        assert made.table(following.buffers[0]) == made.table(again.buffers[0])


def test_a_row_says_what_was_recorded(rows: list[Row], index: Index) -> None:
    by_name = {(row["session_id"], row["command_no"]): row for row in rows}
    for offset in range(0, 6_300, 450):
        for shown in made.table(index.rows(offset=offset, limit=30).buffers[0]):
            row = by_name[shown["session_id"], shown["command_no"]]
            for name in ("user", "agent", "target", "protocol", "operation", "rule"):
                assert shown[name] == (row[name] or "") if name in row else shown[name] == ""
            for name in ("rows_returned", "rows_affected", "bytes_in", "bytes_out"):
                assert shown[name] == row[name]
            assert shown["duration"] == row["duration_us"]
            assert shown["text"] == (row["text"] or "")[:300]
            assert shown["text_length"] == len(row["text"] or "")
            assert (shown["flags"], shown["severity"]) == (made.bits(row), made.severity(row))
            assert shown["id"] == id_of(index, row)


@settings(max_examples=30, deadline=None)
@given(
    asked=filters(),
    order=st.sampled_from(SESSION_ORDERS),
    offset=st.integers(0, 12),
    limit=st.sampled_from([1, 5, 100]),
)
def test_sessions_sum_up_what_matches(
    asked: Filter, order: str, offset: int, limit: int, rows: list[Row], index: Index
) -> None:
    expected: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if made.matches(row, asked):
            expected[row["session_id"]].append(row)
    answer = index.sessions(asked, order=order, offset=offset, limit=limit)
    assert answer.facts["n"] == len(expected)
    found = made.table(answer.buffers[0])
    assert len(found) == max(0, min(limit, len(expected) - offset))
    for session in found:
        inside = expected[session["session_id"]]
        assert session["matching"] == len(inside)
        assert session["severity"] == max(map(made.severity, inside))
        for name, flag in (("errors", "error"), ("denied", "denied"), ("held", "held"),
                           ("masked", "masked"), ("large", "large")):  # fmt: skip
            assert session[name] == sum(flag in made.flags(row) for row in inside)
    ranks = [(session["severity"], session["matching"]) for session in found]
    if order == "gravest":
        assert ranks == sorted(ranks, reverse=True)
    if order == "most":
        assert [n for _, n in ranks] == sorted((n for _, n in ranks), reverse=True)


def test_overview_says_how_much_there_is(rows: list[Row], index: Index) -> None:
    facts = index.overview().facts
    assert facts["n"] == len(rows)
    assert facts["first"] == min(row["t"] for row in rows)
    assert facts["last"] == max(row["t"] for row in rows)
    assert facts["gateways"] == [{"name": "gw1", "clock": "system"}]
    assert facts["values"]["user"] == len({row["user"] or "" for row in rows})
    assert facts["values"]["table"] == len({name for row in rows for name in row["resources"]})
    assert (facts["ready"], facts["behind"]) == (True, False)


def test_what_is_not_there_is_located_nowhere(index: Index) -> None:
    for session, number in ((made.identity(0), 10**6), (made.identity(77), 0)):
        facts = index.locate(session, number).facts
        assert (facts["id"], facts["t"]) == (None, None)


def test_answers_are_small(index: Index) -> None:
    answers = [
        index.bins(since=BEGAN_US, until=END_US, width=1_200, lanes="user"),
        index.marks(since=BEGAN_US, until=END_US, limit=5_000, lanes="user"),
        index.rows(limit=500),
        index.sessions(limit=500),
    ]
    assert all(sum(map(len, answer.buffers)) < 256 << 10 for answer in answers)
