"""Our code, held against what an independent implementation computed (`tests/vectors`)."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from agentaudit.archive import journal, leaves
from agentaudit.archive.journal import Entry, Header, JournalReader, OpenSession
from agentaudit.archive.log import Tiles
from agentaudit.archive.merkle import (
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    tree_root,
)
from agentaudit.archive.note import Checkpoint, Signer, Verifier, open_note, sign_note
from tests.archive import straight


def load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((straight.VECTORS / f"{name}.json").read_text())
    return loaded


def unhex(value: str | None) -> bytes | None:
    return None if value is None else bytes.fromhex(value)


def entry_of(event: dict[str, Any]) -> Entry:
    return Entry(
        event_no=event["event_no"],
        observed_us=event["observed_at_us"],
        mono_ns=event["mono_ns"],
        session_id=bytes.fromhex(event["session_id"]),
        seq=event["seq"],
        command_no=event["command_no"],
        kind=event["kind"],
        flags=event["flags"],
        status=event["status"],
        orig_len=event["orig_len"],
        stored_len=event["stored_len"],
        text=unhex(event["text"]),
        payload=unhex(event["payload"]),
        extra={"spans": event["spans"]} if event["spans"] else {},
    )


@pytest.mark.parametrize("name", straight.ALL)
def test_the_frozen_vectors_are_what_the_straight_line_implementation_gives(name: str) -> None:
    kept = (straight.VECTORS / f"{name}.json").read_text()
    assert straight.as_file(straight.ALL[name]()) == kept


def test_leaves_and_all_that_goes_into_them_are_the_frozen_ones() -> None:
    vectors = load("leaves")
    key_m, key_t, key_p = (bytes.fromhex(vectors[k]) for k in ("key_m", "key_t", "key_p"))
    found = []
    for event in vectors["events"]:
        entry = entry_of(event)
        text = leaves.text_commit(key_t, entry.seq, entry.text)
        payload = leaves.payload_commit(key_p, entry.seq, entry.payload)
        found.append(leaves.event_leaf(entry, key_m, text, payload))
        assert leaves.salt(key_m, entry.seq).hex() == event["salt_m"]
        assert text.hex() == event["text_commit"]
        assert payload.hex() == event["payload_commit"]
        assert leaves.spans_digest(event["spans"]).hex() == event["spans_digest"]
        assert found[-1].hex() == event["leaf"]
    assert sha256(b"".join(found)).hexdigest() == vectors["leaves_sha256"]
    assert tree_root(found).hex() == vectors["root"]


def test_what_is_absent_and_what_is_empty_commit_to_different_values() -> None:
    key = bytes(32)
    assert leaves.text_commit(key, 0, None) == bytes(32) != leaves.text_commit(key, 0, b"")
    assert leaves.payload_commit(key, 0, None) == bytes(32) != leaves.payload_commit(key, 0, b"")


def test_a_journal_is_written_as_the_frozen_one() -> None:
    vectors, events = load("journal"), load("leaves")["events"]
    header = Header(
        UUID(hex=vectors["segment"]),
        vectors["first_event_no"],
        bytes.fromhex(vectors["marker"]),
        tuple(OpenSession.from_json(session) for session in vectors["sessions"]),
    )
    assert header.encode().hex() == vectors["header"]
    for number, (event, frame) in enumerate(zip(events, vectors["frames"], strict=True)):
        entry = entry_of(event | {"event_no": 1_000_000 + number})
        encoded = journal.encode_frame(
            header.marker, entry.fixed, entry.text, entry.payload, frame["extra"].encode()
        )
        assert encoded.hex() == frame["bytes"]


def test_the_frozen_journal_is_read_back_as_what_it_holds(tmp_path: Path) -> None:
    vectors, events = load("journal"), load("leaves")["events"]
    frames = b"".join(bytes.fromhex(frame["bytes"]) for frame in vectors["frames"])
    path = tmp_path / "frozen.journal"
    path.write_bytes(bytes.fromhex(vectors["header"]) + frames)
    assert sha256(path.read_bytes()).hexdigest() == vectors["sha256"]
    reader = JournalReader(path)
    assert [session.to_json() for session in reader.header.sessions] == vectors["sessions"]
    for number, (entry, event) in enumerate(zip(reader.read(), events, strict=True)):
        expected = entry_of(event | {"event_no": 1_000_000 + number})
        extra = vectors["frames"][number]["extra"]
        expected.extra = json.loads(extra) if extra else {}
        assert entry == expected
    assert reader.damage() == b""


def test_a_log_is_written_signed_and_proven_as_the_frozen_one() -> None:
    vectors = load("log")
    entries = [entry.encode() for entry in vectors["entries"]]
    hashes = [leaf_hash(entry) for entry in entries]
    signer = Signer("audit.example.com/gw1", bytes.fromhex(vectors["seed"]))
    checkpoint = Checkpoint(signer.verifier.name, len(entries), tree_root(hashes))
    files = Tiles().append(entries)
    files["checkpoint"] = sign_note(checkpoint.text(), [signer])
    assert {path: data.hex() for path, data in files.items()} == vectors["files"]
    assert str(signer.verifier) == vectors["vkey"]
    opened = open_note(files["checkpoint"], [Verifier.parse(vectors["vkey"])])
    assert Checkpoint.parse(opened.text) == checkpoint
    assert opened.signed_by == (signer.verifier,)
    for case in vectors["inclusion"]:
        assert [h.hex() for h in inclusion_proof(hashes, case["index"])] == case["proof"]
    for case in vectors["consistency"]:
        assert [h.hex() for h in consistency_proof(hashes, case["old_size"])] == case["proof"]
