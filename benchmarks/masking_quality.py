"""How well the detectors of masking find: `python -m benchmarks.masking_quality`.

On the labelled set of `tests/masking`: a hit counts as right where it lies on any span that is
labelled there, whichever detector's, because a password in a URL may be called both; recall counts
a detector's own labels, and only where its span is found to the byte. The set was written along
with the detectors: it says that nothing was lost since, and is no estimate for others' texts.

On sample data, which holds next to nothing secret: false hits per 10,000 values. Then how fast all
patterns scan as one.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import Any

from agentaudit.masking.detectors import DETECTORS, compiled
from tests.masking import samples
from tests.masking.test_false_positives import hits, wrong

_SCANNED_BYTES = 64 << 20
_MEMORY = 64 << 20


def main() -> int:
    """Print three tables; return 0."""
    _quality()
    print()
    _false_hits()
    print()
    _speed()
    return 0


def _quality() -> None:
    labels = tuple(samples.labels())
    own: Counter[str] = Counter()
    found: Counter[str] = Counter()
    right: Counter[str] = Counter()
    wrong_hits: Counter[str] = Counter()
    for label in labels:
        own[label.detector] += len(label.spans)
        for detector in DETECTORS:
            for start, end in detector.find(label.text):
                is_right = any(start < last and first < end for first, last in label.spans)
                (right if is_right else wrong_hits)[detector.name] += 1
                is_own = detector.name == label.detector
                found[detector.name] += is_own and (start, end) in label.spans
    texts = sum(not label.spans for label in labels)
    print(f"labelled set: {own.total()} spans to find, {texts} texts with none\n")
    print(
        f"{'detector':26}{'labels':>8}{'found':>7}{'hits':>7}{'wrong':>7}{'precision':>11}{'recall':>8}"
    )
    for name in (*(each.name for each in DETECTORS), "all"):
        counts = [
            count.total() if name == "all" else count[name]
            for count in (own, found, right, wrong_hits)
        ]
        labels_of, found_of, right_of, wrong_of = counts
        all_hits = right_of + wrong_of
        print(
            f"{name:26}{labels_of:8}{found_of:7}{all_hits:7}{wrong_of:7}"
            f"{right_of / max(all_hits, 1):11.3f}{found_of / labels_of:8.3f}"
        )


def _false_hits() -> None:
    columns = list(samples.read())
    counted = hits(columns)
    print(f"{'sample':12}{'values':>9}{'rightly':>9}{'wrongly':>9}{'per 10,000':>12}")
    for sample in dict.fromkeys(column.table.partition(".")[0] for column in columns):
        values = sum(len(each.values) for each in columns if each.table.startswith(f"{sample}."))
        of_sample = Counter(
            {key: n for key, n in counted.items() if key[0].startswith(f"{sample}.")}
        )
        _print_sample(sample, values, of_sample)
    _print_sample("all", sum(len(each.values) for each in columns), counted)
    of_ids = list(samples.ids())
    _print_sample("ids", sum(len(each.values) for each in of_ids), found := hits(of_ids))
    for (table, column, detector), count in sorted({**wrong(counted), **wrong(found)}.items()):
        print(f"  {detector} in {table}.{column}: {count}")


def _print_sample(sample: str, values: int, counted: Counter[tuple[str, str, str]]) -> None:
    false = wrong(counted).total()
    rightly = counted.total() - false
    print(f"{sample:12}{values:9}{rightly:9}{false:9}{false * 10_000 / values:12.2f}")


def _speed() -> None:
    together = compiled("|".join(f"(?:{each.pattern})" for each in DETECTORS), _MEMORY)
    names = ("pgbench", "tpch", "ids")
    print(f"{'scanned as one':16}{'MB/s':>7}{'hits':>9}   {_SCANNED_BYTES >> 20} MB each")
    for name in names:
        columns = list(samples.ids() if name == "ids" else samples.read())
        kept = [
            column.values
            for column in columns
            if column.table.startswith(name)
            and (column.table, column.name) not in samples.RIGHTLY_FOUND
            and column.name != "sixteen_digits"
        ]
        data = b"\0".join(b"\0".join(values) for values in kept)
        together.search(data)
        times = max(1, _SCANNED_BYTES // len(data))
        begun = time.process_time()
        count = sum(_hits(together, data) for _ in range(times))
        print(f"{name:16}{times * len(data) / (time.process_time() - begun) / 1e6:7.0f}{count:9}")


def _hits(pattern: Any, data: bytes) -> int:
    return sum(1 for _ in pattern.finditer(data))


if __name__ == "__main__":
    sys.exit(main())
