"""What people say of sessions and commands: beside the archive, and hard to edit unseen."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import stat
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import agentaudit as aa
from agentaudit.analysis import annotations as module
from agentaudit.analysis.annotations import MAX_NOTE_BYTES, Annotations, beside, login_name
from agentaudit.errors import QuestionError
from tests.analysis.recording import Recorded


@pytest.fixture
def archive(tmp_path: Path, recorded: Recorded) -> Path:
    """A copy of the recorded archive: annotations go beside it."""
    return shutil.copytree(recorded.path, tmp_path / "archive")


@pytest.fixture
def noted(archive: Path) -> aa.Case:
    return aa.load(archive)


def lines(case_or_path: aa.Case | Path) -> list[bytes]:
    path = case_or_path if isinstance(case_or_path, Path) else beside(case_or_path.path)
    return path.read_bytes().splitlines(keepends=True)


def said(case: aa.Case, **asked: Any) -> list[tuple[Any, ...]]:
    shown = case.annotations(**asked).project("author, kind, command_no, text")
    return [tuple(row) for row in shown.fetchall()]


def every_file(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- saying and taking back -----------------------------------------------------------------------


def test_annotations_lie_beside_the_archive_and_never_in_it(
    noted: aa.Case, archive: Path, recorded: Recorded
) -> None:
    before = every_file(archive)
    session = recorded.sessions[0]
    ids = noted.annotate(session, 4, note="first odd\nstep", tag="exfil", star=True, author="rita")
    assert every_file(archive) == before
    path = archive.with_name("archive.notes.jsonl")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert said(noted) == [
        ("rita", "note", 4, "first odd\nstep"),
        ("rita", "tag", 4, "exfil"),
        ("rita", "star", 4, ""),
    ]
    assert [str(row[0]) for row in noted.annotations().fetchall()] == list(ids)
    assert noted.verify(recorded.key).ok


def test_another_case_sees_them_at_once_and_a_later_one_too(
    noted: aa.Case, archive: Path, recorded: Recorded
) -> None:
    other = aa.load(archive)
    assert said(other) == []
    noted.annotate(recorded.sessions[0][:23], tag="seen")
    assert said(other) == said(aa.load(archive)) == [(login_name(), "tag", None, "seen")]


def test_they_join_the_rest_in_sql(noted: aa.Case, recorded: Recorded) -> None:
    noted.annotate(recorded.sessions[0], 7, tag="all rows")
    joined = noted.sql(
        "SELECT operation, a.text "
        "FROM annotations AS a JOIN commands AS c USING (session_id, command_no)"
    )
    assert joined.fetchall() == [("DELETE", "all rows")]


def test_they_are_found_by_what_they_are_about_and_who_said_them(
    noted: aa.Case, recorded: Recorded
) -> None:
    first, second = recorded.sessions
    noted.annotate(first, note="whole", author="rita")
    noted.annotate(first, 2, tag="one", author="omar")
    noted.annotate(second, 0, star=True, author="omar")
    assert said(noted, session=first) == [
        ("rita", "note", None, "whole"),
        ("omar", "tag", 2, "one"),
    ]
    assert said(noted, session=first, command=2) == [("omar", "tag", 2, "one")]
    assert said(noted, kind="star") == [("omar", "star", 0, "")]
    assert said(noted, author="rita") == [("rita", "note", None, "whole")]


def test_what_is_taken_back_stays_with_who_when_and_why(noted: aa.Case, recorded: Recorded) -> None:
    (wrong,) = noted.annotate(recorded.sessions[0], tag="harmless", author="rita")
    before = lines(noted)
    noted.retract(wrong, why="it was not", author="omar")
    assert lines(noted)[:1] == before
    assert said(noted) == []
    assert said(noted, retracted=True) == [("rita", "tag", None, "harmless")]
    (row,) = noted.sql(
        "SELECT retracted_by, retracted_why, retracted_at >= written_at FROM annotations"
    ).fetchall()
    assert row == ("omar", "it was not", True)
    for again in (wrong, uuid4(), "x"):
        with pytest.raises(QuestionError, match="none that stands has this id"):
            noted.retract(again)


def test_a_star_is_put_out_by_who_lit_it_where_they_lit_it(
    noted: aa.Case, recorded: Recorded
) -> None:
    session = recorded.sessions[0]
    for author in ("rita", "omar"):
        for command in (None, 0, 1):
            noted.annotate(session, command, star=True, author=author)
    noted.annotate(session, 0, star=False, author="rita")
    noted.annotate(session, star=False, author="rita")
    assert said(noted, author="rita") == [("rita", "star", 1, "")]
    assert len(said(noted, author="omar")) == 3
    size = len(lines(noted))
    assert noted.annotate(session, star=False, author="nobody") == ()
    assert len(lines(noted)) == size


def test_a_file_elsewhere_serves_an_archive_that_cannot_be_written_beside(
    archive: Path, tmp_path: Path, recorded: Recorded
) -> None:
    elsewhere = tmp_path / "mine.jsonl"
    case = aa.load(archive, notes=elsewhere)
    case.annotate(recorded.sessions[0], note="here")
    assert elsewhere.exists()
    assert not beside(archive).exists()
    assert said(aa.load(archive)) == []
    nowhere = aa.load(archive, notes=tmp_path / "no" / "folder.jsonl")
    assert said(nowhere) == []
    with pytest.raises(QuestionError, match=r"folder.jsonl: cannot be written") as raised:
        nowhere.annotate(recorded.sessions[0], note="lost")
    assert "notes=PATH" in raised.value.hint


def test_nobody_keeps_them_inside_the_archive(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "way-in").symlink_to(archive)
    for path in (archive / "notes.jsonl", tmp_path / "way-in" / "x", archive / "log" / ".." / "x"):
        with pytest.raises(QuestionError, match="inside the archive"):
            aa.load(archive, notes=path)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({}, "nothing to say was given"),
        ({"note": ""}, "note: empty"),
        ({"note": 7}, "note: text expected, found int"),
        ({"note": "é" * MAX_NOTE_BYTES}, r"note: 32,768 bytes, at most 16,384"),
        ({"note": "\ud800"}, "note: text with characters that no encoding has"),
        ({"tag": "two\nlines"}, "tag: characters that cannot be printed"),
        ({"tag": "\u202egnp.exe"}, "tag: characters that cannot be printed"),
        ({"tag": "x" * 101}, "tag: 101 characters, at most 100"),
        ({"star": "yes"}, "star: True or False expected, found str"),
        ({"star": True, "author": " "}, "author: empty"),
        ({"star": True, "command": 99}, "no command 99"),
        ({"star": True, "command": "1"}, "command: a whole number expected"),
    ],
)
def test_what_cannot_be_said_is_named_and_nothing_is_written(
    noted: aa.Case, recorded: Recorded, asked: dict[str, Any], told: str
) -> None:
    with pytest.raises(QuestionError, match=told):
        noted.annotate(recorded.sessions[0], **asked)
    assert not beside(noted.path).exists()


def test_a_session_that_is_not_there_has_no_annotation(noted: aa.Case) -> None:
    with pytest.raises(QuestionError, match="not in this archive"):
        noted.annotate("00000000-0000", star=True)
    with pytest.raises(QuestionError, match="kind: note, tag or star expected"):
        noted.annotations(kind="retract")


def test_the_largest_note_of_any_characters_fits_into_a_line(
    noted: aa.Case, recorded: Recorded
) -> None:
    for text in ("\x01" * MAX_NOTE_BYTES, "日" * (MAX_NOTE_BYTES // 3), "\\" * MAX_NOTE_BYTES):
        noted.annotate(recorded.sessions[0], note=text)
        assert said(noted)[-1][3] == text
    assert noted.annotation_findings == ()


# --- the file -------------------------------------------------------------------------------------


@pytest.fixture
def five(tmp_path: Path) -> Path:
    """A file of five notes, `one` to `five`."""
    path = tmp_path / "five.jsonl"
    for word in ("one", "two", "three", "four", "five"):
        Annotations(path).append([record(word)])
    assert Annotations(path).read().findings == ()
    return path


def record(text: str, /, **members: Any) -> dict[str, Any]:
    return {
        "author": "rita",
        "kind": "note",
        "session": str(uuid4()),
        "command_no": None,
        "text": text,
    } | members


def read(path: Path) -> tuple[list[str], tuple[str, ...]]:
    found = Annotations(path).read()
    return [row["text"] for row in found.rows], found.findings


FOLLOWS = "does not follow the line before it: lines were changed, removed or added"


def test_each_line_has_the_hash_of_the_one_before_it(five: Path) -> None:
    previous = "0" * 64
    for line in lines(five):
        assert json.loads(line)["previous"] == previous
        previous = sha256(line[:-1]).hexdigest()


@pytest.mark.parametrize(
    ("change", "texts", "findings"),
    [
        (
            lambda at: [at[0], at[1].replace(b'"two"', b'"tow"'), *at[2:]],
            ["one", "tow", "three", "four", "five"],
            ["line 2: was changed after it was written", f"line 3: {FOLLOWS}"],
        ),
        (
            lambda at: [*at[:4], at[4].replace(b"rita", b"omar")],
            ["one", "two", "three", "four", "five"],
            ["line 5: was changed after it was written"],
        ),
        (
            lambda at: [at[0], *at[2:]],
            ["one", "three", "four", "five"],
            [f"line 2: {FOLLOWS}"],
        ),
        (lambda at: at[1:], ["two", "three", "four", "five"], [f"line 1: {FOLLOWS}"]),
        (
            lambda at: [at[1], at[0], *at[2:]],
            ["two", "one", "three", "four", "five"],
            [f"line {n}: {FOLLOWS}" for n in (1, 2, 3)],
        ),
        (
            lambda at: [*at, at[0]],
            ["one", "two", "three", "four", "five"],
            [f"line 6: {FOLLOWS}", "line 6: has the id of an earlier one, and is left out"],
        ),
        (
            lambda at: [*at[:2], b"\xff\x00 no json\n", *at[2:]],
            ["one", "two", "three", "four", "five"],
            ["line 3: no record of ours", f"line 4: {FOLLOWS}"],
        ),
        (
            lambda at: [*at[:4], at[4][:40]],
            ["one", "two", "three", "four"],
            ["line 5: no record of ours", "line 5: cut off, as by a crash or a full disk"],
        ),
        # What the chain cannot tell: an end that was cut off between two lines.
        (lambda at: at[:3], ["one", "two", "three"], []),
        (lambda at: [*at[:4], at[4][:-1]], ["one", "two", "three", "four", "five"], []),
    ],
)
def test_an_edit_is_named_by_its_line_and_the_rest_is_read(
    five: Path,
    change: Callable[[list[bytes]], list[bytes]],
    texts: list[str],
    findings: list[str],
) -> None:
    five.write_bytes(b"".join(change(lines(five))))
    assert read(five) == (texts, tuple(findings))


def test_who_writes_after_a_cut_line_ends_it_and_loses_nothing(five: Path) -> None:
    whole = five.read_bytes()
    five.write_bytes(whole[:-30])
    Annotations(five).append([record("six")])
    assert five.read_bytes().startswith(whole[:-30] + b"\n")
    assert read(five) == (["one", "two", "three", "four", "six"], ("line 5: no record of ours",))


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"{}",
        b"null",
        b'{"id":1}',
        b"[" * 100_000,
        b'{"a":' * 5_000,
        b'"' + b"x" * (1 << 18) + b'"',
    ],
)
def test_foreign_lines_are_named_and_passed_over(five: Path, line: bytes) -> None:
    with five.open("ab") as file:
        file.write(line + b"\n")
    Annotations(five).append([record("six")])
    assert read(five) == (
        ["one", "two", "three", "four", "five", "six"],
        ("line 6: no record of ours",),
    )


@pytest.mark.parametrize(
    "members",
    [
        {"kind": "praise"},
        {"session": "x"},
        {"session": None},
        {"command_no": -1},
        {"command_no": True},
        {"command_no": 2**31},
        {"text": 1},
        {"author": None},
        {"kind": "retract", "retracts": 7},
    ],
)
def test_a_record_with_a_member_of_another_form_is_none(
    five: Path, members: dict[str, Any]
) -> None:
    Annotations(five).append([record("odd", **members)])
    assert read(five) == (
        ["one", "two", "three", "four", "five"],
        ("line 6: no record of ours",),
    )


def test_what_takes_back_something_that_is_not_there_is_named(five: Path) -> None:
    Annotations(five).append([record("", kind="retract", retracts=str(uuid4()))])
    assert read(five)[1] == ("line 6: takes back what is not there",)


def test_neither_a_link_nor_a_pipe_nor_a_folder_is_followed(five: Path, tmp_path: Path) -> None:
    link, pipe, folder = tmp_path / "link", tmp_path / "pipe", tmp_path / "folder"
    link.symlink_to(five)
    os.mkfifo(pipe)
    folder.mkdir()
    before = five.read_bytes()
    for path in (link, pipe, folder):
        assert read(path)[0] == []
        assert read(path)[1] != ()
        with pytest.raises(QuestionError):
            Annotations(path).append([record("lost")])
    assert five.read_bytes() == before


def test_a_file_has_an_end(five: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = five.stat().st_size
    monkeypatch.setattr(module, "MAX_FILE_BYTES", size + 10)
    with pytest.raises(QuestionError, match="are full"):
        Annotations(five).append([record("six")])
    assert five.stat().st_size == size
    monkeypatch.setattr(module, "MAX_FILE_BYTES", size - 10)
    texts, findings = read(five)
    assert texts == ["one", "two", "three", "four"]
    assert findings[-1].endswith("the rest is not read")


def test_a_disk_that_takes_a_part_of_a_line_is_no_success(
    five: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = module.os.write
    monkeypatch.setattr(module.os, "write", lambda fd, data: write(fd, data[:25]))
    with pytest.raises(QuestionError, match="only a part of a line was written"):
        Annotations(five).append([record("six")])
    monkeypatch.undo()
    Annotations(five).append([record("seven")])
    assert read(five)[0] == ["one", "two", "three", "four", "five", "seven"]


def test_processes_that_write_at_once_take_turns(tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(path, name)) for name in ("a", "b", "c")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    texts, findings = read(path)
    assert findings == ()
    for name in ("a", "b", "c"):
        assert [text for text in texts if text[0] == name] == [f"{name}{n}" for n in range(20)]


def write_many(path: Path, name: str) -> None:
    for number in range(20):
        Annotations(path).append([record(f"{name}{number}")])


def test_an_edit_is_warned_of_once_and_kept_in_the_findings(
    noted: aa.Case, recorded: Recorded
) -> None:
    session = recorded.sessions[0]
    for text in ("one", "two"):
        noted.annotate(session, note=text)
    path = beside(noted.path)
    assert said(noted)[0][3] == "one"
    path.write_bytes(path.read_bytes().replace(b'"one"', b'"eno"'))
    with pytest.warns(UserWarning, match=r"archive.notes.jsonl: line") as caught:
        assert said(noted)[0][3] == "eno"
    assert [str(one.message).partition(":")[2][:8] for one in caught] == [" line 1:", " line 2:"]
    assert caught[0].filename == __file__
    assert noted.annotation_findings == (
        "line 1: was changed after it was written",
        f"line 2: {FOLLOWS}",
    )
    noted.annotate(session, note="three")
    assert len(said(noted)) == 3
