"""What a run found: the rows of the table, each with its target and what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from statistics import median

from benchmarks.connections import Idle
from benchmarks.slices import Slice

PGBOUNCER = "pgbouncer"
RELAXED_OF_PGBOUNCER = 0.75
TLS_OF_PGBOUNCER = 0.70
STRICT_OF_PGBOUNCER = 0.55
CPU_OF_PGBOUNCER = 2.0
P99_OF_PGBOUNCER = 1.6
STRICT_SYNCS = 2
STRICT_MORE_MS = 0.2
RELAXED_OF_DIRECT = 0.85
STRICT_OF_DIRECT = 0.70
SYNTHETIC_OF_PGBOUNCER = 1.0
MEMORY_MB = 300.0
IDLE_KB = 60.0
CONNECT_MS = 1.5

_OF_PGBOUNCER = {
    "relaxed": ("relaxed", PGBOUNCER, RELAXED_OF_PGBOUNCER),
    "tls": ("relaxed TLS", f"{PGBOUNCER} TLS", TLS_OF_PGBOUNCER),
    "strict": ("strict", PGBOUNCER, STRICT_OF_PGBOUNCER),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: `values` has one a round, and their median is what was measured.

    `target` is the least, or the most, that it may be.
    """

    work: str
    values: Sequence[float]
    target: float
    at_least: bool
    unit: str = ""
    digits: int = 2
    beside: str = ""

    @property
    def measured(self) -> float:
        return median(self.values)

    @property
    def is_met(self) -> bool:
        if self.at_least:
            return self.measured >= self.target
        return self.measured <= self.target

    def cells(self) -> Iterator[str]:
        """Yield the columns of this row as text."""
        sign = "≥" if self.at_least else "≤"
        digits, unit = self.digits, self.unit
        yield self.work
        yield f"{sign} {self.target:,.{digits}f}{unit}"
        text = f"{self.measured:,.{digits}f}{unit}"
        yield text if self.is_met else f"**{text}** missed"
        yield f"{min(self.values):,.{digits}f}–{max(self.values):,.{digits}f}"
        yield self.beside


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a Markdown table, and how many of its targets were met."""
    yield "| work | target | measured (median) | rounds | beside |"
    yield "|---|---|---|---|---|"
    for row in rows:
        yield "| " + " | ".join(row.cells()) + " |"
    missed = sum(not row.is_met for row in rows)
    yield ""
    yield f"{len(rows) - missed} of {len(rows)} targets are met, {missed} missed."


def pgbench_rows(slices: Sequence[Slice], asked: Iterable[tuple[str, str]]) -> Iterator[Row]:
    """Yield the rows that `pgbench -S` gives, from slices in the order of their rounds.

    `asked` has kinds of rows, each with its cell: `relaxed`, `tls`, `strict`, `latency`, `cpu`.
    """
    found = Rounds(slices)
    for kind, cell in asked:
        if kind == "latency":
            yield _strict_row(found, cell)
        elif kind == "cpu":
            yield from _cost_rows(found, cell)
        else:
            ours, theirs, target = _OF_PGBOUNCER[kind]
            yield Row(
                f"pgbench -S {cell}, {ours}: of {theirs}",
                found.ratios(cell, ours, theirs),
                target,
                at_least=True,
                beside=found.beside(cell, ours, theirs),
            )


def _cost_rows(found: Rounds, cell: str) -> Iterator[Row]:
    """Yield the CPU time a query, of which there is one figure for all rounds, and the p99."""
    ours, theirs = found.cpu_us(cell, "relaxed"), found.cpu_us(cell, PGBOUNCER)
    sealing = found.sealing_us(cell, "relaxed")
    yield Row(
        f"CPU a query, {cell}: of {PGBOUNCER}",
        [ours / theirs] if theirs else [inf],
        CPU_OF_PGBOUNCER,
        at_least=False,
        beside=f"gateway {ours:.1f} µs, {PGBOUNCER} {theirs:.1f}; the sealer "
        f"{sealing:.1f} more, {ours + sealing:.1f} together",
    )
    p99s = [found.median(cell, name, "p99_us") for name in ("relaxed", PGBOUNCER)]
    yield Row(
        f"p99, {cell}: of {PGBOUNCER}",
        found.ratios(cell, "relaxed", PGBOUNCER, "p99_us"),
        P99_OF_PGBOUNCER,
        at_least=False,
        beside=f"gateway {p99s[0]:,.0f} µs, {PGBOUNCER} {p99s[1]:,.0f}",
    )


def _strict_row(found: Rounds, cell: str) -> Row:
    """Return the row of the latency that `strict` adds, in excess of the syncs it may take."""
    direct, strict = found.of[cell, "direct"], found.of[cell, "strict"]
    added, excess, syncs = [], [], []
    for one, other in zip(direct, strict, strict=True):
        assert one.p50_us is not None
        assert other.p50_us is not None
        assert other.sync_ms is not None
        added.append((other.p50_us - one.p50_us) / 1000)
        syncs.append(other.sync_ms)
        excess.append(added[-1] - STRICT_SYNCS * syncs[-1])
    return Row(
        f"pgbench -S {cell}, strict: added latency over {STRICT_SYNCS} syncs",
        excess,
        STRICT_MORE_MS,
        at_least=False,
        unit=" ms",
        beside=f"adds {median(added):.2f} ms, a sync takes {median(syncs):.2f}",
    )


def bulk_rows(slices: Sequence[Slice]) -> Iterator[Row]:
    """Yield what is left of the server's own rate, in bytes a second."""
    found = Rounds(slices)
    for name, target in (("relaxed", RELAXED_OF_DIRECT), ("strict", STRICT_OF_DIRECT)):
        for cell in found.cells(name, "direct"):
            yield Row(
                f"{cell} rows, {name}: of direct",
                found.ratios(cell, name, "direct"),
                target,
                at_least=True,
                beside=found.beside_bytes(cell, name, "direct"),
            )


def synthetic_rows(slices: Sequence[Slice], peak: int, sealer_peak: int) -> Iterator[Row]:
    """Yield the rate of many rows that no server holds up, and the memory that they took, bytes."""
    passed = sum(one.moved for one in slices if one.target == "relaxed")
    found, cell = Rounds(slices), "synthetic"
    direct = found.median(cell, "direct") / 1e6
    yield Row(
        f"rows of a synthetic server, relaxed: of {PGBOUNCER}",
        found.ratios(cell, "relaxed", PGBOUNCER),
        SYNTHETIC_OF_PGBOUNCER,
        at_least=True,
        beside=f"{found.beside_bytes(cell, 'relaxed', PGBOUNCER)}; direct {direct:,.0f} MB/s",
    )
    yield Row(
        f"peak memory of the gateway while {passed / 1e9:.1f} GB pass",
        [peak / 1e6],
        MEMORY_MB,
        at_least=False,
        unit=" MB",
        digits=0,
        beside=f"the sealer {sealer_peak / 1e6:.0f} MB",
    )


def idle_row(found: Idle) -> Row:
    """Return the memory of an idle connection."""
    return Row(
        f"memory of an idle connection, {found.connections} of them, {found.target}",
        [found.each / 1e3],
        IDLE_KB,
        at_least=False,
        unit=" KB",
        digits=1,
        beside=f"gateway {found.before / 1e6:.0f} to {found.after / 1e6:.0f} MB; "
        f"the sealer {found.each_sealing / 1e3:.1f} KB each",
    )


def connect_row(slices: Sequence[Slice]) -> Row:
    """Return what the gateway adds to a connect, token check and its own login included."""
    found = Rounds(slices)
    pairs = zip(found.of["connect", "relaxed"], found.of["connect", "direct"], strict=True)
    taken = [(one.p50_us or 0.0, other.p50_us or 0.0) for one, other in pairs]
    times = [median(values) / 1000 for values in zip(*taken, strict=True)]
    cpu_ms = [one.cpu_s / (one.sessions or 1) * 1000 for one in found.of["connect", "relaxed"]]
    return Row(
        "connect, token checked: added to direct with SCRAM",
        [(ours - direct) / 1000 for ours, direct in taken],
        CONNECT_MS,
        at_least=False,
        unit=" ms",
        beside=f"{times[0]:.2f} ms, direct {times[1]:.2f}; CPU of the gateway "
        f"{median(cpu_ms):.2f} ms",
    )


class Rounds:
    """Slices by cell and target, so that those of one round are neighbours in time."""

    def __init__(self, slices: Sequence[Slice]) -> None:
        self.of: dict[tuple[str, str], list[Slice]] = {}
        for one in slices:
            self.of.setdefault((one.cell, one.target), []).append(one)

    def cells(self, *targets: str) -> list[str]:
        """Return the cells in which all of `targets` took part, in order."""
        names = dict.fromkeys(cell for cell, _ in self.of)
        return [name for name in names if all((name, one) in self.of for one in targets)]

    def ratios(self, cell: str, target: str, of: str, what: str = "rate") -> list[float]:
        """Return, for each round, a figure of `target` over that of its neighbour `of`."""
        pairs = zip(self.of[cell, target], self.of[cell, of], strict=True)
        return [float(getattr(one, what) / getattr(other, what)) for one, other in pairs]

    def median(self, cell: str, target: str, what: str = "rate") -> float:
        """Return the median over all rounds."""
        return float(median(getattr(one, what) for one in self.of[cell, target]))

    def cpu_us(self, cell: str, target: str) -> float:
        """Return the CPU time an execution; ticks are coarse, so all rounds are added up first."""
        return self._us(cell, target, "cpu_s")

    def sealing_us(self, cell: str, target: str) -> float:
        """Return the sealer's CPU time an execution."""
        return self._us(cell, target, "sealing_s")

    def _us(self, cell: str, target: str, what: str) -> float:
        chosen = self.of[cell, target]
        spent = sum(getattr(one, what) for one in chosen)
        return float(spent / sum(one.executions for one in chosen) * 1e6)

    def beside(self, cell: str, target: str, of: str) -> str:
        """Return rate and CPU time of both, in short."""
        return (
            f"{self.median(cell, target):,.0f} of {self.median(cell, of):,.0f}/s; "
            f"CPU {self.cpu_us(cell, target):.1f} of {self.cpu_us(cell, of):.1f} µs, "
            f"sealer {self.sealing_us(cell, target):.1f}"
        )

    def beside_bytes(self, cell: str, target: str, of: str) -> str:
        """Return rates and the CPU time a gigabyte, in short."""
        chosen = self.of[cell, target]
        passed = sum(one.moved for one in chosen) / 1e9
        relaying = sum(one.cpu_s for one in chosen) / passed
        sealing = sum(one.sealing_s for one in chosen) / passed
        return (
            f"{self.median(cell, target) / 1e6:,.0f} of {self.median(cell, of) / 1e6:,.0f} MB/s; "
            f"CPU {relaying:.1f} s/GB, sealer {sealing:.1f}"
        )


@dataclass(frozen=True, slots=True)
class Recorded:
    """What an archive has of one application: its sessions, executions, and rows of these."""

    sessions: int = 0
    executions: int = 0
    rows: int = 0


def disagreements(slices: Sequence[Slice], recorded: Mapping[str, Recorded]) -> Iterator[str]:
    """Yield where a client's count is not the archive's; `recorded` is by application."""
    for one in slices:
        found = recorded.get(one.application, Recorded())
        for what, count, expected in (
            ("executions", found.executions, one.executions),
            ("rows", found.rows, one.rows),
            ("sessions", found.sessions, one.sessions),
        ):
            if expected is not None and count != expected:
                yield (
                    f"{one.cell}, {one.application}: {expected} {what} by the client's count, "
                    f"{count} are recorded"
                )
