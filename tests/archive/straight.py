"""The archive's hashes, computed a second time, in a straight line, from docs/formats/archive.md.

It shares no code with the package and is what made the files in `tests/vectors`; run
`python -m tests.archive.straight` to write them again. They must never change: other
implementations rely on them.
"""

from __future__ import annotations

import base64
import hmac
import json
import zlib
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

VECTORS = Path(__file__).parent.parent / "vectors"


def big(value: int, size: int) -> bytes:
    return value.to_bytes(size, "big", signed=value < 0)


def canonical_json(value: Any) -> bytes:
    """RFC 8785 for strings, integers, null, booleans, lists, and objects with ASCII names."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def salt(key: bytes, seq: int) -> bytes:
    return sha256(b"AA1salt" + key + big(seq, 8)).digest()[:16]


def commitment(tag: bytes, key: bytes, seq: int, value: bytes | None) -> bytes:
    if value is None:
        return bytes(32)
    return sha256(tag + salt(key, seq) + value).digest()


def spans_digest(spans: list[dict[str, Any]]) -> bytes:
    return sha256(canonical_json(spans)).digest() if spans else bytes(32)


def fixed_fields(event: dict[str, Any]) -> bytes:
    return (
        big(event["event_no"], 8)
        + event["observed_at_us"].to_bytes(8, "big", signed=True)
        + big(event["mono_ns"], 8)
        + bytes.fromhex(event["session_id"])
        + big(event["seq"], 4)
        + event["command_no"].to_bytes(4, "big", signed=True)
        + big(event["kind"], 2)
        + big(event["flags"], 2)
        + event["status"].to_bytes(4, "big", signed=True)
        + big(event["orig_len"], 8)
        + big(event["stored_len"], 8)
    )


def unhex(value: str | None) -> bytes | None:
    return None if value is None else bytes.fromhex(value)


def leaf(event: dict[str, Any], key_m: bytes, key_t: bytes, key_p: bytes) -> dict[str, str]:
    """Return every intermediate value of an event's leaf, and the leaf, as hex."""
    seq = event["seq"]
    salt_m = salt(key_m, seq)
    text_commit = commitment(b"AA1t", key_t, seq, unhex(event["text"]))
    payload_commit = commitment(b"AA1p", key_p, seq, unhex(event["payload"]))
    spans = spans_digest(event["spans"])
    entry = b"AA1\0" + fixed_fields(event) + salt_m + text_commit + payload_commit + spans
    return {
        "salt_m": salt_m.hex(),
        "text_commit": text_commit.hex(),
        "payload_commit": payload_commit.hex(),
        "spans_digest": spans.hex(),
        "leaf": sha256(b"\x00" + entry).hexdigest(),
    }


def tree(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, over leaf hashes."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return sha256(b"\x01" + tree(leaves[:k]) + tree(leaves[k:])).digest()


def path(m: int, leaves: list[bytes]) -> list[bytes]:
    """PATH of RFC 6962, section 2.1.1, over leaf hashes."""
    if len(leaves) == 1:
        return []
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if m < k:
        return path(m, leaves[:k]) + [tree(leaves[k:])]
    return path(m - k, leaves[k:]) + [tree(leaves[:k])]


def proof(m: int, leaves: list[bytes]) -> list[bytes]:
    """PROOF of RFC 6962, section 2.1.2, over leaf hashes."""
    return subproof(m, leaves, True)


def subproof(m: int, leaves: list[bytes], b: bool) -> list[bytes]:
    if m == len(leaves):
        return [] if b else [tree(leaves)]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if m <= k:
        return subproof(m, leaves[:k], b) + [tree(leaves[k:])]
    return subproof(m - k, leaves[k:], False) + [tree(leaves[:k])]


def frame(marker: bytes, event: dict[str, Any], extra: bytes) -> bytes:
    """One frame of a journal."""
    body = fixed_fields(event)
    for part in (unhex(event["text"]), unhex(event["payload"])):
        body += b"\xff\xff\xff\xff" if part is None else big(len(part), 4) + part
    body += big(len(extra), 4) + extra
    return marker + big(len(body), 4) + big(zlib.crc32(body), 4) + body


def header(segment: bytes, first_event_no: int, marker: bytes, context: bytes) -> bytes:
    """The head of a journal."""
    head = b"AA1J" + big(1, 2) + segment + big(first_event_no, 8) + marker
    head += big(len(context), 4) + context
    return head + big(zlib.crc32(head), 4)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def note(text: str, name: str, seed: bytes) -> tuple[str, str]:
    """Return a note signed by the key of `seed`, and its verifier key."""
    key = Ed25519PrivateKey.from_private_bytes(seed)
    public = b"\x01" + key.public_key().public_bytes_raw()
    key_id = sha256(name.encode() + b"\n" + public).digest()[:4]
    signature = b64(key_id + key.sign(text.encode()))
    return f"{text}\n\N{EM DASH} {name} {signature}\n", f"{name}+{key_id.hex()}+{b64(public)}"


def events() -> list[dict[str, Any]]:
    """Events with every shape of field that a leaf can have."""
    no_status = -(2**31)
    masked = [
        {"rule": "card", "place": "text", "offset": 7, "length": 16},
        {"rule": "naïve \N{WARNING SIGN}", "place": "payload", "offset": 0, "length": 4},
    ]
    rows: list[Row] = [
        (1, -1, 0, no_status, None, b'{"gateway":"gw1","protocol":"postgres"}', 0, []),
        (3, 0, 0, no_status, b"select 1", b"Q\0\0\0\rselect 1\0", 14, []),
        (4, 0, 1, no_status, None, b"", 0, []),
        (3, 1, 0x24, 7, "sélect ‘…’ \U0001f600".encode(), None, 400, masked),
        (4, 1, 0x51, -1, b"", b"\x00" * 9000, 2**40, []),
        (5, 1, 0x40, 2**31 - 1, None, b'{"command_no":1}', 0, []),
        (12, 2**31 - 1, 0x82, no_status, "\ufffd".encode(), None, 2**53, []),
    ]
    made = _with_numbers(rows)
    made[-1] |= {"observed_at_us": -1, "mono_ns": 2**64 - 1, "event_no": 2**63 - 1}
    return made


def masked_events() -> list[dict[str, Any]]:
    """Events in which parameters and columns are hidden, of which spans have the number."""
    bind = b"B\0\0\0\x1f\0\0\0\0\0\2\0\0\0\x0b[masked:ssn]"
    row = b"D\0\0\0\x17\0\2\0\0\0\x011\0\0\0\x08****1111"
    params = [
        {"rule": "ssn", "place": "parameter", "offset": 0, "length": 11},
        {"rule": "credentials", "place": "payload", "offset": 5, "length": 3},
    ]
    columns = [
        {"rule": "cards", "place": "column", "offset": 1, "length": 2**40},
        {"rule": "ssn", "place": "column", "offset": 1, "length": 9},
        {"rule": "ssn", "place": "column", "offset": 1663, "length": 0},
    ]
    no_status = -(2**31)
    return _with_numbers(
        [
            (3, 0, 0, no_status, None, bind, 32, params),
            (4, 0, 1, no_status, None, row * 3, 99, columns),
        ]
    )


Row = tuple[int, int, int, int, bytes | None, bytes | None, int, list[Any]]
"""kind, command_no, flags, status, text, payload, orig_len, spans"""


def _with_numbers(rows: list[Row]) -> list[dict[str, Any]]:
    session = "018bcfe568007abc8123456789abcdef"
    made = []
    for seq, (kind, command_no, flags, status, text, payload, orig_len, spans) in enumerate(rows):
        made.append(
            {
                "event_no": 1_000_000 + seq * 3,
                "observed_at_us": 1_700_000_000_123_456 + seq,
                "mono_ns": 987_654_321_000 + seq,
                "session_id": session,
                "seq": seq,
                "command_no": command_no,
                "kind": kind,
                "flags": flags,
                "status": status,
                "orig_len": orig_len,
                "stored_len": 0 if payload is None else len(payload),
                "text": None if text is None else text.hex(),
                "payload": None if payload is None else payload.hex(),
                "spans": spans,
            }
        )
    return made


def leaf_vectors() -> dict[str, Any]:
    return _leaves(
        "Leaves of one session's events, with what goes into them, and their tree. "
        "Bytes are hex; null is absent.",
        events(),
    )


def mask_vectors() -> dict[str, Any]:
    return _leaves(
        "The same of events in which parameters and columns are hidden (mask_spans).",
        masked_events(),
    )


def _leaves(what: str, those: list[dict[str, Any]]) -> dict[str, Any]:
    keys = {name: sha256(name.encode()).digest() for name in ("key_m", "key_t", "key_p")}
    made = [event | leaf(event, *keys.values()) for event in those]
    leaves = [bytes.fromhex(event["leaf"]) for event in made]
    return {
        "what": what,
        **{name: key.hex() for name, key in keys.items()},
        "events": made,
        "leaves_sha256": sha256(b"".join(leaves)).hexdigest(),
        "root": tree(leaves).hex(),
    }


def journal_vectors() -> dict[str, Any]:
    marker = sha256(b"marker").digest()[:16]
    segment = bytes.fromhex("018bcfe568007def8123456789abcdef")
    session = {
        "bytes_in": 3,
        "bytes_out": 2**53 - 1,
        "commands": 1,
        "events": 9,
        "facts": {"gateway": "gw1", "protocol": "postgres", "user": "añá"},
        "key_m": "11" * 32,
        "key_p": "33" * 32,
        "key_t": "22" * 32,
        "masked": 0,
        "open_event_no": 7,
        "opened_us": 1_700_000_000_000_000,
        "session_id": "018bcfe5-6800-7abc-8123-456789abcdef",
    }
    context = canonical_json({"sessions": [session]})
    extras = [b"", b'{"key_m":"00"}']
    frames = []
    for number, event in enumerate(events()):
        if event["spans"]:
            extra = canonical_json({"spans": event["spans"]})
        else:
            extra = extras[number % 2]
        numbered = event | {"event_no": 1_000_000 + number}
        frames.append({"extra": extra.decode(), "bytes": frame(marker, numbered, extra).hex()})
    head = header(segment, 1_000_000, marker, context)
    # Without an extra, a frame ends in the four zeros of its length.
    last = frame(marker, events()[1] | {"event_no": 1_000_000 + len(frames)}, b"")
    torn, room, gap = last[:60], bytes(64), bytes(32)
    tails = [
        ("a room that was laid out ahead: nothing was lost", room, 0, b""),
        ("a torn tail", torn, 0, torn),
        ("a torn tail in a room: what is cut ends before the zeros", torn + room, 0, torn),
        ("a frame that lacks the zeros at its end is whole in a room", last[:-4] + room, 1, b""),
        ("a gap before a frame that tells of no sync: all is cut", gap + last, 0, gap + last),
    ]
    return {
        "what": "A journal with one session open at its start and the events of leaves.json, "
        "numbered from 1000000 on. Bytes are hex.",
        "segment": segment.hex(),
        "first_event_no": 1_000_000,
        "marker": marker.hex(),
        "sessions": [session],
        "header": head.hex(),
        "frames": frames,
        "sha256": sha256(head + b"".join(unhex(f["bytes"]) or b"" for f in frames)).hexdigest(),
        "tails": [
            {
                "what": what,
                "bytes": behind.hex(),
                "events": len(frames) + more,
                "cut": cut.rstrip(b"\0").hex(),
            }
            for what, behind, more, cut in tails
        ],
    }


def log_vectors() -> dict[str, Any]:
    origin = "audit.example.com/gw1"
    seed = sha256(b"seed").digest()
    entries = [canonical_json({"at": n, "type": "tick", "ü": "é"}) for n in range(3)]
    leaves = [sha256(b"\x00" + entry).digest() for entry in entries]
    text = f"{origin}\n{len(entries)}\n{b64(tree(leaves))}\n"
    signed, vkey = note(text, origin, seed)
    return {
        "what": "A log of three entries: its bundle, its hash tile, its checkpoint. "
        "Binary values are hex.",
        "seed": seed.hex(),
        "vkey": vkey,
        "entries": [entry.decode() for entry in entries],
        "files": {
            "tile/entries/000.p/3": b"".join(big(len(e), 2) + e for e in entries).hex(),
            "tile/0/000.p/3": b"".join(leaves).hex(),
            "checkpoint": signed.encode().hex(),
        },
        "inclusion": [
            {"index": m, "proof": [h.hex() for h in path(m, leaves)]} for m in range(len(leaves))
        ],
        "consistency": [
            {"old_size": m, "proof": [h.hex() for h in proof(m, leaves)]} for m in (1, 2, 3)
        ],
    }


def tree_vectors() -> dict[str, Any]:
    leaves = [sha256(b"\x00" + big(number, 4)).digest() for number in range(20)]
    return {
        "what": "Trees over the first 0 to 20 of twenty leaves, whose entries are the numbers 0 to "
        "19 as u32; every inclusion proof in the largest, and every consistency proof to it. Hex.",
        "leaves": [leaf.hex() for leaf in leaves],
        "roots": [tree(leaves[:size]).hex() for size in range(21)],
        "inclusion": [[h.hex() for h in path(m, leaves)] for m in range(20)],
        "consistency": [[h.hex() for h in proof(m, leaves)] for m in range(1, 21)],
    }


def key(name: str) -> bytes:
    """The seed of a key of these vectors."""
    return sha256(name.encode()).digest()


def signature_line(text: str, name: str, seed: bytes) -> str:
    return note(text, name, seed)[0].rpartition("\n\n")[2]


def cosignature_line(text: str, name: str, seed: bytes, time_s: int) -> tuple[str, str]:
    """Return a witness's line (c2sp.org/tlog-cosignature, v1), and its verifier key."""
    private = Ed25519PrivateKey.from_private_bytes(seed)
    public = b"\x04" + private.public_key().public_bytes_raw()
    key_id = sha256(name.encode() + b"\n" + public).digest()[:4]
    signed = private.sign(f"cosignature/v1\ntime {time_s}\n{text}".encode())
    line = f"\N{EM DASH} {name} {b64(key_id + big(time_s, 8) + signed)}\n"
    return line, f"{name}+{key_id.hex()}+{b64(public)}"


def closed_session(number: int) -> bytes:
    """What a seal's sessions_root has of a session: canonical JSON."""
    return canonical_json(
        {
            "closed_at": 1_700_000_001_000_000 + number,
            "opened_at": 1_700_000_000_000_000,
            "session_id": f"018bcfe5-6800-7abc-8123-00000000000{number}",
            "target": "orders",
            "user": user_hmac("añá"),
        }
    )


def user_hmac(user: str) -> str:
    return hmac.digest(key("people"), b"AA1u" + user.encode(), "sha256").hex()


def tlog_proof(index: int, hashes: list[bytes], checkpoint: str) -> str:
    """The text of a `.tlog-proof` file (c2sp.org/tlog-proof)."""
    lines = ["c2sp.org/tlog-proof@v1", f"index {index}", *map(b64, hashes), "", ""]
    return "\n".join(lines) + checkpoint


SEGMENT = "018bcfe5-6800-7def-8123-456789abcdef"
LOG = "audit.example.com/gw1"


def seal_vectors() -> dict[str, Any]:
    """One short log, entry by entry, and the proof of one event in it."""
    vkey = note("", LOG, key("log"))[1]
    epoch_name = f"{LOG}/epoch"
    first_epoch, second_epoch = (
        note("", epoch_name, key(name))[1] for name in ("epoch 0", "epoch 1")
    )
    made = leaf_vectors()["events"]
    leaves = [bytes.fromhex(event["leaf"]) for event in made]
    entries: list[dict[str, Any]] = [
        {
            "at": 1_700_000_000_000_000,
            "clock": "system",
            "epoch_key": first_epoch,
            "format": 1,
            "gateway": "gw1",
            "host": "host-1",
            "key": vkey,
            "origin": LOG,
            "type": "genesis",
        }
    ]
    raw = [canonical_json(entries[0])]
    hashes = [sha256(b"\x00" + raw[0]).digest()]
    statement = f"agentaudit epoch key\n{LOG}\n1\n{b64(tree(hashes))}\n{second_epoch}\n"
    old = Ed25519PrivateKey.from_private_bytes(key("epoch 0"))
    entries.append(
        {
            "at": 1_700_000_000_000_001,
            "key": second_epoch,
            "signature": b64(old.sign(statement.encode())),
            "type": "key_epoch",
        }
    )
    head_text = f"{LOG}/seg/{SEGMENT}\n{len(leaves)}\n{b64(tree(leaves))}\n"
    head = note(head_text, LOG, key("log"))[0]
    head += signature_line(head_text, epoch_name, key("epoch 1"))
    closed = [closed_session(number) for number in range(3)]
    sessions = [sha256(b"\x00" + session).digest() for session in closed]
    file = {"bytes": 4711, "path": f"events/gw=gw1/date=2023-11-14/{SEGMENT}.parquet"}
    file |= {"rows": len(leaves), "sha256": sha256(b"events").hexdigest()}
    entries.append(
        {
            "at": 1_700_000_002_000_000,
            "clock": "system",
            "commands": 1,
            "decisions": 0,
            "files": {"events": file},
            "first_at": made[0]["observed_at_us"],
            "first_event": 1_000_000,
            "head": head,
            "last_at": made[-2]["observed_at_us"],
            "n": len(leaves),
            "policy": None,
            "previous": None,
            "root": tree(leaves).hex(),
            "segment": SEGMENT,
            "sessions_closed": 3,
            "sessions_open": 0,
            "sessions_opened": 3,
            "sessions_root": tree(sessions).hex(),
            "type": "seal",
        }
    )
    raw = [canonical_json(entry) for entry in entries]
    hashes = [sha256(b"\x00" + entry).digest() for entry in raw]
    text = f"{LOG}\n{len(raw)}\n{b64(tree(hashes))}\n"
    checkpoint = note(text, LOG, key("log"))[0]
    checkpoint += signature_line(text, epoch_name, key("epoch 1"))
    witness_line, witness = cosignature_line(
        text, "witness.example.com", key("witness"), 1_700_000_003
    )
    return {
        "what": "A log of genesis, key_epoch and seal over the leaves of leaves.json; its "
        "segment's head, its checkpoint with a witness's cosignature, and the proof of leaf 3. "
        "Seeds of keys are SHA-256 of their names here: log, epoch 0, epoch 1, witness, people.",
        "vkey": vkey,
        "epoch_vkey": first_epoch,
        "witness_vkey": witness,
        "epoch_statement": statement,
        "entries": [entry.decode() for entry in raw],
        "entry_hashes": [value.hex() for value in hashes],
        "head": head,
        "checkpoint": checkpoint,
        "cosigned": checkpoint + witness_line,
        "users": {user: user_hmac(user) for user in ("añá", "ana")},
        "closed_sessions": [session.decode() for session in closed],
        "sessions_root": tree(sessions).hex(),
        "event_proof": tlog_proof(3, path(3, leaves), head),
        "event_leaf": leaf_preimage(made[3]).hex(),
        "seal_proof": tlog_proof(2, path(2, hashes), checkpoint + witness_line),
    }


def leaf_preimage(event: dict[str, Any]) -> bytes:
    """What the leaf of an event of leaves.json hashes behind the byte 0."""
    names = ("salt_m", "text_commit", "payload_commit", "spans_digest")
    return b"AA1\0" + fixed_fields(event) + b"".join(bytes.fromhex(event[name]) for name in names)


def purge_vectors() -> dict[str, Any]:
    """The segment of leaves.json with three rows gone, and then with payloads gone."""
    made = leaf_vectors()["events"]
    purge = "018bcfe5-6800-7aaa-8123-456789abcdef"
    sessions = [sha256(b"\x00" + closed_session(number)).digest() for number in range(3)]
    listed = json.loads(closed_session(1)) | {
        "index": 1,
        "proof": [value.hex() for value in path(1, sessions)],
        "sealed_in": SEGMENT,
        "segments": [SEGMENT],
    }
    document = canonical_json(
        {
            "purge": purge,
            "segments": [{"rows": 3, "segment": SEGMENT, "whole": False}],
            "sessions": [listed],
            "what": "sessions",
        }
    )
    gone = [1, 2, 5]
    own = [event["seq"] for event in made if event["kind"] in (1, 2, 5, 6, 9, 10, 11)]
    key_p = sha256(b"key_p").digest()
    stripped = [event | {"payload": None} for event in made if event["seq"] not in own]
    return {
        "what": "What a purge leaves of the segment of leaves.json. Indices are those of leaves. "
        "`residue` is of a purge of three of its events; with the other rows it gives the root. "
        "`salts` and `payload_commits` are of a purge of its payloads: rows made by the gateway "
        "keep theirs, and their salt; all others keep the commitment alone. K_p is gone after it. "
        "Bytes are hex.",
        "segment": SEGMENT,
        "root": tree([bytes.fromhex(event["leaf"]) for event in made]).hex(),
        "residue": [{"leaf_index": n, "leaf_hash": made[n]["leaf"]} for n in gone],
        "salts": [{"leaf_index": n, "salt": salt(key_p, n).hex()} for n in own],
        "payload_commits": [
            {"leaf_index": event["seq"], "payload_commit": event["payload_commit"]}
            for event in stripped
            if event["payload_commit"] != bytes(32).hex()
        ],
        "list": document.decode(),
        "list_sha256": sha256(document).hexdigest(),
        "sessions_root": tree(sessions).hex(),
    }


ALL = {
    "leaves": leaf_vectors,
    "masks": mask_vectors,
    "journal": journal_vectors,
    "log": log_vectors,
    "tree": tree_vectors,
    "seal": seal_vectors,
    "purge": purge_vectors,
}


def as_file(vectors: dict[str, Any]) -> str:
    """Return vectors as the text of their file."""
    return json.dumps(vectors, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    VECTORS.mkdir(exist_ok=True)
    for name, make in ALL.items():
        (VECTORS / f"{name}.json").write_text(as_file(make()))
