"""Our code, held against what an independent implementation computed (`tests/vectors`)."""

from __future__ import annotations

import base64
import json
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from agentaudit.archive import canonical, journal, leaves
from agentaudit.archive.journal import Entry, Header, JournalReader, OpenSession
from agentaudit.archive.keys import People, Place, epoch_statement
from agentaudit.archive.log import Tiles, decode_entry
from agentaudit.archive.merkle import (
    GappedFrontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    tree_root,
    verifies_inclusion,
)
from agentaudit.archive.note import Checkpoint, Cosigner, Signer, Verifier, open_note, sign_note
from agentaudit.archive.proof import Proof
from agentaudit.archive.purge import parse_list
from agentaudit.archive.retention import Closed
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


@pytest.mark.parametrize("name", ["leaves", "masks"])
def test_leaves_and_all_that_goes_into_them_are_the_frozen_ones(name: str) -> None:
    vectors = load(name)
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
    whole = path.read_bytes()
    for tail in vectors["tails"]:
        path.write_bytes(whole + bytes.fromhex(tail["bytes"]))
        reader = JournalReader(path)
        assert len(list(reader.read())) == tail["events"], tail["what"]
        assert reader.damage().hex() == tail["cut"], tail["what"]


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


def test_trees_of_every_size_are_the_frozen_ones() -> None:
    vectors = load("tree")
    hashes = [bytes.fromhex(value) for value in vectors["leaves"]]
    assert [leaf_hash(number.to_bytes(4)) for number in range(20)] == hashes
    assert [tree_root(hashes[:size]).hex() for size in range(21)] == vectors["roots"]
    for index, proof in enumerate(vectors["inclusion"]):
        assert [value.hex() for value in inclusion_proof(hashes, index)] == proof
    for size, proof in enumerate(vectors["consistency"], 1):
        assert [value.hex() for value in consistency_proof(hashes, size)] == proof


def test_the_frozen_epoch_key_was_named_by_the_one_before_it() -> None:
    vectors = load("seal")
    genesis, named, _ = (canonical.decode(entry.encode()) for entry in vectors["entries"])
    root = bytes.fromhex(vectors["entry_hashes"][0])
    statement = epoch_statement(genesis["origin"], 1, root, named["key"])
    assert statement.decode() == vectors["epoch_statement"]
    signature = base64.b64decode(named["signature"])
    assert Verifier.parse(genesis["epoch_key"]).accepts(statement, signature)
    assert genesis["epoch_key"] == vectors["epoch_vkey"]


def test_frozen_entries_are_what_the_log_takes_and_hash_to_the_checkpoint() -> None:
    vectors = load("seal")
    hashes = []
    for number, text in enumerate(vectors["entries"]):
        raw = text.encode()
        assert canonical.encode(decode_entry(number, raw)) == raw
        hashes.append(leaf_hash(raw))
    assert [value.hex() for value in hashes] == vectors["entry_hashes"]
    witness = Cosigner.parse(vectors["witness_vkey"])
    epoch = Verifier.parse(canonical.decode(vectors["entries"][1].encode())["key"])
    keys = [Verifier.parse(vectors["vkey"]), epoch]
    opened = open_note(vectors["cosigned"].encode(), keys, [witness])
    assert Checkpoint.parse(opened.text).root == tree_root(hashes)
    assert opened.signed_by == tuple(keys)
    assert [(seen.cosigner, seen.time_s) for seen in opened.cosigned_by] == [
        (witness, 1_700_000_003)
    ]
    signers = [
        Signer(key.name, sha256(name).digest())
        for key, name in zip(keys, [b"log", b"epoch 1"], strict=True)
    ]
    assert sign_note(opened.text, signers).decode() == vectors["checkpoint"]


def test_the_frozen_proof_of_an_event_holds_in_both_its_steps() -> None:
    vectors, events = load("seal"), load("leaves")["events"]
    keys = [Verifier.parse(vectors["vkey"])]
    proof = Proof.parse(vectors["event_proof"].encode())
    preimage = bytes.fromhex(vectors["event_leaf"])
    assert leaf_hash(preimage).hex() == events[3]["leaf"]
    head = open_note(proof.note, keys)
    assert head.signed_by
    assert proof.shows(leaf_hash(preimage), Checkpoint.parse(head.text))
    seal_proof = Proof.parse(vectors["seal_proof"].encode())
    log = Checkpoint.parse(open_note(seal_proof.note, keys).text)
    assert seal_proof.shows(leaf_hash(vectors["entries"][2].encode()), log)
    assert canonical.decode(vectors["entries"][2].encode())["head"].encode() == proof.note
    for text, made in (("event_proof", proof), ("seal_proof", seal_proof)):
        assert made.encode().decode() == vectors[text]


def test_frozen_sessions_and_users_are_those_that_a_seal_commits_to(tmp_path: Path) -> None:
    vectors = load("seal")
    (tmp_path / "gw1.people").write_text(sha256(b"people").hexdigest())
    place = Place(archive=tmp_path, gateway="gw1", origin="audit.example.com", keys=tmp_path)
    people = People(place)
    assert {user: people.hmac(user) for user in vectors["users"]} == vectors["users"]
    hashes = []
    for text in vectors["closed_sessions"]:
        told = canonical.decode(text.encode())
        session = Closed(
            session_id=UUID(told["session_id"]),
            user=told["user"],
            target=told["target"],
            opened_us=told["opened_at"],
            closed_us=told["closed_at"],
        )
        assert session.leaf().decode() == text
        hashes.append(leaf_hash(session.leaf()))
    assert tree_root(hashes).hex() == vectors["sessions_root"]


def test_what_a_purge_leaves_gives_the_frozen_root() -> None:
    vectors, leaf_file = load("purge"), load("leaves")
    key_m, key_t = (bytes.fromhex(leaf_file[k]) for k in ("key_m", "key_t"))
    salts = {row["leaf_index"]: bytes.fromhex(row["salt"]) for row in vectors["salts"]}
    commits = {
        row["leaf_index"]: bytes.fromhex(row["payload_commit"])
        for row in vectors["payload_commits"]
    }
    made = []
    for event in leaf_file["events"]:
        entry, seq = entry_of(event), event["seq"]
        if seq in salts:
            payload = leaves.salted_payload_commit(salts[seq], entry.payload or b"")
        else:
            payload = commits.get(seq, leaves.ABSENT)
        text = leaves.text_commit(key_t, seq, entry.text)
        made.append(leaves.event_leaf(entry, key_m, text, payload))
    assert tree_root(made).hex() == vectors["root"]
    tree = GappedFrontier(
        (row["leaf_index"], bytes.fromhex(row["leaf_hash"])) for row in vectors["residue"]
    )
    residue = {row["leaf_index"] for row in vectors["residue"]}
    for index, leaf in enumerate(made):
        if index not in residue:
            tree.append(leaf)
    assert tree.root().hex() == vectors["root"]


def test_the_frozen_list_of_a_purge_is_read_and_proves_its_sessions() -> None:
    vectors = load("purge")
    data = vectors["list"].encode()
    assert sha256(data).hexdigest() == vectors["list_sha256"]
    document = canonical.decode(data)
    intent = {"purge": document["purge"], "what": "sessions", "sessions": 1, "segments": 1}
    listed = parse_list(data, intent, "list")
    (session,) = listed.sessions
    assert session.sealed_in == vectors["segment"]
    assert listed.segments == {vectors["segment"]: (3, False)}
    assert verifies_inclusion(
        session.proof,
        leaf=leaf_hash(session.session.leaf()),
        index=session.index,
        size=3,
        root=bytes.fromhex(vectors["sessions_root"]),
    )
