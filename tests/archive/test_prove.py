"""Proofs that leave the archive: what is proven, what is found, what is handed out."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from agentaudit.archive.drill.machine import rewrite_parquet, sealed_as_it_is
from agentaudit.archive.journal import JournalReader
from agentaudit.archive.merkle import leaf_hash
from agentaudit.archive.note import Checkpoint, Signer, open_note, sign_note
from agentaudit.archive.proof import Proof
from agentaudit.archive.prove import Export, Proven, prove
from agentaudit.archive.sealed import SegmentLeaves, sealed_segments
from agentaudit.archive.verification import Verification
from agentaudit.archive.verify import verify
from agentaudit.errors import ArchiveError, QuestionError, TamperedError
from tests.archive import straight, test_purge
from tests.archive.recording import (
    ANA,
    BOB,
    GATEWAY,
    Site,
    counted,
    crashed,
    exchange,
    new_site,
    record,
    resign,
    rows,
    sealed_files,
    start,
    until,
)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Two runs: Ana's session lies in two segments, with text and payload in blobs."""
    site = new_site(tmp_path_factory.mktemp("prove") / "site")

    async def run() -> None:
        recorder = await start(site, segment_events=10)
        ana, bob = recorder.open_session(ANA), recorder.open_session(BOB)
        exchange(bob, 0, "select 'bob" + "ü" * 40_000 + "'", b"\xb6" * 9000)
        exchange(ana, 0, "select '" + "é" * 40_000 + "'", b"\xb7" * 9000)
        bob.close("client")
        await counted(recorder)
        exchange(ana, 1, "select 1", b"\xb8" * 9000)
        ana.close("client")
        await recorder.stop()

    asyncio.run(run())
    record(site, commands=1)  # another epoch, another segment
    return site


@pytest.fixture
def site(sealed: Site, tmp_path: Path) -> Site:
    return sealed.copy_to(tmp_path / "copy")


def session_of(site: Site, user: str) -> UUID:
    return next(row["session_id"] for row in rows(site, "sessions") if row["user"] == user)


def hand_out(site: Site, out: Path, user: str = "ana", **options: Any) -> Proven:
    return prove(site.archive, session_of(site, user), out=out, **options)


def check(folder: Path, site: Site, **options: Any) -> Verification:
    return verify(folder, **{"key": site.vkey, "remember": False} | options)


def found(verification: Verification) -> set[str]:
    return {finding.check for finding in verification.findings}


@pytest.fixture(scope="module")
def made(sealed: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Proofs of Ana's whole session."""
    folder = tmp_path_factory.mktemp("made") / "ana"
    hand_out(sealed, folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "folder"))


def test_a_session_across_segments_is_proven_whole_without_the_archive(
    sealed: Site, tmp_path: Path
) -> None:
    proven = hand_out(sealed, tmp_path / "ana")
    assert (proven.is_whole, proven.events, proven.live_events) == (True, 8, 0)
    result = check(tmp_path / "ana", sealed)
    assert result.ok is True, result.findings
    assert (result.events, result.segments, result.sessions) == (8, 2, 1)
    assert result.subject == f"session {proven.session_id}"


def test_each_proof_is_that_of_rfc_6962_over_the_segments_leaves(sealed: Site, made: Path) -> None:
    for one in sealed_segments(GATEWAY, sealed.log_entries()):
        leaves = SegmentLeaves(sealed.archive, one)
        of_session = list(leaves.read(session_of(sealed, "ana").bytes))
        hashes = [bytes(leaves.hashes[at : at + 32]) for at in range(0, len(leaves.hashes), 32)]
        for event in of_session:
            proof = Proof.parse((made / f"{event.entry.seq}.tlog-proof").read_bytes())
            assert list(proof.hashes) == straight.path(event.leaf_index, hashes)
            preimage = (made / f"{event.entry.seq}.leaf").read_bytes()
            assert leaf_hash(preimage) == event.leaf == hashes[event.leaf_index]


def test_content_is_disclosed_as_it_was_recorded(made: Path) -> None:
    assert (made / "1.text").read_text() == "select '" + "é" * 40_000 + "'"
    assert (made / "2.payload").read_bytes() == b"\xb7" * 9000
    assert json.loads((made / "0.payload").read_bytes())["user"] == "ana"
    salts = [json.loads(line) for line in (made / "disclosure.jsonl").read_bytes().splitlines()]
    commit = sha256(b"AA1t" + bytes.fromhex(salts[1]["salt_t"]) + (made / "1.text").read_bytes())
    assert commit.digest() == (made / "1.leaf").read_bytes()[-96:-64]


def test_without_disclosure_no_content_leaves_and_the_session_is_still_whole(
    sealed: Site, tmp_path: Path
) -> None:
    hand_out(sealed, tmp_path / "none", disclose="none")
    told = b"".join(path.read_bytes() for path in (tmp_path / "none").iterdir())
    assert b"select" not in told
    assert b"ana@example.com" not in told
    assert b"\xb7" * 64 not in told
    assert check(tmp_path / "none", sealed).ok is True

    hand_out(sealed, tmp_path / "text", disclose="text")
    told = b"".join(path.read_bytes() for path in (tmp_path / "text").iterdir())
    assert b"select" in told
    assert b"\xb7" * 64 not in told
    assert check(tmp_path / "text", sealed).ok is True


def test_one_event_is_proven_alone_and_claims_no_more(sealed: Site, tmp_path: Path) -> None:
    proven = hand_out(sealed, tmp_path / "one", seq=2)
    assert (proven.events, proven.is_whole) == (1, False)
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert {name for name in names if name[0].isdigit()} == {
        "2.leaf",
        "2.payload",
        "2.tlog-proof",
    }
    result = check(tmp_path / "one", sealed)
    assert result.ok is True
    assert result.sessions == 0
    assert result.subject == f"event 2 of session {proven.session_id}"
    assert "not proven" in result.notes[0]


def test_a_folder_of_proofs_is_for_its_owner_alone(made: Path) -> None:
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in made.iterdir()} == {0o600}


def test_without_a_key_from_outside_the_answer_is_that_the_signer_is_unknown(
    sealed: Site, made: Path
) -> None:
    assert check(made, sealed, key=None).ok is None
    other = f"{Signer.generate('elsewhere.example.com/gw1').verifier}"
    assert check(made, sealed, key=other).ok is None


def test_another_key_for_the_same_log_is_found(sealed: Site, made: Path) -> None:
    log_key, epoch_key = sealed.vkey.split()
    forged = str(Signer.generate(log_key.split("+")[0]).verifier)
    assert "signature" in found(check(made, sealed, key=forged))
    forged = str(Signer.generate(epoch_key.split("+")[0]).verifier)
    assert "epoch" in found(check(made, sealed, key=[log_key, forged]))


def test_a_flipped_bit_anywhere_in_any_file_is_found(folder: Path, sealed: Site) -> None:
    missed = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        step = max(1, len(data) // 40)
        for at in {*range(0, len(data), step), len(data) - 1}:
            path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            try:
                if check(folder, sealed).ok is not False:
                    missed.append((path.name, at))
            except ArchiveError:
                assert path.name == "PROOF"
        path.write_bytes(data)
    assert missed == []
    assert check(folder, sealed).ok is True


def test_a_missing_file_is_found_whichever_it_is(folder: Path, sealed: Site) -> None:
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        path.unlink()
        if path.name == "PROOF":
            with pytest.raises(ArchiveError):
                check(folder, sealed)
        else:
            assert check(folder, sealed).ok is False, path.name
        path.write_bytes(data)


def claim(folder: Path, **changes: Any) -> None:
    path = folder / "proof.json"
    path.write_bytes(straight.canonical_json(json.loads(path.read_bytes()) | changes))


def cut(folder: Path, seq: int) -> None:
    """Take one event out of a folder, traces in its disclosure included."""
    for path in folder.glob(f"{seq}.*"):
        path.unlink()
    disclosure = folder / "disclosure.jsonl"
    lines = disclosure.read_bytes().splitlines(keepends=True)
    disclosure.write_bytes(b"".join(line for line in lines if json.loads(line)["seq"] != seq))


def test_a_session_cut_at_its_end_is_not_whole(folder: Path, sealed: Site) -> None:
    cut(folder, 7)
    claim(folder, events=7)
    assert found(check(folder, sealed)) == {"session"}
    claim(folder, events=7, whole=False)
    result = check(folder, sealed)
    assert result.ok is True
    assert result.subject.startswith("events 0 to 6 of session")


def test_a_session_cut_at_its_beginning_is_not_whole(folder: Path, sealed: Site) -> None:
    cut(folder, 0)
    claim(folder, first_seq=1, events=7)
    assert found(check(folder, sealed)) == {"session"}


def test_an_event_of_another_session_is_found_in_its_place(
    folder: Path, sealed: Site, tmp_path: Path
) -> None:
    hand_out(sealed, tmp_path / "bob", "bob", disclose="none")
    for name in ("1.leaf", "1.tlog-proof"):
        shutil.copyfile(tmp_path / "bob" / name, folder / name)
    assert "session" in found(check(folder, sealed))


def test_two_events_that_change_places_are_found(folder: Path, sealed: Site) -> None:
    for kind in ("leaf", "tlog-proof"):
        one, other = folder / f"1.{kind}", folder / f"2.{kind}"
        first, second = one.read_bytes(), other.read_bytes()
        one.write_bytes(second)
        other.write_bytes(first)
    assert "session" in found(check(folder, sealed))


def test_who_holds_todays_keys_cannot_forge_a_proof_of_yesterday(
    folder: Path, sealed: Site
) -> None:
    """The log key is for life; the epoch key under which Ana's session was sealed is destroyed."""
    preimage = bytearray((folder / "0.leaf").read_bytes())
    preimage[12] ^= 1  # another time
    entry = json.loads(next(folder.glob("seal-*.leaf")).read_bytes())
    origin = f"{sealed.place.log_origin}/seg/{entry['segment']}"
    root = leaf_hash(bytes(preimage))
    head = sign_note(Checkpoint(origin, 1, root).text(), sealed.signers)
    entry |= {"n": 1, "root": root.hex(), "head": head.decode(), "first_event": 0}
    raw = straight.canonical_json(entry)
    log = sign_note(Checkpoint(sealed.place.log_origin, 1, leaf_hash(raw)).text(), sealed.signers)
    for path in folder.glob("[0-9]*"):
        path.unlink()
    for path in folder.glob("seal-*"):
        path.unlink()
    preimage[4:12] = bytes(8)
    (folder / "0.leaf").write_bytes(preimage)
    (folder / "0.tlog-proof").write_bytes(Proof(0, (), head).encode())
    (folder / f"seal-{entry['segment']}.leaf").write_bytes(raw)
    (folder / f"seal-{entry['segment']}.tlog-proof").write_bytes(Proof(0, (), log).encode())
    (folder / "disclosure.jsonl").write_bytes(b"")
    claim(folder, events=1, whole=False)
    assert "epoch" in found(check(folder, sealed))


@pytest.mark.parametrize(
    "plant",
    [
        lambda folder: (folder / "9.leaf").write_bytes(b"x"),
        lambda folder: (folder / "report.html").write_bytes(b"all is well"),
        lambda folder: (folder / "1.payload.sig").write_bytes(b"x"),
        lambda folder: (folder / "more").mkdir(),
    ],
)
def test_a_file_that_nothing_accounts_for_is_found(
    plant: Callable[[Path], Any], folder: Path, sealed: Site
) -> None:
    plant(folder)
    assert found(check(folder, sealed)) == {"stray"}


def test_content_without_a_salt_and_a_salt_without_content_are_found(
    folder: Path, sealed: Site
) -> None:
    (folder / "0.text").write_bytes(b"what nobody said")
    assert found(check(folder, sealed)) == {"disclosure"}
    (folder / "0.text").unlink()
    (folder / "1.text").unlink()
    assert found(check(folder, sealed)) == {"disclosure"}


def test_an_absent_text_cannot_be_given_content(folder: Path, sealed: Site) -> None:
    disclosure = folder / "disclosure.jsonl"
    lines = [json.loads(line) for line in disclosure.read_bytes().splitlines()]
    lines[0]["salt_t"] = "00" * 16
    disclosure.write_bytes(b"".join(straight.canonical_json(line) + b"\n" for line in lines))
    (folder / "0.text").write_bytes(b"")
    assert found(check(folder, sealed)) == {"disclosure"}


@pytest.mark.parametrize("name", ["3.leaf", "3.tlog-proof", "2.payload", "epochs.jsonl"])
def test_links_and_pipes_are_not_read(name: str, folder: Path, sealed: Site) -> None:
    path = folder / name
    kept = folder.parent / "kept"
    path.rename(kept)
    path.symlink_to(kept)
    assert check(folder, sealed).ok is False
    path.unlink()
    os.mkfifo(path)
    assert check(folder, sealed).ok is False


@pytest.mark.parametrize(
    "change",
    [
        {"events": 2**53 - 1},
        {"events": -1},
        {"events": 0},
        {"events": True},
        {"first_seq": 2**53 - 1},
        {"first_seq": 1},
        {"session_id": "../../etc/passwd"},
        {"session_id": 7},
        {"origin": "elsewhere.example.com/gw1"},
        {"gateway": "../gw1"},
        {"gateway": None},
    ],
    ids=str,
)
def test_a_claim_beyond_what_is_there_is_a_finding_and_ends(
    change: dict[str, Any], folder: Path, sealed: Site
) -> None:
    claim(folder, **change)
    result = check(folder, sealed)
    assert result.ok is False
    assert len(result.findings) < 40


@pytest.mark.parametrize("name", ["proof.json", "disclosure.jsonl", "epochs.jsonl", "4.leaf"])
@pytest.mark.parametrize("rubbish", [b"", b"[]\n", b"{}\n", b'{"seq":"a"}\n', b"\xff", b"[" * 9999])
def test_rubbish_is_a_finding(name: str, rubbish: bytes, folder: Path, sealed: Site) -> None:
    (folder / name).write_bytes(rubbish)
    assert check(folder, sealed).ok is False


def test_a_seal_that_names_another_file_or_number_is_found(folder: Path, sealed: Site) -> None:
    for path in folder.glob("seal-*.leaf"):
        entry = json.loads(path.read_bytes())
        for change in ({"n": 2**53 - 1}, {"segment": str(UUID(int=7))}, {"type": "tick"}):
            path.write_bytes(straight.canonical_json(entry | change))
            assert check(folder, sealed).ok is False
        path.write_bytes(straight.canonical_json(entry))
    assert check(folder, sealed).ok is True


def test_findings_are_counted_no_further_than_a_thousand(
    folder: Path, sealed: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentaudit.archive.verify_proof._MAX_FINDINGS", 2)
    for seq in range(8):
        (folder / f"{seq}.text").write_bytes(b"x")
    result = check(folder, sealed)
    assert len(result.findings) == 2
    assert "rest" in result.notes[0]


def test_a_checkpoint_that_was_kept_elsewhere_is_held_against_the_proofs(
    made: Path, sealed: Site
) -> None:
    kept = sealed.layout.checkpoint(GATEWAY).read_text()
    result = check(made, sealed, since=kept)
    assert result.ok is True
    assert result.exposure[0].anchor == "given checkpoint"
    origin, size, _ = kept.split("\n")[:3]
    fork = sign_note(Checkpoint(origin, int(size), bytes(32)).text(), sealed.signers)
    assert "fork" in found(check(made, sealed, since=fork.decode()))


def test_what_cannot_be_held_against_the_proofs_is_told(made: Path, sealed: Site) -> None:
    origin, size_text, _ = sealed.layout.checkpoint(GATEWAY).read_text().split("\n")[:3]
    for size in (int(size_text) - 1, int(size_text) + 1):
        other = sign_note(Checkpoint(origin, size, bytes(32)).text(), sealed.signers).decode()
        result = check(made, sealed, since=other)
        assert result.ok is True
        assert result.exposure[0].anchor == "none"
        (note,) = result.notes
        assert note.startswith("not compared: the given checkpoint has")
    elsewhere = Checkpoint("elsewhere.example/gw9", 5, bytes(32)).text()
    signer = Signer.generate("elsewhere.example/gw9")
    result = check(made, sealed, since=sign_note(elsewhere, [signer]).decode())
    assert result.ok is False
    assert "no log of this origin" in str(result.findings[0])


def test_what_this_machine_remembers_of_the_log_is_held_against_the_proofs(
    made: Path, sealed: Site
) -> None:
    assert verify(sealed.archive, key=sealed.vkey).ok is True
    assert check(made, sealed).exposure[0].anchor == "remembered checkpoint"


# --- making them


def test_what_is_not_sealed_yet_is_counted_and_not_proven(site: Site, tmp_path: Path) -> None:
    async def run() -> None:
        recorder = await start(site, segment_events=5)
        session = recorder.open_session(BOB)
        for number in range(5):
            exchange(session, number)
            await counted(recorder)
        identity = session.session_id
        await until(
            lambda: any(one["session_id"] == identity for one in rows(site, "sessions")), "a seal"
        )
        exchange(session, 5)
        await counted(recorder)
        assert recorder._written_no > recorder._segment_first, "the open segment has some of it"
        proven = prove(site.archive, identity, out=tmp_path / "live")
        assert not proven.is_whole
        assert proven.live_events
        result = verify(tmp_path / "live", key=site.vkey, remember=False)
        assert result.ok is True
        assert result.events == proven.events
        assert verify(site.archive, key=site.vkey, session=identity, remember=False).ok is None
        session.close("client")
        await recorder.stop()
        assert prove(site.archive, identity, out=tmp_path / "whole").is_whole
        assert verify(site.archive, key=site.vkey, session=identity, remember=False).ok is True

    asyncio.run(run())


def test_a_session_of_which_nothing_is_sealed_cannot_be_proven(tmp_path: Path) -> None:
    site = new_site(tmp_path / "site")
    crashed(site)
    (journal,) = site.journals()
    entries = list(JournalReader(journal).read())
    session_id = UUID(bytes=entries[-1].session_id)
    with pytest.raises(ArchiveError, match="not sealed yet"):
        prove(site.archive, session_id, out=tmp_path / "out")


@pytest.mark.parametrize(
    ("session", "message"),
    [
        ("x", "a session id"),
        ("0123", "at least 8"),
        ("00000000", "not in this archive"),
        (UUID(int=7), "not in this archive"),
    ],
)
def test_a_session_that_is_not_there_is_named(
    session: Any, message: str, sealed: Site, tmp_path: Path
) -> None:
    with pytest.raises(QuestionError, match=message):
        prove(sealed.archive, session, out=tmp_path / "out")
    with pytest.raises(QuestionError, match=message):
        verify(sealed.archive, session=session, remember=False)
    assert list(tmp_path.iterdir()) == []


def test_the_beginning_of_an_id_is_enough_where_no_other_begins_so(
    sealed: Site, tmp_path: Path
) -> None:
    identity = str(session_of(sealed, "ana"))
    assert str(prove(sealed.archive, identity[:-1], out=tmp_path / "a").session_id) == identity
    with pytest.raises(QuestionError, match="several sessions"):
        prove(sealed.archive, identity[:8], out=tmp_path / "b")


def test_what_is_there_already_is_not_overwritten(sealed: Site, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(QuestionError, match="is there already"):
        hand_out(sealed, tmp_path / "out")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(QuestionError, match="is there already"):
        hand_out(sealed, tmp_path / "link")
    with pytest.raises(QuestionError, match="disclose"):
        hand_out(sealed, tmp_path / "new", disclose="some")


def test_whoever_must_know_is_told_before_anything_is_written(sealed: Site, tmp_path: Path) -> None:
    told: list[Export] = []

    def refuse(export: Export) -> None:
        assert list(tmp_path.iterdir()) == []
        told.append(export)
        raise ArchiveError("the export could not be recorded")

    with pytest.raises(ArchiveError, match="could not be recorded"):
        hand_out(sealed, tmp_path / "out", seq=2, on_export=refuse)
    assert list(tmp_path.iterdir()) == []
    assert (told[0].session_id, told[0].seq) == (session_of(sealed, "ana"), 2)


def test_a_changed_row_keeps_the_proof_in_and_leaves_no_folder(site: Site, tmp_path: Path) -> None:
    def change(table: pa.Table) -> pa.Table:
        index = table.schema.get_field_index("orig_len")
        return table.set_column(index, "orig_len", pc.add(table.column("orig_len"), 1))

    path = sealed_files(site, "events")[0]
    rewrite_parquet(path, change)
    with pytest.raises(TamperedError, match="not the file that was sealed"):
        hand_out(site, tmp_path / "out")
    resign(site, sealed_as_it_is(site.archive, path))
    with pytest.raises(TamperedError, match="hash to"):
        hand_out(site, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.tmp").exists()


def test_a_damaged_file_is_an_error_and_no_accident(site: Site, tmp_path: Path) -> None:
    path = sealed_files(site, "events")[0]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ArchiveError):
        hand_out(site, tmp_path / "out")


def test_a_seal_of_more_events_than_there_are_rows_allocates_nothing(site: Site) -> None:
    one = sealed_segments(GATEWAY, site.log_entries())[0]
    one.seal["n"] = 10_000_000
    with pytest.raises(TamperedError, match="leaves"):
        SegmentLeaves(site.archive, one)
    one.seal["n"] = 2**53
    with pytest.raises(ArchiveError, match="at most"):
        SegmentLeaves(site.archive, one)


def test_an_entry_cannot_name_a_file_elsewhere(site: Site) -> None:
    entries = site.log_entries()
    seal = next(entry for entry in entries if entry["type"] == "seal")
    seal["files"]["events"]["path"] = "../../etc/passwd"
    with pytest.raises(TamperedError, match="has no file"):
        sealed_segments(GATEWAY, entries)
    seal["files"] = {}
    done = {
        "type": "purge_done",
        "segment": seal["segment"],
        "files": {},
        "residue": {"path": f"residue/{seal['segment']}/../0.parquet", "sha256": "00" * 32},
        "salts": None,
    }
    with pytest.raises(TamperedError, match="has no residue"):
        sealed_segments(GATEWAY, [*entries, done])


def name_residue(site: Site, path: Path) -> None:
    """Let the log name the residue at `path` as it is now, under the real keys."""

    def change(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        data = path.read_bytes()
        entries[-1]["residue"] |= {
            "sha256": sha256(data).hexdigest(),
            "bytes": len(data),
            "rows": pq.read_metadata(path).num_rows,
        }
        return entries

    resign(site, change)


def purge_bob(site: Site) -> None:
    """Take Bob's rows out of the first segment as a purge does, and leave their hashes."""
    bob = session_of(site, "bob").bytes
    seal = next(entry for entry in site.log_entries() if entry["type"] == "seal")
    one = sealed_segments(GATEWAY, site.log_entries())[0]
    leaves = SegmentLeaves(site.archive, one)
    gone = [(event.leaf_index, event.leaf) for event in leaves.read(bob)]
    nos = pa.array([seal["first_event"] + index for index, _ in gone])
    files = {}
    for table, file in seal["files"].items():
        path = site.archive / file["path"]
        if table in ("events", "blobs"):
            rewrite_parquet(
                path, lambda t: t.filter(pc.invert(pc.is_in(t.column("event_no"), nos)))
            )
        else:
            rewrite_parquet(
                path,
                lambda t: t.filter(
                    pa.array([value.bytes != bob for value in t.column("session_id").to_pylist()])
                ),
            )
        data = path.read_bytes()
        files[table] = {
            "path": file["path"],
            "sha256": sha256(data).hexdigest(),
            "bytes": len(data),
            "rows": pq.read_metadata(path).num_rows,
        }
    residue = f"residue/{seal['segment']}/0.parquet"
    (site.archive / residue).parent.mkdir(parents=True)
    indexes, hashes = zip(*gone, strict=True)
    pq.write_table(
        pa.table({"leaf_index": pa.array(indexes), "leaf_hash": pa.array(hashes, pa.binary(32))}),
        site.archive / residue,
    )
    data = (site.archive / residue).read_bytes()
    done = {
        "type": "purge_done",
        "at": seal["at"],
        "purge": str(UUID(int=1)),
        "segment": seal["segment"],
        "rows": len(gone),
        "files": files,
        "residue": {
            "path": residue,
            "sha256": sha256(data).hexdigest(),
            "bytes": len(data),
            "rows": len(gone),
        },
        "salts": None,
    }
    resign(site, lambda entries: [*entries, done])


def test_what_a_purge_left_is_proven_to_the_old_root(site: Site, tmp_path: Path) -> None:
    bob = session_of(site, "bob")
    purge_bob(site)
    proven = hand_out(site, tmp_path / "ana")
    assert proven.is_whole
    assert (proven.events, proven.withheld) == (8, 0)
    assert check(tmp_path / "ana", site).ok is True
    with pytest.raises(QuestionError, match="not in this archive"):
        prove(site.archive, bob, out=tmp_path / "bob")


def test_what_a_real_purge_left_is_proven_and_what_went_is_named(tmp_path: Path) -> None:
    site = new_site(tmp_path / "site")
    ids = test_purge.recorded(site)
    test_purge.apply_for_days(site)
    for name, withholds in (("other0", False), ("pay0", True)):
        proven = prove(site.archive, ids[name], out=tmp_path / name)
        assert proven.is_whole
        assert (proven.withheld > 0) is withholds
        assert check(tmp_path / name, site).ok is True
        result = verify(site.archive, key=site.vkey, session=ids[name], remember=False)
        assert result.ok is True, result.findings
    with pytest.raises(QuestionError, match=r"purged by \S+ \(policy\)"):
        prove(site.archive, ids["bob"], out=tmp_path / "bob")


def test_a_residue_that_hides_or_doubles_a_leaf_is_found(site: Site, tmp_path: Path) -> None:
    purge_bob(site)
    (path,) = site.archive.glob("residue/*/0.parquet")
    good = pq.read_table(path)
    for index in ([0, 0, *range(2, good.num_rows)], [0, *range(good.num_rows - 1)]):
        pq.write_table(good.take(index), path)
        with pytest.raises(TamperedError, match="not the file that was sealed"):
            hand_out(site, tmp_path / "ana")
        name_residue(site, path)
        with pytest.raises(TamperedError, match="twice"):
            hand_out(site, tmp_path / "ana")
    pq.write_table(good.slice(1), path)
    name_residue(site, path)
    with pytest.raises(TamperedError, match="leaves, its seal says"):
        hand_out(site, tmp_path / "ana")


def test_witnessed_checkpoints_go_with_the_proofs_where_they_cover_them(
    site: Site, tmp_path: Path
) -> None:
    witness = Signer.generate("witness.example.com")
    note = site.layout.checkpoint(GATEWAY).read_bytes()
    text = open_note(note, []).text
    cosigned = note + sign_note(text, [witness]).partition(b"\n\n")[2]
    (site.layout.log(GATEWAY) / "cosigned").write_bytes(cosigned)
    hand_out(site, tmp_path / "ana")
    seal = next((tmp_path / "ana").glob("seal-*.tlog-proof"))
    assert Proof.parse(seal.read_bytes()).note == cosigned
    assert check(tmp_path / "ana", site).ok is True

    (site.layout.log(GATEWAY) / "cosigned").write_bytes(
        sign_note(Checkpoint(site.place.log_origin, 1, bytes(32)).text(), site.signers)
    )
    hand_out(site, tmp_path / "old")
    seal = next((tmp_path / "old").glob("seal-*.tlog-proof"))
    assert Proof.parse(seal.read_bytes()).note == note
