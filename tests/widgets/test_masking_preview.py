"""The kernel's side of the masking preview: answers to the page, and the picture."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import agentaudit as aa
from agentaudit.analysis.masking_rules import rules_of
from agentaudit.analysis.masking_sources import Batch, Source
from agentaudit.errors import QuestionError, SettingsError
from agentaudit.widgets import MaskingPreview
from agentaudit.widgets.masking_preview import still
from tests.analysis.recording import Recorded
from tests.widgets.test_replay import Elements

RULES = '[[mask]]\nname = "addresses"\ncolumns = ["email"]\ndetect = ["email"]\n'
PHONES = '[[mask]]\nname = "phones"\ndetect = ["phone"]\n'
TEXT = "write to ada@example.com\ncall +14155552671\n"


class Page:
    """The far end of the widget's channel: keeps what a browser would receive."""

    def __init__(self, widget: MaskingPreview) -> None:
        self.widget = widget
        self.received: list[dict[str, Any]] = []
        widget.send = lambda content, buffers=None: self.received.append(content)

    def say(self, content: object) -> dict[str, Any]:
        message = {"content": {"data": {"method": "custom", "content": content}}, "buffers": []}
        self.widget._handle_msg(message)
        json.dumps(self.received[-1])  # what goes to a browser must be JSON
        return self.received[-1]

    def ask(self, op: str, **args: Any) -> dict[str, Any]:
        answer = self.say({"v": 1, "id": 7, "op": op, "args": args})
        assert answer["id"] == 7
        assert answer["ok"], answer
        return dict(answer["data"])


@pytest.fixture
def page(recorded: Recorded) -> Page:
    return Page(MaskingPreview(aa.load(recorded.path), RULES))


def test_the_page_opens_with_counts_rules_and_what_to_know(page: Page) -> None:
    opened = page.ask("open")
    assert opened["text"] == opened["before_text"] == RULES
    assert opened["is_recorded"] is True
    assert {"name": "addresses", "count": opened["hidden"]} in opened["rules"]
    assert any(each["name"] == "customers.email" for each in opened["columns"])
    assert any("catalogue" in note for note in opened["notes"])


def test_hits_come_in_pages_with_the_hidden_part_set_apart(page: Page) -> None:
    data = page.ask("hits", offset=2, limit=3, column="customers.email")
    assert (data["offset"], len(data["rows"])) == (2, 3)
    assert data["total"] > 1_000
    row = data["rows"][0]
    assert row["before"][1].endswith("@example.com")
    assert "".join(row["after"]) == "[masked:addresses]"
    assert len(page.ask("hits", offset=0, limit=10**9)["rows"]) == 200
    assert page.ask("hits", offset=0, limit=5, rule="no such rule")["total"] == 0


def test_rules_that_the_page_sends_are_tried(page: Page) -> None:
    before = page.ask("open")["hidden"]
    summary = page.ask("run", text=PHONES)
    assert summary["hidden"] != before
    assert page.widget.rules == PHONES
    assert page.widget.preview.hidden == summary["hidden"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[[mask]\n", "not TOML"),
        (
            '[[mask]]\nname = "x"\ndetekt = ["email"]\n',
            "detekt: no such key, the nearest is detect",
        ),
        ('[[mask]]\nname = "x"\ndetect = ["emial"]\n', "the nearest is email"),
        ('[[mask]]\nname = "x"\npattern = "("\n', 'mask "x"'),
        (None, "a text of at most 1 MiB"),
    ],
)
def test_rules_that_are_wrong_are_told_and_what_is_shown_stays(
    page: Page, text: str | None, error: str
) -> None:
    before = page.ask("open")
    answer = page.say({"v": 1, "id": 1, "op": "run", "args": {"text": text}})
    assert answer["ok"] is False
    assert error in answer["error"]
    assert page.ask("open") == before


def test_rules_of_a_page_open_no_file(page: Page, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("0" * 64)
    mask = f'[[mask]]\nname = "x"\ncolumns = ["email"]\naction = "pseudonym"\nkey_file = "{key}"\n'
    summary = page.ask("run", text=mask)
    assert any("no key was read" in note for note in summary["notes"])
    command = mask.replace(f'key_file = "{key}"', f'key_command = ["touch", "{tmp_path}/ran"]')
    page.ask("run", text=command)
    assert not (tmp_path / "ran").exists()


def test_the_difference_is_to_the_rules_that_it_began_with() -> None:
    page = Page(MaskingPreview(TEXT, RULES))
    page.ask("run", text=PHONES)
    (gone,) = page.ask("difference", part="only_a", offset=0, limit=5)["rows"]
    assert gone["before"][1] == "ada@example.com"
    data = page.ask("difference", part="only_b", offset=0, limit=5)
    assert data["counts"] == {"only_a": 1, "only_b": 1, "otherwise": 0, "same": 0}
    page.ask("run", text=RULES.replace("[[mask]]", '[[mask]]\naction = "partial"'))
    (pair,) = page.ask("difference", part="otherwise", offset=0, limit=5)["rows"]
    assert ("".join(pair["a"]["after"]), "".join(pair["b"]["after"])) == (
        "write to [masked:email]",
        "write to ****-com",
    )


def test_a_second_set_may_be_given_to_begin_with() -> None:
    widget = MaskingPreview(TEXT, RULES, against=PHONES)
    assert (widget.difference.count_a, widget.difference.count_b) == (1, 1)


def test_what_is_doubted_and_what_is_not_covered_is_told() -> None:
    page = Page(MaskingPreview("see 4012888888881881\nmail ada@example.com", [CARDS]))
    (doubt, *_) = page.ask("candidates", offset=0, limit=5)["rows"]
    assert (doubt["detector"], doubt["examples"][0]["before"][1]) == ("card", "4012888888881881")
    (uncovered,) = page.ask("uncovered", offset=0, limit=5)["rows"]
    assert uncovered["detector"] == "email"
    assert "ada" not in json.dumps(uncovered)


def test_what_is_not_covered_brings_the_rule_that_would_cover_it() -> None:
    people = pa.table(
        {
            "contact": [f"p{n}@example.com" for n in range(20)],
            "body": [*["nothing"] * 18, "see a@example.com there", "see b@example.com there"],
            "ssn": ["1"] * 20,
        }
    )
    page = Page(MaskingPreview(people, "", table="people"))
    while rows := page.ask("uncovered", offset=0, limit=50)["rows"]:
        page.ask("run", text=page.widget.rules + rows[0]["rule"])
    masks = rules_of(page.widget.rules).documents
    assert [each.get("columns") or each.get("detect") for each in masks] == [
        ["*.people.contact"],
        ["email"],
        ["*.people.ssn"],
    ]


CARDS = {"name": "cards", "detect": ["card"]}


def test_a_source_is_read_once_where_it_can_be_held(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []

    def batches(notes: list[str]) -> Iterator[Batch]:
        reads.append(1)
        notes.append("one row was left out")
        yield Batch(kind="column", column="email", values=["ada@example.com"], first_row=1)

    page = Page(MaskingPreview(Source("a source", batches), RULES))
    assert "one row was left out" in page.ask("run", text=RULES)["notes"]
    assert len(reads) == 1
    monkeypatch.setattr("agentaudit.widgets.masking_preview.MAX_HELD_CHARACTERS", 3)
    page = Page(MaskingPreview(Source("a source", batches), RULES))
    assert page.ask("run", text=RULES)["hidden"] == 1
    assert len(reads) == 3


@pytest.mark.parametrize("message", [None, 5, "open", {}, {"v": 2, "id": 1, "op": "open"}])
def test_a_message_of_another_language_is_left_alone(page: Page, message: object) -> None:
    page.widget._handle_msg({"content": {"data": {"method": "custom", "content": message}}})
    assert page.received == []


def test_a_question_that_nobody_knows_is_told_so(page: Page) -> None:
    answer = page.say({"v": 1, "id": 1, "op": "sql", "args": {"query": "SELECT 1"}})
    assert (answer["ok"], "does not know" in answer["error"]) == (False, True)


def test_a_kernel_that_fails_says_so_without_content(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret of a stack trace")

    monkeypatch.setattr("agentaudit.widgets.masking_preview.preview", fail)
    page.say({"v": 1, "id": 1, "op": "run", "args": {"text": RULES}})
    assert page.received[-1] == {
        "v": 1,
        "id": 1,
        "ok": False,
        "error": "the kernel failed: RuntimeError",
    }


def test_answers_may_be_asked_for_from_many_threads() -> None:
    page = Page(MaskingPreview(TEXT, RULES))

    def ask(number: int) -> None:
        rules = PHONES if number % 2 else RULES
        page.say({"v": 1, "id": number, "op": "run", "args": {"text": rules}})
        args = {"part": "only_a", "offset": 0, "limit": 1}
        page.say({"v": 1, "id": 100 + number, "op": "difference", "args": args})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(20)))
    assert len(page.received) == 40
    assert all(answer["ok"] for answer in page.received)


def test_what_is_saved_with_the_notebook_holds_no_value(page: Page) -> None:
    page.ask("open")
    page.ask("hits", offset=0, limit=50)
    state = {k: v for k, v in page.widget.get_state().items() if k not in ("_esm", "_css")}
    assert "example" not in repr(state)
    assert "customers" not in repr(state)


def test_the_picture_for_who_has_no_kernel_has_no_value_that_a_rule_hides(page: Page) -> None:
    bundle = page.widget._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    seen = Elements(data["text/html"])
    assert "customers.email" in seen.text
    assert "[masked:addresses]" in seen.text
    for hit in page.widget.preview.hits[:500]:
        assert hit.before[hit.start : hit.stop] not in seen.text
    assert "application/vnd.jupyter.widget-view+json" in data


def test_the_picture_of_hostile_texts_has_no_element_of_theirs() -> None:
    text = "<img src=x onerror=alert(1)> ada@example.com \x1b[2J \u202e"
    html = still(MaskingPreview(text, RULES).preview)
    seen = Elements(html)
    assert not seen.tags & {"img", "script", "a", "iframe", "svg", "link", "object"}
    assert "<img src=x onerror=alert(1)>" in seen.text
    assert not {"\x1b", "\u202e"} & set(html)


def test_rules_given_otherwise_than_as_text_can_be_edited_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "agentaudit.toml"
    path.write_text('[gateway]\nname = "gw1"\norigin = "a.example"\n' + RULES)
    for rules in (path, str(path), [{"name": "addresses", "detect": ["email"]}]):
        page = Page(MaskingPreview(TEXT, rules))
        opened = page.ask("open")
        assert "[gateway]" not in opened["text"]
        assert page.ask("run", text=opened["text"])["hidden"] == opened["hidden"] == 1


def test_a_preview_of_what_is_not_there_is_refused(recorded: Recorded) -> None:
    case = aa.load(recorded.path)
    with pytest.raises(QuestionError, match="not in this archive"):
        MaskingPreview(case, RULES, session="00000000-0000")
    with pytest.raises(SettingsError, match="the nearest is"):
        MaskingPreview(case, '[[mask]]\nname = "x"\ndetect = ["nothing"]')
