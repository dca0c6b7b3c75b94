"""The report as PDF/A: it says what the HTML says, the same way on every machine."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path

import pypdf
import pytest

import agentaudit
from agentaudit.analysis.report import Report
from agentaudit.analysis.report.page import SECTIONS
from agentaudit.analysis.report.paper import _SHOWN, MAX_COLUMNS, paged, render
from agentaudit.errors import QuestionError
from tests.analysis.recording import Recorded
from tests.support.hostile import CASES
from tests.support.sample import incident

SAMPLE = Path(__file__).parents[2] / "sample_data" / "archive"
KEY = SAMPLE.with_name("archive.vkey")
INCIDENT = incident()[0]

pytestmark = pytest.mark.timeout(300)


def text_of(pdf: bytes) -> str:
    """Return the text of all pages without white space and what lets a long word be broken."""
    pages = pypdf.PdfReader(io.BytesIO(pdf)).pages
    return re.sub(r"[\s\u200b]", "", "".join(page.extract_text() for page in pages))


def squeezed(text: str) -> str:
    return re.sub(r"[\s\u200b]", "", paged(text))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("paper")
    case = agentaudit.load(SAMPLE)
    return case.report(session=INCIDENT, key=KEY, out=folder / "r.html", pdf=folder / "r.pdf")


def test_it_is_pdf_a_of_the_archives_own_date(sample: Report) -> None:
    assert sample.pdf is not None
    assert sample.pdf_out is not None
    assert sample.pdf_out.read_bytes() == sample.pdf
    reader = pypdf.PdfReader(io.BytesIO(sample.pdf))
    said = reader.trailer["/Root"]["/Metadata"].get_data().decode()
    assert re.search(r"pdfaid:part\W+2\b", said)
    assert re.search(r"pdfaid:conformance\W+B\b", said)
    assert reader.metadata is not None
    assert reader.metadata.title == f"Evidence report: {sample.facts.subtitle}"
    made = reader.metadata.creation_date
    assert made is not None
    assert made.astimezone(UTC).date() == sample.facts.as_of.date()
    assert "/JavaScript" not in str(reader.trailer["/Root"])


def test_the_same_facts_are_the_same_bytes(sample: Report) -> None:
    assert render(sample.facts, sample.digests["html"]) == sample.pdf


def every_text(value: object) -> Iterator[str]:
    """Yield each text that is told of sessions and their commands."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        for each in value:
            yield from every_text(each)


def test_it_says_what_the_html_says(sample: Report) -> None:
    assert sample.pdf is not None
    told = text_of(sample.pdf)
    facts = sample.facts
    assert squeezed(facts.verdict_words) in told
    assert sample.digests["html"] in told
    for _, title in SECTIONS:
        if title != "Notes of the investigation":
            assert squeezed(title) in told
    (session,) = facts.sessions
    assert session.session_id in told
    for command in session.commands:
        assert squeezed(command.text) in told
        assert squeezed(command.error) in told
        assert command.sha256 in told
        for value in every_text(command.params):
            assert squeezed(value) in told
        rows = () if command.result is None else command.result.rows
        for value in every_text(tuple(row[:MAX_COLUMNS] for row in rows)):
            assert squeezed(value) in told
    for step in facts.checks:
        assert squeezed(step.title) in told
    for blob in facts.blobs:
        assert blob.sha256 in told


def test_made_up_time_failures_and_decisions_are_on_paper_too(recorded: Recorded) -> None:
    report = agentaudit.load(recorded.path).report(session=recorded.sessions[0], pdf=True)
    assert report.pdf is not None
    assert report.pdf_out is None
    told = text_of(report.pdf)
    assert "Scriptedclock." in told
    assert "Couldnottell" in told
    assert "rolledback" in told


def test_hostile_content_is_drawn_as_text(hostile_archive: Recorded) -> None:
    report = agentaudit.load(hostile_archive.path).report(
        since="2026-01-01", limit=20_000, pdf=True
    )
    assert report.pdf is not None
    told = text_of(report.pdf)
    for case in CASES:
        if case.text.isascii() and case.text.isprintable():
            assert squeezed(case.text[:200]) in told, case.name
    reader = pypdf.PdfReader(io.BytesIO(report.pdf))
    for page in reader.pages:
        for note in page.get("/Annots", ()):
            action = note.get_object().get("/A", {})
            assert "/URI" not in action
            assert "/JS" not in action


def test_its_fonts_have_every_character_that_is_not_written_out() -> None:
    import typst

    shown = "".join(chr(code) for first, last in _SHOWN for code in range(first, last + 1))
    assert paged(shown) == shown
    for font in ("DejaVu Sans Mono", "Libertinus Serif"):
        page = f'#set page(width: 20cm, height: auto)\n#text(font: "{font}", sys.inputs.shown)'
        typst.compile(
            page.encode(),
            format="pdf",
            pdf_standards=["a-2b"],
            ignore_system_fonts=True,
            sys_inputs={"shown": shown},
        )


def test_it_never_takes_the_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "r.pdf").write_text("of somebody")
    with pytest.raises(QuestionError, match=r"r\.pdf: is there already"):
        agentaudit.load(SAMPLE).report(
            session=INCIDENT, out=tmp_path / "r.html", pdf=tmp_path / "r.pdf"
        )
    assert not (tmp_path / "r.html").exists()
