"""Makes sample_data/archive again: four weeks of scripted agents, recorded through the gateway.

Run it from the checkout's root, with the demo's parts installed; it takes some minutes:

    python sample_data/build.py

Statements and rows are the same every time; ids, keys, durations and signatures are new, so every
file of the archive changes. The private keys are destroyed with the temporary folder in which the
gateway ran: nothing can be added to this archive any more. Its verifier keys lie beside it.

What the agents do is in src/agentaudit/demo/weeks. The gateway's clock is scripted there, which
the archive says and `verify` tells.
"""

from __future__ import annotations

import secrets
import shutil
import sys
from pathlib import Path

from agentaudit.archive.verify import verify
from agentaudit.demo.processes import temporary_folder
from agentaudit.demo.weeks import record_weeks

HERE = Path(__file__).resolve().parent
MAX_BYTES = 4_000_000


def main() -> int:
    # New keys need a new log: who remembers the old sample would call this one a forgery.
    origin = f"sample-{secrets.token_hex(4)}.agentaudit.invalid"
    with temporary_folder("agentaudit-sample-") as scratch:
        weeks = record_weeks(scratch / "gateway", origin=origin, tell=print)
        copy = scratch / "archive"
        # All is sealed: the journal's folder holds a lock and nothing else.
        shutil.copytree(weeks.archive, copy, ignore=shutil.ignore_patterns("journal"))
        remove_old_tiles(copy)
        verification = verify(copy, key=weeks.verifier_key, deep=True, remember=False)
        if not verification.ok or verification.scripted_clocks != ["gw1"]:
            print(*verification.findings, sep="\n", file=sys.stderr)
            return 1
        size = sum(path.stat().st_size for path in copy.rglob("*") if path.is_file())
        if size > MAX_BYTES:
            print(f"{size} bytes are too many for a repository", file=sys.stderr)
            return 1
        archive = HERE / "archive"
        if archive.exists():
            shutil.rmtree(archive)
        shutil.move(copy, archive)
    (HERE / "archive.vkey").write_text(weeks.verifier_key + "\n", encoding="ascii")
    print(
        f"sample_data/archive: {verification.sessions} sessions, {verification.events} events, "
        f"{size} bytes, verified with sample_data/archive.vkey"
    )
    return 0


def remove_old_tiles(archive: Path) -> None:
    """Remove the partial tiles of checkpoints that nobody has seen: the last one needs none."""
    for folder in archive.glob("log/*/tile/**/*.p"):
        *old, _ = sorted(folder.iterdir(), key=lambda path: int(path.name))
        for path in old:
            path.unlink()


if __name__ == "__main__":
    sys.exit(main())
