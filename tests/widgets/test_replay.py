"""The kernel's side of the replay: answers to the page, and the picture for who has no kernel."""

from __future__ import annotations

import json
import struct
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import agentaudit as aa
from agentaudit.errors import QuestionError
from agentaudit.widgets import Replay
from agentaudit.widgets.still import still
from tests.analysis.recording import Exchange, Recorded, Script, record
from tests.analysis.terminals import Shell
from tests.analysis.terminals import record as record_terminals
from tests.protocols import wire


class Page:
    """The far end of the widget's channel: keeps what a browser would receive."""

    def __init__(self, replay: Replay) -> None:
        self.replay = replay
        self.received: list[tuple[dict[str, Any], list[bytes]]] = []
        replay.send = lambda content, buffers=None: self.received.append((content, buffers or []))

    def say(self, content: object) -> None:
        """Deliver a message as ipywidgets does."""
        message = {"content": {"data": {"method": "custom", "content": content}}, "buffers": []}
        self.replay._handle_msg(message)

    def ask(self, op: str, **args: Any) -> tuple[dict[str, Any], list[bytes]]:
        """Ask a question and return the answer's data and buffers."""
        self.say({"v": 1, "id": len(self.received) + 70, "op": op, "args": args})
        answer, buffers = self.received[-1]
        assert answer["id"] == len(self.received) + 69
        json.dumps(answer)  # what goes to a browser must be JSON
        assert answer["ok"], answer
        return answer["data"], buffers


@pytest.fixture
def page(recorded: Recorded) -> Page:
    return Page(Replay(aa.load(recorded.path), recorded.sessions[0]))


def test_a_replay_of_what_is_not_there_is_refused(recorded: Recorded) -> None:
    case = aa.load(recorded.path)
    with pytest.raises(QuestionError, match="no command 99"):
        Replay(case, recorded.sessions[0], command=99)
    with pytest.raises(QuestionError, match="not in this archive"):
        Replay(case, "00000000-0000")


def test_the_index_holds_numbers_of_every_command(page: Page) -> None:
    opened, _ = page.ask("open")
    assert opened["total"] == 12
    assert opened["session"]["user"] == "copilot-7"
    data, buffers = page.ask("index", offset=0, limit=50_000)
    assert data["count"] == 12
    assert struct.unpack("<12i", buffers[0]) == tuple(range(12))
    assert struct.unpack("<12d", buffers[1])[:2] == (400_000.0, 801_500.0)
    assert struct.unpack("<12d", buffers[2])[7] == 310_000.0
    assert [len(buffer) for buffer in buffers] == [48, 96, 96, 48, 12, 12, 12, 12]
    assert buffers[6] == b"IIIIIITTTEEI"
    assert list(buffers[7]) == [1, 1, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2]
    part, buffers = page.ask("index", offset=10, limit=50_000)
    assert (part["count"], struct.unpack("<2i", buffers[0])) == (2, (10, 11))


def test_a_page_of_the_list_is_what_was_asked_for(page: Page) -> None:
    data, _ = page.ask("page", numbers=[5, 4, 2])
    assert [row["command_no"] for row in data["rows"]] == [2, 4, 5]
    assert data["rows"][1]["rows_label"] == "1 row changed"
    assert data["rows"][2]["text"] == (
        "SELECT id, name, email, note FROM customers -- all of them ORDER BY id"
    )


def test_find_searches_what_the_list_does_not_show(page: Page) -> None:
    for text, numbers in (("LOVELACE", (4,)), ("division", (9,)), ("no such text", ())):
        _, (buffer,) = page.ask("find", text=text)
        assert struct.unpack(f"<{len(numbers)}i", buffer) == numbers


def test_a_command_is_told_whole(page: Page) -> None:
    command, _ = page.ask("command", command_no=4)
    assert command["text"] == "UPDATE customers SET email = $1 WHERE id = $2"
    assert command["params"] == ["ada@lovelace.example", "7"]
    assert (command["cls"], command["rows_affected"], command["text_more"]) == ("write", 1, 0)


def test_a_result_comes_in_pages_of_texts(page: Page) -> None:
    data, _ = page.ask("result", command_no=5, offset=1_230, limit=50)
    assert data["total"] == 1_234
    assert [column["type"] for column in data["columns"]] == ["integer", "text", "text", "text"]
    assert [column["numeric"] for column in data["columns"]] == [True, False, False, False]
    assert data["rows"][0] == ["1231", "Customer 1231", "c1231@example.com", None]
    assert len(data["rows"]) == 4
    data, _ = page.ask("result", command_no=5, offset=0, limit=10**9)
    assert len(data["rows"]) == 500


def test_what_copy_sent_is_shown_line_by_line(tmp_path: Path) -> None:
    script = Script()
    script.exchanges.append(
        Exchange(
            wire.query("COPY t TO STDOUT"),
            wire.message("H", b"\0\0\2\0\0\0\0")
            + wire.message("d", b"1\tone\n")
            + wire.message("d", b"2\t\\N\n")
            + wire.message("c")
            + wire.command_complete("COPY 2")
            + wire.ready(),
            took_us=1_000,
            wait_us=1_000,
        )
    )
    made = record(tmp_path, script)
    page = Page(Replay(aa.load(made.path), made.sessions[0]))

    command, _ = page.ask("command", command_no=0)
    data, _ = page.ask("result", command_no=0, offset=0, limit=50)

    assert command["returns_rows"] is True
    assert data["columns"] == [{"name": "line", "type": "text", "numeric": False}]
    assert data["rows"] == [["1\tone"], ["2\t\\N"]]


def test_a_long_cell_is_cut_and_given_whole_when_asked(page: Page) -> None:
    data, _ = page.ask("result", command_no=5, offset=698, limit=1)
    cell = data["rows"][0][3]
    assert (cell["text"], cell["length"]) == ("n" * 300, 699)
    whole, _ = page.ask("cell", command_no=5, row=698, column=3)
    assert whole == {"text": "n" * 699, "more": 0}


def test_a_terminal_is_asked_for_by_pages_of_its_frames(tmp_path: Path) -> None:
    shell = Shell((40, 5)).says("$ ").says("pass\x1b[1mwo").says("rd\r\n", 9_000_000).exits(0)
    made = record_terminals(tmp_path, [shell, Shell(None, "uptime").says("up\n").exits(0)])
    page = Page(Replay(aa.load(made.path), made.sessions[0]))
    command, _ = page.ask("command", command_no=0)
    assert (command["has_terminal"], command["returns_rows"]) == (True, False)
    facts, (times,) = page.ask("terminal", command_no=0)
    assert (facts["columns"], facts["rows"], facts["duration_ms"]) == (40, 5, 9_300)
    assert struct.unpack("<3i", times) == (100, 200, 9_200)
    data, _ = page.ask("frames", command_no=0, page=0)
    assert [frame["cursor"] for frame in data["frames"]] == [(0, 2), (0, 8), (1, 0)]
    assert page.ask("frames", command_no=0, page=5)[0] == {"frames": []}
    found, _ = page.ask("seen", command_no=0, text="PASSWORD")
    hit = {"first_ms": 9_200, "last_ms": 9_300, "text": "$ password"}
    assert found == {"hits": [hit], "is_cut": False}
    command, _ = page.ask("command", command_no=1)
    assert (command["has_terminal"], command["returns_rows"]) == (False, True)
    page.say({"v": 1, "id": 5, "op": "terminal", "args": {"command_no": 1}})
    assert "no terminal" in page.received[-1][0]["error"]


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"v": 1, "id": 1, "op": "sql", "args": {"query": "SELECT 1"}}, "does not know"),
        ({"v": 1, "id": 1, "op": "command", "args": {"command_no": 99}}, "no command 99"),
        ({"v": 1, "id": 1}, "does not know"),
    ],
)
def test_a_question_that_cannot_be_answered_is_told_so(
    page: Page, message: dict[str, Any], error: str
) -> None:
    page.say(message)
    ((answer, _),) = page.received
    assert (answer["id"], answer["ok"]) == (1, False)
    assert error in answer["error"]


@pytest.mark.parametrize("message", [None, 5, "open", {}, {"v": 2, "id": 1, "op": "open"}])
def test_a_message_of_another_language_is_left_alone(page: Page, message: object) -> None:
    page.say(message)
    assert page.received == []


def test_answers_may_be_asked_for_from_many_threads(recorded: Recorded) -> None:
    case = aa.load(recorded.path)
    replay = Replay(case, recorded.sessions[0])
    page = Page(replay)

    def ask(number: int) -> None:
        page.say(
            {
                "v": 1,
                "id": number,
                "op": "result",
                "args": {"command_no": 5, "offset": number, "limit": 1},
            }
        )

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(40)))
    assert sorted(answer["id"] for answer, _ in page.received) == list(range(40))
    for answer, _ in page.received:
        assert answer["ok"], answer
        assert answer["data"]["rows"][0][0] == str(answer["id"] + 1)


def test_what_is_saved_with_the_notebook_holds_no_recorded_text(page: Page) -> None:
    page.ask("open")
    page.ask("command", command_no=4)
    state = {k: v for k, v in page.replay.get_state().items() if k not in ("_esm", "_css")}
    saved = repr(state)
    for text in ("copilot-7", "customers", "lovelace", "orders"):
        assert text not in saved


def test_python_sees_what_the_page_shows(page: Page) -> None:
    page.replay.command_no = 3
    assert page.replay.command["params"] == ["7"]
    assert page.replay.result().to_pylist()[0]["name"] == "Ada Lovelace"


# --- the still picture ----------------------------------------------------------------------------


class Elements(HTMLParser):
    """Collects the elements and the text of a page, as a browser would see them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_replay_brings_a_picture_for_who_has_no_kernel(page: Page) -> None:
    bundle = page.replay._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    seen = Elements(data["text/html"])
    for text in ("DELETE FROM orders", "rolled back", "division by zero", "Ada Lovelace", "$1 = 7"):
        assert text in seen.text, text
    assert "application/vnd.jupyter.widget-view+json" in data


def test_the_picture_of_hostile_records_has_no_element_of_theirs(recorded: Recorded) -> None:
    html = still(aa.load(recorded.path).session(recorded.sessions[1]))
    seen = Elements(html)
    assert not seen.tags & {"img", "script", "a", "iframe", "svg", "link", "object"}
    assert not {name for name in seen.attributes if name.startswith("on")} | (
        seen.attributes & {"src", "href"}
    )
    for text in ("<img src=x onerror='window.pwned = 1'>", "\\x1b[2J", "\\u202edrowssap\\u202c"):
        assert text in seen.text, text
    assert not {"\x1b", "\u202e", "\u2066", "\x9b"} & set(html)


def test_the_picture_of_a_long_session_is_bounded_and_says_so(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = aa.load(recorded.path).session(recorded.sessions[0])
    monkeypatch.setattr("agentaudit.widgets.still.MAX_COMMANDS", 4)
    monkeypatch.setattr("agentaudit.widgets.still.MAX_TRAFFIC_BYTES", 100)
    seen = Elements(still(session, 7))
    assert "4 of 12 commands are shown, from #5 on" in seen.text
    assert "results are left out, because the session is large" in seen.text
    assert "Customer 1" not in seen.text
