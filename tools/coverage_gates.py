"""Holds the packages on which the evidence rests to their coverage, each one by itself.

One figure for the whole package would let a well-tested widget pay for an untested recorder.
Coverage's own percentage mixes lines and branches; both that and the branches alone must reach
the gate.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

GATE_PERCENT = 90.0
GATED = {
    "protocols": "src/agentaudit/protocols/",
    "archive": "src/agentaudit/archive/",
    "masking": "src/agentaudit/masking/",
    "policy": "src/agentaudit/policy.py",
    "identity": "src/agentaudit/identity.py",
}


def figures(report: Mapping[str, Any], prefix: str) -> tuple[float, float] | None:
    """Return (lines and branches, branches alone) in percent, of the files below `prefix`.

    `report` is what `coverage json` writes. None where no file was measured.
    """
    summaries = [
        entry["summary"] for path, entry in report["files"].items() if path.startswith(prefix)
    ]
    lines = sum(summary["num_statements"] for summary in summaries)
    if not lines:
        return None
    branches = sum(summary["num_branches"] for summary in summaries)
    covered_lines = sum(summary["covered_lines"] for summary in summaries)
    covered_branches = sum(summary["covered_branches"] for summary in summaries)
    both = 100 * (covered_lines + covered_branches) / (lines + branches)
    return both, 100 * covered_branches / branches if branches else 100.0


def main(argv: Sequence[str] | None = None) -> int:
    """Combine the data files below a folder and check every gate; return 0 or 1."""
    parser = argparse.ArgumentParser(description="Checks coverage package by package.")
    parser.add_argument("data", type=Path, help="folder with coverage's data files")
    folder = parser.parse_args(argv).data

    with tempfile.TemporaryDirectory() as scratch:
        combined = Path(scratch, "combined")
        written = Path(scratch, "report.json")
        coverage = [sys.executable, "-m", "coverage"]
        data = f"--data-file={combined}"
        files = sorted(path for path in folder.iterdir() if path.is_file())
        subprocess.run([*coverage, "combine", "--quiet", "--keep", data, *files], check=True)
        subprocess.run([*coverage, "json", "--quiet", data, "-o", written], check=True)
        report = json.loads(written.read_text())

    missed = False
    for name, prefix in GATED.items():
        measured = figures(report, prefix)
        if measured is None:
            print(f"coverage of {name}: nothing was measured")
            missed = True
            continue
        both, branches = measured
        low = min(both, branches) < GATE_PERCENT
        missed = missed or low
        print(
            f"coverage of {name}: {both:.1f} % of lines and branches, {branches:.1f} % of branches"
            + (f" (below {GATE_PERCENT:.0f} %)" if low else "")
        )
        if low:
            for path, entry in sorted(report["files"].items()):
                if path.startswith(prefix) and entry["summary"]["percent_covered"] < 100:
                    lines = ",".join(str(line) for line in entry["missing_lines"][:40])
                    print(f"  {path}: {entry['summary']['percent_covered']:.1f} %, missed {lines}")
    print(f"coverage of all: {report['totals']['percent_covered']:.1f} % of lines and branches")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
