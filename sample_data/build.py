"""Makes sample_data/archive again: the demo's agent, recorded through the gateway and sealed.

Run it from the checkout's root, with the demo's parts installed:

    python sample_data/build.py

Statements and rows are the same every time; ids, keys, times and signatures are new, so every
file of the archive changes. The private keys are destroyed with the temporary folder in which the
gateway ran: nothing can be added to this archive any more. Its verifier keys lie beside it.
"""

from __future__ import annotations

import secrets
import shutil
import sys
from pathlib import Path

from agentaudit.archive.verify import verify
from agentaudit.demo.processes import temporary_folder
from agentaudit.demo.recording import record

HERE = Path(__file__).resolve().parent
MAX_BYTES = 2_000_000
PACE = 1.0


def main() -> int:
    # New keys need a new log: who remembers the old sample would call this one a forgery.
    origin = f"sample-{secrets.token_hex(4)}.agentaudit.invalid"
    with temporary_folder("agentaudit-sample-") as scratch:
        run = scratch / "gateway"
        recording = record(run, origin=origin, pace=PACE, tell=print)
        verification = verify(
            recording.archive, key=recording.verifier_key, deep=True, remember=False
        )
        if not verification.ok:
            print(*verification.findings, sep="\n", file=sys.stderr)
            return 1
        size = sum(path.stat().st_size for path in recording.archive.rglob("*") if path.is_file())
        if size > MAX_BYTES:
            print(f"{size} bytes are too many for a repository", file=sys.stderr)
            return 1
        archive = HERE / "archive"
        if archive.exists():
            shutil.rmtree(archive)
        # All is sealed: the journal's folder holds a lock and nothing else.
        shutil.copytree(recording.archive, archive, ignore=shutil.ignore_patterns("journal"))
    (HERE / "archive.vkey").write_text(recording.verifier_key + "\n", encoding="ascii")
    print(f"sample_data/archive: {size} bytes, verified with sample_data/archive.vkey")
    return 0


if __name__ == "__main__":
    sys.exit(main())
