"""Checks a folder that `agentaudit prove` wrote, with Python's standard library and openssl alone.

    python3 check.py KEYS FOLDER

KEYS is a file with the log's verifier key, which must have come from its operator by another way
than FOLDER. It is short so that you can read it before you run it: nothing of agentaudit is
imported. It shows that the log's checkpoint is signed by that key; that each seal is in the log,
and each event in its sealed segment (RFC 6962); that the session is whole, from its open to its
close; and that the texts and payloads beside the proofs are those that were sealed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def sha(*parts: bytes) -> bytes:
    """Return SHA-256 of the parts, joined."""
    return hashlib.sha256(b"".join(parts)).digest()


def require(holds: bool, what: str) -> None:
    """End with `what` unless it holds."""
    if not holds:
        sys.exit(f"NO: {what}")


def tree_head(note: bytes) -> tuple[str, int, bytes]:
    """Return origin, size and root of a checkpoint (c2sp.org/tlog-checkpoint)."""
    origin, size, root = note.split(b"\n\n")[0].decode().split("\n")[:3]
    return origin, int(size), base64.b64decode(root, validate=True)


def require_signed(note: bytes, key: str) -> None:
    """End unless the key has signed the note (c2sp.org/signed-note, Ed25519)."""
    name, _, rest = key.partition("+")
    identity, _, data = rest.partition("+")
    raw = base64.b64decode(data, validate=True)
    require(raw[:1] == b"\x01" and len(raw) == 33, "an Ed25519 verifier key")
    require(sha(name.encode(), b"\n", raw)[:4].hex() == identity, "a verifier key that is whole")
    text, _, signatures = note.partition(b"\n\n")
    for line in signatures.decode().splitlines():
        dash, signer, signature = line.split(" ")
        signed = base64.b64decode(signature, validate=True)
        if (dash, signer, signed[:4].hex()) != ("\u2014", name, identity):
            continue
        with tempfile.TemporaryDirectory() as folder:
            for file, content in (
                ("text", text + b"\n"),
                ("signature", signed[4:]),
                # The twelve bytes before an Ed25519 key in DER, RFC 8410.
                ("key.der", bytes.fromhex("302a300506032b6570032100") + raw[1:]),
            ):
                (Path(folder) / file).write_bytes(content)
            done = subprocess.run(
                [
                    "openssl",
                    "pkeyutl",
                    "-verify",
                    "-pubin",
                    "-keyform",
                    "DER",
                    "-inkey",
                    "key.der",
                    "-rawin",
                    "-in",
                    "text",
                    "-sigfile",
                    "signature",
                ],
                cwd=folder,
                capture_output=True,
                check=False,
            )
        require(done.returncode == 0, f"a signature by {name} that openssl accepts")
        return
    sys.exit(f"NO: a signature by {name}")


def included(proof: bytes, leaf: bytes) -> bytes:
    """Return the checkpoint in which a .tlog-proof shows the leaf (RFC 9162, 2.1.3.2)."""
    head, _, checkpoint = proof.partition(b"\n\n")
    kind, index, *lines = head.decode().split("\n")
    require(kind == "c2sp.org/tlog-proof@v1", "a proof of a known kind")
    _, size, root = tree_head(checkpoint)
    place, last, value = int(index.removeprefix("index ")), size - 1, sha(b"\0", leaf)
    require(place <= last, "a place in the tree")
    for line in lines:
        sibling = base64.b64decode(line, validate=True)
        require(last > 0, "a shorter proof")
        if place % 2 or place == last:
            value = sha(b"\1", sibling, value)
            while place % 2 == 0 and place:
                place, last = place // 2, last // 2
        else:
            value = sha(b"\1", value, sibling)
        place, last = place // 2, last // 2
    require(last == 0 and value == root, "a leaf that is in the tree")
    return checkpoint


def main(keys: str, name: str) -> None:
    """Check the folder `name` against the first key in the file `keys`, and print what it shows."""
    folder, say = Path(name), sys.stdout.write
    key = Path(keys).read_text().split()[0]
    claim: dict[str, Any] = json.loads((folder / "proof.json").read_bytes())
    heads, checkpoints = {}, set()
    for path in sorted(folder.glob("seal-*.leaf")):
        entry = path.read_bytes()
        checkpoints.add(included(path.with_suffix(".tlog-proof").read_bytes(), entry))
        seal = json.loads(entry)
        heads[seal["head"].encode()] = seal
    require(len(checkpoints) == 1, "one checkpoint for all seals")
    (checkpoint,) = checkpoints
    require_signed(checkpoint, key)
    origin, size, _ = tree_head(checkpoint)
    require(origin == key.partition("+")[0], "the log of this key")
    say(f"checkpoint: {origin}, {size} entries, signed by the key that was given\n")
    say(f"seals: {len(heads)} in the log\n")

    salts = {}
    for line in (folder / "disclosure.jsonl").read_bytes().splitlines():
        salts[json.loads(line)["seq"]] = json.loads(line)
    leaves, disclosed, kinds = hashlib.sha256(), 0, []
    first = claim["first_seq"]
    for seq in range(first, first + claim["events"]):
        leaf = (folder / f"{seq}.leaf").read_bytes()
        head = included((folder / f"{seq}.tlog-proof").read_bytes(), leaf)
        require(head in heads, f"event {seq} in a segment that the log has sealed")
        require(tree_head(head)[0] == f"{origin}/seg/{heads[head]['segment']}", "its own head")
        # The leaf's fields: docs/formats/archive.md, "Leaf".
        session = leaf[28:44].hex()
        number = int.from_bytes(leaf[44:48], "big")
        require(leaf[:4] == b"AA1\0" and len(leaf) == 188 and number == seq, f"event {seq}")
        require(session == claim["session_id"].replace("-", ""), f"event {seq} of this session")
        for tag, salt, start in ((b"AA1t", "salt_t", 92), (b"AA1p", "salt_p", 124)):
            suffix = "text" if salt == "salt_t" else "payload"
            is_there = (folder / f"{seq}.{suffix}").exists()
            require(is_there == (salt in salts.get(seq, {})), f"{seq}.{suffix} and its salt")
            if is_there:
                content = (folder / f"{seq}.{suffix}").read_bytes()
                made = sha(tag, bytes.fromhex(salts[seq][salt]), content)
                require(made == leaf[start : start + 32], f"{seq}.{suffix} as it was sealed")
                disclosed += 1
        kinds.append(int.from_bytes(leaf[52:54], "big"))
        if seq < first + claim["events"] - 1:
            leaves.update(sha(b"\0", leaf))
    say(f"events: {claim['events']} in their segments, of session {claim['session_id']}\n")
    say(f"disclosed: {disclosed} texts and payloads are those that were sealed\n")
    if claim["whole"]:
        last = claim["events"] - 1
        require("salt_p" in salts.get(last, {}), "a session_close that is disclosed")
        close = json.loads((folder / f"{last}.payload").read_bytes())
        is_whole = first == 0 and close["last_seq"] == last and (kinds[0], kinds[-1]) == (1, 2)
        require(is_whole and close["leaves_sha256"] == leaves.hexdigest(), "a whole session")
        say("complete: from its open to its close nothing is missing\n")
    else:
        say("not shown to be complete: its end is not part of this\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python3 check.py KEYS FOLDER")
    main(sys.argv[1], sys.argv[2])
