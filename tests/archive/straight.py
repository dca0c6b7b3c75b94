"""The archive's hashes, computed a second time, in a straight line, from docs/formats/archive.md.

It shares no code with the package and is what made the files in `tests/vectors`; run
`python -m tests.archive.straight` to write them again. They must never change: other
implementations rely on them.
"""

from __future__ import annotations

import base64
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
    session = "018bcfe568007abc8123456789abcdef"
    no_status = -(2**31)
    masked = [
        {"rule": "card", "place": "text", "offset": 7, "length": 16},
        {"rule": "naïve \N{WARNING SIGN}", "place": "payload", "offset": 0, "length": 4},
    ]
    rows: list[tuple[int, int, int, int, bytes | None, bytes | None, int, list[Any]]] = [
        # kind, command_no, flags, status, text, payload, orig_len, spans
        (1, -1, 0, no_status, None, b'{"gateway":"gw1","protocol":"postgres"}', 0, []),
        (3, 0, 0, no_status, b"select 1", b"Q\0\0\0\rselect 1\0", 14, []),
        (4, 0, 1, no_status, None, b"", 0, []),
        (3, 1, 0x24, 7, "sélect ‘…’ \U0001f600".encode(), None, 400, masked),
        (4, 1, 0x51, -1, b"", b"\x00" * 9000, 2**40, []),
        (5, 1, 0x40, 2**31 - 1, None, b'{"command_no":1}', 0, []),
        (12, 2**31 - 1, 0x82, no_status, "\ufffd".encode(), None, 2**53, []),
    ]
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
    made[-1] |= {"observed_at_us": -1, "mono_ns": 2**64 - 1, "event_no": 2**63 - 1}
    return made


def leaf_vectors() -> dict[str, Any]:
    keys = {name: sha256(name.encode()).digest() for name in ("key_m", "key_t", "key_p")}
    made = [event | leaf(event, *keys.values()) for event in events()]
    leaves = [bytes.fromhex(event["leaf"]) for event in made]
    return {
        "what": "Leaves of one session's events, with what goes into them, and their tree. "
        "Bytes are hex; null is absent.",
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


ALL = {"leaves": leaf_vectors, "journal": journal_vectors, "log": log_vectors}


def as_file(vectors: dict[str, Any]) -> str:
    """Return vectors as the text of their file."""
    return json.dumps(vectors, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    VECTORS.mkdir(exist_ok=True)
    for name, make in ALL.items():
        (VECTORS / f"{name}.json").write_text(as_file(make()))
