"""The kernel's side of the integrity panel: what it checks, what it tells a page, the picture."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

import agentaudit as aa
from agentaudit.analysis.case import Case
from agentaudit.archive.verification import Verification
from agentaudit.errors import ArchiveError, QuestionError
from agentaudit.widgets.integrity import Integrity, IntegrityQuestions
from tests.archive.recording import GATEWAY, Site, SteppingClock, new_site, record, sealed_files
from tests.support.sample import size_and_events
from tests.widgets.test_replay import Elements

SAMPLE = Path(__file__).resolve().parents[2] / "sample_data" / "archive"
KEY = SAMPLE.with_name("archive.vkey")
DEADLINE_S = 60.0


def asked(path: Path, **given: Any) -> IntegrityQuestions:
    return IntegrityQuestions(aa.load(path), **given)


def answered(questions: IntegrityQuestions) -> dict[str, Any]:
    """Open the page, wait for the check, and return what the page is then told."""
    json.dumps(questions.ask("open", {}))
    questions.wait(DEADLINE_S)
    data, _ = questions.ask("state", {"seen": 0})
    json.dumps(data)  # what goes to a browser must be JSON
    assert data["state"] == "done", data
    return dict(data["answer"])


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SAMPLE, tmp_path / "archive"))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = new_site(tmp_path / "site")
    record(site, sessions=2, commands=2, policy=b'{"rules":[]}')
    return site


def test_opening_the_page_begins_a_fast_check_whose_answer_is_polled() -> None:
    questions = asked(SAMPLE, key=KEY)
    answer = answered(questions)
    assert (answer["ok"], answer["word"], answer["deep"]) == (True, "verified", False)
    assert answer["findings"] == []
    size, events = size_and_events()
    assert answer["counts"]["events"] == events
    (exposure,) = answer["exposure"]
    # Opening the archive has remembered all of it here; what others know of it is nothing.
    assert (exposure["gateway"], exposure["anchor"]) == ("gw1", "none")
    assert (exposure["entries"], exposure["events"]) == (size, events)
    assert (exposure["remembered_size"], exposure["here_entries"]) == (size, 0)
    # Told once: whoever has seen it is not sent it again.
    data, _ = questions.ask("state", {"seen": 1})
    assert (data["answer"], data["answered"]) == (None, 1)


def test_without_a_key_from_outside_the_answer_is_never_yes_and_says_why() -> None:
    answer = answered(asked(SAMPLE))
    assert answer["ok"] is None
    assert answer["word"] == "could not tell"
    assert "no key from outside" in answer["why"][0]


def test_a_deep_check_is_asked_for_and_has_a_number_of_its_own() -> None:
    questions = asked(SAMPLE, key=KEY)
    answered(questions)
    data, _ = questions.ask("check", {"deep": True})
    assert data["run"] == 2
    questions.wait(DEADLINE_S)
    data, _ = questions.ask("state", {"seen": 1})
    assert data["answer"]["deep"] is True
    assert questions.verification is not None
    assert questions.verification.deep


def test_a_changed_file_is_found_placed_and_explained(copy: Path) -> None:
    path = sorted(copy.glob("commands/*/*/*.parquet"))[-1]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    questions = asked(copy, key=KEY)
    answer = answered(questions)
    assert answer["word"] == "not verified"
    (finding,) = answer["findings"]
    assert finding["check"] == "file"
    assert finding["segment"] == path.stem
    assert finding["gateway"] == "gw1"
    assert "not the one that was sealed" in finding["means"]
    assert finding["do"]
    opened, _ = questions.ask("open", {})
    assert path.stem in [each["segment"] for each in opened["gateways"][0]["segments"]]


def test_a_log_that_was_cut_off_is_a_rollback_against_a_checkpoint_from_outside(
    site: Site, tmp_path: Path
) -> None:
    earlier = site.copy_to(tmp_path / "earlier")
    record(site, commands=1)
    since = tmp_path / "checkpoint"
    since.write_bytes(site.layout.checkpoint(GATEWAY).read_bytes())
    answer = answered(asked(earlier.archive, key=site.vkey, since=since))
    assert answer["ok"] is False
    assert {each["check"] for each in answer["findings"]} == {"rollback"}
    answer = answered(asked(site.archive, key=site.vkey, since=since))
    assert answer["ok"] is True
    assert answer["anchors"][-1]["kind"] == "given checkpoint"
    assert answer["exposure"][0]["events"] == 0
    assert answer["exposure"][0]["says"].startswith("nothing: the given checkpoint covers all")


def test_a_scripted_clock_is_said(tmp_path: Path) -> None:
    made_up = new_site(tmp_path / "made-up")
    record(made_up, commands=1, clock=SteppingClock())
    questions = asked(made_up.archive, key=made_up.vkey)
    answer = answered(questions)
    assert answer["scripted"] == [GATEWAY]
    opened, _ = questions.ask("open", {})
    assert opened["gateways"][0]["clock"] == "scripted"
    # Of the sample it is said too.
    assert answered(asked(SAMPLE, key=KEY))["scripted"] == ["gw1"]


class Held(Case):
    """A case whose verification waits at its first step, until it is let go."""

    def hold(self) -> None:
        self.reached, self.released = threading.Event(), threading.Event()

    def verify(self, *args: Any, progress: Any = None, **options: Any) -> Verification:
        def step(stage: str, done: int, total: int) -> None:
            self.reached.set()
            assert self.released.wait(DEADLINE_S)
            progress(stage, done, total)

        return super().verify(*args, progress=step, **options)


@pytest.fixture
def held() -> Held:
    case = Held(SAMPLE)
    case.hold()
    return case


def test_progress_is_told_while_it_checks_and_questions_are_answered(held: Held) -> None:
    questions = IntegrityQuestions(held, key=KEY)
    opened, _ = questions.ask("open", {})
    assert held.reached.wait(DEADLINE_S)
    assert opened["state"]["state"] == "checking"
    data, _ = questions.ask("check", {"deep": True})
    assert (data["run"], data["deep"]) == (1, False)  # one at a time
    held.released.set()
    questions.wait(DEADLINE_S)
    data, _ = questions.ask("state", {})
    assert (data["state"], data["stage"]) == ("done", "log of gw1")
    assert data["total"] == size_and_events()[0]


def test_a_check_is_stopped_between_segments_and_nothing_is_claimed(held: Held) -> None:
    questions = IntegrityQuestions(held, key=KEY)
    questions.ask("open", {})
    assert held.reached.wait(DEADLINE_S)
    data, _ = questions.ask("stop", {})
    assert data["state"] == "stopping"
    held.released.set()
    questions.wait(DEADLINE_S)
    data, _ = questions.ask("state", {})
    assert (data["state"], data["answer"]) == ("stopped", None)
    assert questions.verification is None
    data, _ = questions.ask("check", {})
    questions.wait(DEADLINE_S)
    assert questions.verification is not None


def test_a_check_that_fails_says_so_and_keeps_the_answer_before(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(SAMPLE, tmp_path / "archive"))
    widget = Integrity(aa.load(copy), key=KEY)
    assert widget.check().ok is True
    shutil.rmtree(copy)
    with pytest.raises(QuestionError):
        widget.check(deep=True)
    assert widget.verification is not None
    assert widget.verification.ok is True


def test_what_cannot_be_used_is_refused_when_it_is_made(tmp_path: Path) -> None:
    case = aa.load(SAMPLE)
    with pytest.raises(QuestionError):
        Integrity(case, key=tmp_path / "none.vkey")
    with pytest.raises(ArchiveError):
        Integrity(case, key="a+b+c")
    with pytest.raises(QuestionError, match="policy"):
        Integrity(case, policy=tmp_path / "none")


def test_a_malformed_checkpoint_fails_the_check_with_words(tmp_path: Path) -> None:
    questions = asked(SAMPLE, key=KEY, since="nothing")
    questions.ask("open", {})
    questions.wait(DEADLINE_S)
    data, _ = questions.ask("state", {})
    assert data["state"] == "failed"
    assert data["error"]


def test_a_segment_tells_its_files_and_how_to_check_them() -> None:
    questions = asked(SAMPLE, key=KEY)
    opened, _ = questions.ask("open", {})
    segment = opened["gateways"][0]["segments"][-1]
    data, _ = questions.ask("segment", {"gateway": "gw1", "segment": segment["segment"]})
    assert {"events", "commands", "sessions"} <= {file["table"] for file in data["files"]}
    assert "sha256sum -c" in data["script"]
    for wrong in ({"gateway": "gw1", "segment": "x"}, {"gateway": "../x", "segment": "x"}):
        with pytest.raises(QuestionError):
            questions.ask("segment", wrong)


def test_a_page_may_ask_for_nothing_else() -> None:
    questions = asked(SAMPLE)
    for name in ("check_now", "leave", "wait", "histories", "_begin", "keys"):
        with pytest.raises(QuestionError):
            questions.ask(name, {})


def test_the_picture_says_the_verdict_and_no_path(copy: Path) -> None:
    picture = Integrity(aa.load(SAMPLE), key=KEY).still()
    assert "Integrity: verified" in picture
    assert "<script" not in picture
    assert str(SAMPLE.parent) not in picture
    path = sorted(copy.glob("blobs/*/*/*.parquet"))[-1]
    case = aa.load(copy)
    path.unlink()
    picture = Integrity(case, key=KEY).still()
    assert "Integrity: not verified" in picture
    assert path.stem in picture
    assert str(copy) not in picture
    elements = Elements(picture)
    assert elements.tags.isdisjoint({"script", "img", "iframe"})


def test_hostile_names_in_an_archive_are_written_out(copy: Path) -> None:
    stray = copy / "heads" / "<img src=x onerror=alert(1)>\x1b[2J\u202e"
    stray.write_text("x")
    widget = Integrity(aa.load(copy), key=KEY)
    picture = widget.still()
    assert "<img" not in picture
    assert "\x1b" not in picture
    assert "\u202e" not in picture
    assert "\\u202e" in picture


def test_closing_the_widget_stops_its_check(held: Held) -> None:
    widget = Integrity(held, key=KEY)
    widget._asked.ask("open", {})
    assert held.reached.wait(DEADLINE_S)
    widget.close()
    held.released.set()
    widget._asked.wait(DEADLINE_S)
    assert widget.verification is None


def test_sealed_files_are_what_the_page_names(site: Site) -> None:
    questions = asked(site.archive, key=site.vkey)
    opened, _ = questions.ask("open", {})
    segment = opened["gateways"][0]["segments"][-1]
    data, _ = questions.ask("segment", {"gateway": GATEWAY, "segment": segment["segment"]})
    events = next(file for file in data["files"] if file["table"] == "events")
    (path,) = sealed_files(site, "events")
    assert site.archive / events["path"] == path
