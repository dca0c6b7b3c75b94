"""The drill catches what it lists as catchable, and fails where a check is silent."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from agentaudit import cli
from agentaudit.archive import drill as package
from agentaudit.archive import verify_log
from agentaudit.archive.drill import ATTACKS, Answer, Outcome, Report, drill
from agentaudit.archive.drill import run as run_module
from agentaudit.archive.drill import stage as stage_module
from agentaudit.archive.drill.run import play
from agentaudit.archive.drill.stage import Stage, build
from agentaudit.archive.verification import Verification
from agentaudit.archive.verify import verify
from agentaudit.errors import ArchiveError, RecordingError
from tests.archive.recording import (
    ANA,
    GATEWAY,
    Site,
    counted,
    crashed,
    exchange,
    new_site,
    record,
    recover,
    resign,
    sealed_files,
    start,
    ticked,
)
from tools import limits

NAMED = {attack.name: attack for attack in ATTACKS}

# What several of them ask about is made once: they run in one process.
pytestmark = pytest.mark.xdist_group("drill")


def state(folder: Path) -> dict[str, tuple[str, int, int]]:
    """What there is in `folder`: content, time of change, and how many names it has."""
    return {
        path.relative_to(folder).as_posix(): (
            sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
            path.stat().st_mtime_ns,
            path.stat().st_nlink,
        )
        for path in [folder, *folder.rglob("*")]
    }


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A small archive: two epochs, three segments, blobs, a session that crosses segments."""
    site = new_site(tmp_path_factory.mktemp("drilled") / "site")
    record(site, sessions=2, commands=1, policy=b'{"rules":[]}')

    async def run() -> None:
        recorder = await start(site, segment_events=8)
        session = recorder.open_session(ANA)
        for number in range(4):
            exchange(session, number, f"select {number}", b"\xb7" * 9000)
            await counted(recorder)
        session.close("client")
        await recorder.stop()

    asyncio.run(run())
    return site


@pytest.fixture(scope="module")
def stage(sealed: Site, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """One stage for all tests that play an attack or two."""
    return build(sealed.archive, tmp_path_factory.mktemp("stage"))


@pytest.fixture(scope="module")
def report(sealed: Site) -> Report:
    return drill(sealed.archive)


def assert_as_listed(report: Report) -> None:
    """Assert that all is answered as listed."""
    for outcome in report.outcomes:
        assert not outcome.failed, (outcome.attack.name, outcome.failed)
        assert outcome.without is not None
        assert outcome.anchored is not None
        said = (outcome.without.answer, outcome.anchored.answer)
        listed = (outcome.attack.without, outcome.attack.anchored)
        assert said == listed, (outcome.attack.name, outcome.without, outcome.anchored)
    assert [outcome.attack for outcome in report.outcomes] == ATTACKS
    assert report.ok is True


# --- it catches what it says ----------------------------------------------------------------------


def test_each_attack_on_an_archive_of_several_segments_and_epochs_is_answered_as_listed(
    report: Report,
) -> None:
    assert_as_listed(report)
    assert (report.taken.segments, report.taken.segments_there) == (3, 3)


def test_what_is_caught_names_the_check_and_the_place(report: Report) -> None:
    for outcome in report.outcomes:
        for reply in (outcome.without, outcome.anchored):
            assert reply is not None
            if reply.answer is Answer.CAUGHT:
                assert reply.checks, outcome.attack.name
                assert all(f"[{check}]" in str(reply.words) for check in reply.checks)


def test_what_cannot_be_caught_has_a_reason_and_what_can_has_none() -> None:
    for attack in ATTACKS:
        answers = {attack.without, attack.anchored}
        assert bool(attack.why) == (answers != {Answer.CAUGHT}), attack.name


def test_names_of_attacks_are_used_once() -> None:
    assert len(NAMED) == len(ATTACKS)


def test_the_page_of_limits_has_the_list_as_it_is_played() -> None:
    text = limits.PAGE.read_text()
    assert limits.page(text) == text, "python -m tools.limits"
    assert "`roll-back`" in text


# --- it can fail ----------------------------------------------------------------------------------


def silenced(check: str) -> Any:
    """The real `verify`, but one of its checks says nothing."""

    def without_it(*args: Any, **kwargs: Any) -> Verification:
        result = verify(*args, **kwargs)
        result.findings = [finding for finding in result.findings if finding.check != check]
        if not result.findings:
            result.ok = None if result.unknown_signers or result.unread else True
        return result

    return without_it


def caught_by(report: Report) -> dict[str, list[str]]:
    """By check, the attacks that it alone caught, in one of an auditor's two answers."""
    found: dict[str, list[str]] = {}
    for outcome in report.outcomes:
        for reply in (outcome.without, outcome.anchored):
            if reply is not None and len(reply.checks) == 1:
                found.setdefault(reply.checks[0], []).append(outcome.attack.name)
    return found


DECISIVE = {
    *("file", "tile", "head", "key", "epoch", "stray", "journal", "tick", "rows", "columns"),
    *("tables", "policy", "rollback", "fork", "purge", "hold", "decision", "witness"),
}


def test_the_drill_fails_where_a_check_is_silent(
    report: Report, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of most checks there is an attack that nothing else would catch."""
    unmissed = set()
    for check, names in caught_by(report).items():
        with monkeypatch.context() as patch:
            patch.setattr(run_module, "verify", silenced(check))
            outcomes = (play(stage, NAMED[name]) for name in dict.fromkeys(names))
            missed = next((outcome for outcome in outcomes if outcome.holds is False), None)
        if missed is None:
            unmissed.add(check)
        else:
            assert Report(stage.taken, (missed,)).ok is False
            assert play(stage, missed.attack).holds is True
    assert set(caught_by(report)) - unmissed >= DECISIVE


def test_the_drill_fails_where_verification_does_not_look_at_files(
    sealed: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    some = [NAMED[name] for name in ("flip-page", "flip-tile", "roll-back")]
    assert drill(sealed.archive, attacks=some).ok is True
    monkeypatch.setattr(verify_log.LogCheck, "_check_files", lambda *_, **__: False)
    monkeypatch.setattr(package, "drill", lambda *args, **_: drill(*args, attacks=some))
    # The files are then strays, of which nothing would be said either.
    monkeypatch.setattr("agentaudit.archive.verify._Check._find_strays", lambda self: None)
    assert cli.main(["drill", str(sealed.archive)]) == 1
    printed = capsys.readouterr().out
    assert "FAIL   flip-page: " in printed
    assert "ok     flip-tile: " in printed
    assert "no: 2 of 3 attacks that can be caught were caught" in printed


def test_an_attack_that_cannot_be_played_leaves_the_answer_open(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise RecordingError("no room")

    monkeypatch.setattr(shutil, "copyfile", refuse)
    monkeypatch.setattr("agentaudit.archive.drill.attacker.Attacker.flip", refuse)
    outcome = play(stage, NAMED["flip-tile"])
    assert (outcome.holds, outcome.failed) == (None, "no room")
    assert Report(stage.taken, (outcome,)).ok is None
    assert Report(stage.taken, (outcome, failed_outcome(outcome))).ok is False


def failed_outcome(outcome: Outcome) -> Outcome:
    """An outcome whose attack nobody noticed."""
    missed = run_module.Reply(
        answer=Answer.MISSED, expected=Answer.CAUGHT, deep=True, checks=(), words=()
    )
    return Outcome(attack=outcome.attack, without=missed, anchored=missed)


# --- what it takes --------------------------------------------------------------------------------


@pytest.mark.parametrize("is_readable", [True, False])
def test_a_live_archive_is_drilled_with_its_journal_where_that_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_readable: bool
) -> None:
    site = new_site(tmp_path / "site")
    record(site, commands=1)
    crashed(site)
    ticked(site)
    before = state(site.archive)
    if not is_readable:
        real = shutil.copyfile

        def copied(source: Path, *args: Any, **kwargs: Any) -> Any:
            if source.suffix == ".journal" and source.is_relative_to(site.archive):
                raise PermissionError(13, "Permission denied", str(source))
            return real(source, *args, **kwargs)

        monkeypatch.setattr(shutil, "copyfile", copied)
    stage = build(site.archive, tmp_path / "stage")
    monkeypatch.undo()
    assert stage.taken.segments == 1
    recoveries = [e for e in stage.today.entries(GATEWAY) if e["type"] == "recovery"]
    assert [entry["sessions_closed"] for entry in recoveries] == [3] * is_readable
    for name in ("flip-page", "fork"):
        assert play(stage, NAMED[name]).holds is True
    assert state(site.archive) == before
    recover(site)
    assert verify(site.archive, key=site.vkey, deep=True, remember=False).ok is True


def test_an_archive_that_was_purged_is_drilled(stage: Stage, tmp_path: Path) -> None:
    """What the drill itself has purged, as the archive that is given."""
    again = build(stage.purged.archive, tmp_path)
    assert again.gateway == stage.gateway
    kinds = [entry["type"] for entry in again.yesterday.entries(stage.other)]
    assert kinds.count("purge_done") == 2
    for name in ("flip-page", "swap-gateways", "edit-after-purge"):
        assert play(again, NAMED[name]).holds is True


def test_of_a_large_archive_the_first_segments_are_taken(
    sealed: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole runs: no session is open where the copy ends."""
    monkeypatch.setattr(stage_module, "MAX_EVENTS", 25)
    stage = build(sealed.archive, tmp_path)
    assert stage.taken.segments == 1
    assert stage.taken.segments_there == 3
    assert play(stage, NAMED["drop-row"]).holds is True


def test_a_read_only_archive_is_drilled(sealed: Site, tmp_path: Path) -> None:
    site = sealed.copy_to(tmp_path / "copy")
    for path in sorted(site.archive.rglob("*"), reverse=True):
        path.chmod(0o550 if path.is_dir() else 0o440)
    site.archive.chmod(0o550)
    try:
        assert drill(site.archive, attacks=[NAMED["edit-user"]]).ok is True
    finally:
        for path in [site.archive, *site.archive.rglob("*")]:
            path.chmod(0o750 if path.is_dir() else 0o640)


def test_what_is_not_sound_is_not_drilled(sealed: Site, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="FORMAT"):
        drill(tmp_path)
    flipped = sealed.copy_to(tmp_path / "flipped")
    path = sealed_files(flipped, "events")[0]
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArchiveError, match=r"not sound, .*SHA-256") as raised:
        drill(flipped.archive)
    assert "agentaudit verify" in raised.value.hint
    newer = sealed.copy_to(tmp_path / "newer")
    resign(newer, lambda entries: [*entries, {"type": "something_new", "at": 1}])
    with pytest.raises(ArchiveError, match="newer release"):
        drill(newer.archive)


def test_nothing_is_left_behind_and_no_log_of_the_drill_is_remembered(
    sealed: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr("tempfile.tempdir", None)
    drill(sealed.archive, attacks=[NAMED["roll-back"]])
    assert list(scratch.iterdir()) == []
    assert list(Path(os.environ["XDG_STATE_HOME"]).rglob("*")) == []


def test_the_copy_is_signed_by_no_key_of_the_archive(sealed: Site, stage: Stage) -> None:
    ours = set(sealed.vkey.split())
    assert ours.isdisjoint(stage.verifier_keys())
    entries = stage.today.entries(GATEWAY)
    assert ours.isdisjoint({entry.get("key") for entry in entries})
    assert [e["type"] for e in entries].count("key_epoch") == 1 + 2
    old = [entry for entry in sealed.log_entries() if entry["type"] == "seal"]
    new = [entry for entry in entries if entry["type"] == "seal"]
    assert [seal["root"] for seal in new[: len(old)]] == [seal["root"] for seal in old]


# --- what it prints -------------------------------------------------------------------------------


def test_json_is_an_object_for_each_attack_and_one_for_all(
    sealed: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    some = [NAMED[name] for name in ("drop-file", "roll-back")]
    monkeypatch.setattr(package, "drill", lambda *args, **_: drill(*args, attacks=some))
    assert cli.main(["drill", str(sealed.archive), "--json"]) == 0
    first, second, whole = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["attack"], first["holds"]) == ("drop-file", True)
    assert first["without"]["checks"] == ["file"]
    assert (second["without"]["answer"], second["anchored"]["answer"]) == ("missed", "caught")
    assert second["why"]
    assert (whole["ok"], whole["attacks"], whole["segments"]) == (True, 2, 3)


def test_it_tells_progress(sealed: Site) -> None:
    said: list[tuple[str, int, int]] = []
    drill(
        sealed.archive,
        attacks=[NAMED["flip-tile"]],
        progress=lambda *step: said.append(step),
    )
    assert said == [("flip-tile", 0, 1), ("drill", 1, 1)]
