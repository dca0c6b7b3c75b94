"""The kernel's side of the explorer: answers to the page, and what views of one scope share."""

from __future__ import annotations

import gc
import io
import json
import weakref
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest

import agentaudit as aa
from agentaudit.analysis.explore import Filter
from agentaudit.errors import QuestionError
from agentaudit.widgets import CommandFilter, Explorer, Replay, Timeline
from tests.analysis.recording import Recorded, Script, record

FAR = 4_000_000_000_000_000
HOUR_US = 3_600_000_000
FIRST = {"newest": False, "offset": 0, "limit": 1}


class Page:
    """The far end of a widget's channel: keeps what a browser would receive."""

    def __init__(self, widget: Explorer | Timeline | CommandFilter) -> None:
        self.widget = widget
        self.answers: list[tuple[dict[str, Any], list[bytes]]] = []
        self.told: list[dict[str, Any]] = []
        widget.send = self._receive

    def _receive(self, content: dict[str, Any], buffers: list[bytes] | None = None) -> None:
        json.dumps(content)  # what goes to a browser must be JSON
        if "event" in content:
            self.told.append(content["data"])
        else:
            self.answers.append((content, buffers or []))

    def try_to_ask(self, name: Any, /, **args: Any) -> dict[str, Any]:
        message = {"v": 1, "id": 7, "op": name, "args": args}
        self.widget._handle_msg(
            {"content": {"data": {"method": "custom", "content": message}}, "buffers": []}
        )
        return self.answers[-1][0]

    def ask(self, name: str, /, **args: Any) -> dict[str, Any]:
        answer = self.try_to_ask(name, **args)
        assert answer["ok"], answer
        data: dict[str, Any] = answer["data"]
        return data

    def table(self, name: str, /, **args: Any) -> list[dict[str, Any]]:
        """Ask what is answered with one Arrow stream, and return its rows."""
        self.ask(name, **args)
        (stream,) = self.answers[-1][1]
        rows: list[dict[str, Any]] = pa.ipc.open_stream(io.BytesIO(stream)).read_all().to_pylist()
        return rows


def explored(recorded: Recorded, **filter: Any) -> tuple[Explorer, Page]:
    explorer = Explorer(aa.load(recorded.path), **filter)
    assert explorer.scope.index.wait(60)
    return explorer, Page(explorer)


def test_the_page_is_told_what_there_is_and_that_the_clock_was_scripted(recorded: Recorded) -> None:
    _, page = explored(recorded)
    opened = page.ask("open")
    assert (opened["commands"], opened["sessions"], opened["ready"]) == (14, 2, True)
    assert opened["scripted"] is True
    assert opened["first"] < opened["last"]
    assert (opened["filter"], opened["selected"]) == ({}, None)


def test_few_commands_come_one_by_one_and_many_as_bins(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, page = explored(recorded)
    place = {"filter": {}, "since": 0, "until": FAR, "width": 300, "lanes": "user"}
    marks = page.table("look", **place)
    assert page.answers[-1][0]["data"]["kind"] == "marks"
    assert len(marks) == 14
    monkeypatch.setattr("agentaudit.widgets.explorer.MAX_MARKS", 5)
    bins = page.table("look", **place, channel="plot")
    data = page.answers[-1][0]["data"]
    assert data["kind"] == "bins"
    assert sum(each["n"] for each in bins) == 14
    assert sorted(lane["n"] for lane in data["lanes"]) == [2, 12]


def test_pages_of_the_list_and_the_place_of_a_command_in_it_agree(recorded: Recorded) -> None:
    _, page = explored(recorded)
    for newest in (True, False):
        rows = page.table("rows", filter={}, newest=newest, offset=0, limit=100)
        build = page.answers[-1][0]["data"]["build"]
        for place, row in enumerate(rows):
            found = page.ask(
                "place",
                filter={},
                newest=newest,
                session=row["session_id"],
                command=row["command_no"],
            )
            assert found == {"place": place}
            which = page.ask("which", id=row["id"], build=build)
            assert (which["session"], which["command_no"]) == (
                row["session_id"],
                row["command_no"],
            )
        only = {"status": ["error"]}
        kept = page.ask(
            "place", filter=only, newest=newest, session=recorded.sessions[0], command=0
        )
        assert kept == {"place": None}, "it is in the archive and not in the list"


def test_steps_lead_through_all_errors_in_both_directions(recorded: Recorded) -> None:
    _, page = explored(recorded)
    grave = {"flags": ["error"]}
    errors = page.table("rows", filter=grave, newest=False, offset=0, limit=100)
    assert len(errors) >= 2
    seen = []
    place: dict[str, Any] = {"t": 0, "session": None, "command": None}
    while row := page.table("step", filter=grave, direction=1, **place):
        seen.append(row[0]["id"])
        place = {"t": 0, "session": row[0]["session_id"], "command": row[0]["command_no"]}
    assert seen == [row["id"] for row in errors]
    (before,) = page.table("step", filter=grave, direction=-1, **place)
    assert before["id"] == errors[-2]["id"]
    gone = {"t": errors[-1]["t"], "session": str(UUID(int=5)), "command": 1}
    (nearest,) = page.table("step", filter=grave, direction=1, **gone)
    assert nearest["id"] == errors[-1]["id"], "what is gone is stepped on from by its time"


def test_an_id_that_a_page_kept_over_a_rebuild_is_no_other_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = record(tmp_path, Script().query("SELECT 1").query("SELECT 2"), later_us=HOUR_US)
    explorer, page = explored(recorded)
    kept = page.table("rows", filter={}, newest=False, offset=0, limit=1)[0]
    build = page.answers[-1][0]["data"]["build"]
    here = {"t": kept["t"], "session": kept["session_id"], "command": kept["command_no"]}
    (behind,) = page.table("step", filter={}, direction=1, **here)
    # A session of before that one takes its number in an index that is built anew.
    monkeypatch.setattr("agentaudit.analysis.explore.index._TAIL_ROWS", 0)
    record(tmp_path, Script().query("DROP TABLE a").query("DROP TABLE b"))
    assert explorer.scope.index.refresh(60)
    (again,) = page.table("rows", filter={"session": [kept["session_id"]]}, **FIRST)
    assert again["id"] != kept["id"], "else this test shows nothing"
    nothing = page.ask("which", id=kept["id"], build=build)
    assert (nothing["session"], nothing["command_no"]) == (None, None)
    (after,) = page.table("step", filter={}, direction=1, **here)
    assert (after["session_id"], after["text"]) == (behind["session_id"], "SELECT 2")


def test_a_session_replays_behind_the_same_channel(recorded: Recorded) -> None:
    _, page = explored(recorded)
    session = recorded.sessions[0]
    opened = page.ask("replay", session=session, op="open", args={})
    assert opened["session"]["id"] == session
    command = page.ask("replay", session=session, op="command", args={"command_no": 2})
    assert "emial" in command["text"]
    answer = page.try_to_ask("replay", session=session, op="table", args={"command_no": 2})
    assert not answer["ok"], "no method that is not a question"


def test_views_given_the_same_explorer_follow_each_other(recorded: Recorded) -> None:
    explorer, page = explored(recorded)
    timeline = Timeline(explorer)
    other = Page(timeline)
    answer = page.ask("scope", change={"filter": {"status": ["error"]}})
    assert (answer["filter"], answer["selected"]) == ({"status": ["error"]}, None)
    assert timeline.filter == Filter(status=("error",))
    # Whoever said it is told too: another page may show the same widget.
    assert other.told == page.told == [answer]
    chosen = {"session": recorded.sessions[0], "command": 2}
    selected = other.ask("scope", change={"selected": chosen})
    assert page.told[-1] == selected
    assert (selected["filter"], selected["selected"]) == ({"status": ["error"]}, chosen)
    assert selected["number"] == answer["number"] + 1
    assert selected["scope"] == answer["scope"]
    assert explorer.selected is not None
    assert str(explorer.session.id) == recorded.sessions[0]
    assert explorer.replay().command_no == 2
    explorer.filter = {}
    assert page.told[-1]["filter"] == other.told[-1]["filter"] == {}
    with pytest.raises(QuestionError, match="shared"):
        CommandFilter(timeline, user="ana")


def test_what_two_pages_change_at_once_is_both_in_force(recorded: Recorded) -> None:
    explorer, page = explored(recorded, agent=["b", "a"])
    page.ask("scope", change={"filter": {"user": ["ana"]}})
    page.ask("scope", change={"filter": {"status": ["error"], "since": 5}})
    page.ask("scope", change={"selected": {"session": recorded.sessions[0], "command": 1}})
    assert explorer.filter == Filter(agent=("a", "b"), user=("ana",), status=("error",), since=5)
    page.ask("scope", change={"filter": {"user": [], "since": None}})
    assert explorer.filter == Filter(agent=("a", "b"), status=("error",))
    assert explorer.selected is not None
    number = page.told[-1]["number"]
    told = len(page.told)
    again = page.ask("scope", change={"filter": {"status": ["error"]}})
    assert (again["number"], len(page.told)) == (number, told), "nothing is other than it was"


def test_a_replay_follows_what_is_selected_and_leads_where_it_is_moved(recorded: Recorded) -> None:
    explorer, page = explored(recorded)
    replay = Replay(explorer)
    with pytest.raises(QuestionError, match="none is selected"):
        replay.command  # noqa: B018
    assert "No session" in replay.still()
    first, second = recorded.sessions
    explorer.select(second, 1)
    assert (replay.session_id, replay.command_no) == (second, 1)
    assert replay.command["operation"] == "DROP TABLE"
    explorer.select(first, 1)
    assert (replay.session_id, replay.command_no) == (first, 1)
    assert "information_schema" in replay.command["text"]
    replay.command_no = 2
    assert explorer.selected == (replay.session.id, 2)
    assert page.told[-1]["selected"] == {"session": first, "command": 2}
    page.ask("scope", change={"selected": {"session": second, "command": 0}})
    assert (replay.session_id, replay.command_no) == (second, 0)


def test_the_relation_and_the_python_are_what_the_page_shows(recorded: Recorded) -> None:
    explorer, page = explored(recorded, status="error")
    shown = page.table("rows", filter=explorer.filter.to_json(), newest=True, offset=0, limit=100)
    rows = explorer.data().fetchall()
    names = explorer.data().columns
    at, number = names.index("session_id"), names.index("command_no")
    assert [(str(row[at]), row[number]) for row in rows] == [
        (row["session_id"], row["command_no"]) for row in shown
    ]
    code = page.ask("code", filter=explorer.filter.to_json())
    assert code == {"sql": explorer.sql, "python": explorer.python}
    case = explorer.case
    told = eval(explorer.python, {"case": case})
    assert told.fetchall() == rows


def test_a_command_that_is_not_there_cannot_be_selected(recorded: Recorded) -> None:
    explorer, _ = explored(recorded)
    with pytest.raises(QuestionError, match="no command 99"):
        explorer.select(recorded.sessions[0], 99)
    with pytest.raises(QuestionError, match="selected"):
        explorer.replay()


@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("scope", {"change": {"filter": {"cls": ["x"]}, "selected": None}}),
        ("scope", {"change": {"filter": ["cls"]}}),
        ("scope", {"change": {"filter": {"status": ["ok"]}, "selected": {"session": "../x"}}}),
        ("scope", {"change": {"selected": {"session": 5, "command": 1}}}),
        ("scope", {"change": {"selected": {"session": "0" * 32, "command": -1}}}),
        ("scope", {"change": {"selected": "x"}}),
        ("scope", {"change": {"number": 7}}),
        ("scope", {"change": None}),
        ("look", {"filter": {}, "since": 0, "until": 1, "width": 10**9, "lanes": "none"}),
        ("look", {"filter": {}, "since": 0, "until": 1, "width": 9, "lanes": "text"}),
        ("look", {"filter": {}, "since": 0, "until": 1, "width": 9, "lanes": "none", "channel": 5}),
        ("rows", {"filter": {}, "newest": True, "offset": -1, "limit": 10}),
        ("rows", {"filter": {"text": "x" * 10_000}, "newest": True, "offset": 0, "limit": 10}),
        ("rows", {"filter": {}, "newest": True, "offset": 0, "limit": 10, "sql": "SELECT 1"}),
        ("count", {"filter": {"cls": ["events"]}}),
        ("code", {"filter": {"sql": "SELECT 1"}}),
        ("replay", {"session": ["x"], "op": "open", "args": {}}),
        ("replay", {"session": "0" * 32, "op": "open", "args": {}}),
        ("which", {"id": "1; DROP TABLE base", "build": 1}),
        ("which", {"id": 1, "build": None}),
        ("values", {"filter": {}, "facet": "text", "text": "", "offset": 0, "limit": 50}),
        ("values", {"filter": {}, "facet": "user", "text": "x" * 9_000, "offset": 0, "limit": 50}),
        ("values", {"filter": {}, "facet": "user", "text": "", "offset": 0, "limit": 10**6}),
        ("values", {"filter": {}, "facet": ["user"], "text": "", "offset": 0, "limit": 50}),
        ("ask", {"name": "open", "args": {}}),
        ("still", {}),
        ("__init__", {"scope": None}),
        (["open"], {}),
    ],
)
def test_what_a_hostile_page_asks_is_refused_and_said_so(
    recorded: Recorded, op: Any, args: dict[str, Any]
) -> None:
    explorer, page = explored(recorded)
    answer = page.try_to_ask(op, **args)
    assert answer["ok"] is False
    assert answer["error"]
    assert "failed" not in answer["error"], "it was foreseen"
    assert explorer.filter == Filter()


def test_nothing_recorded_is_saved_with_the_notebook(recorded: Recorded) -> None:
    explorer, page = explored(recorded, user="copilot-7", text="emial")
    page.ask(
        "scope",
        change={
            "filter": {"text": "hunter2"},
            "selected": {"session": recorded.sessions[0], "command": 1},
        },
    )
    state = json.dumps(
        {k: str(v) for k, v in explorer.get_state().items() if not k.startswith("_")}
    )
    assert "copilot-7" not in state
    assert "hunter2" not in state


def test_the_still_picture_has_no_script_and_nothing_that_is_obeyed(recorded: Recorded) -> None:
    explorer, _ = explored(recorded)
    html = explorer.still()
    assert "14 commands" in html
    assert "<script" not in html.lower()
    assert "<img" not in html
    assert "\u202e" not in html
    bundle = explorer._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    assert data["text/html"] == html


def test_what_is_recorded_meanwhile_shows_at_the_next_look(tmp_path: Path) -> None:
    first = record(tmp_path, Script().query("SELECT 1"))
    explorer, page = explored(first)
    stamp = page.ask("open")["stamp"]
    record(tmp_path, Script().query("SELECT 2").query("SELECT 3"), later_us=3_600_000_000)
    assert explorer.scope.index.refresh(60)
    again = page.ask("open")
    assert again["commands"] == 3
    assert again["stamp"] != stamp


def test_views_share_an_index_that_goes_with_the_last_of_them(tmp_path: Path) -> None:
    case = aa.load(record(tmp_path, Script().query("SELECT 1")).path)
    one, two = Explorer(case), Timeline(case)
    assert one.scope.index is two.scope.index
    index = weakref.ref(one.scope.index)
    one.close()
    del one
    gc.collect()
    assert index() is not None
    two.close()
    del two
    gc.collect()
    assert index() is None, "and with it the private file that it kept"
