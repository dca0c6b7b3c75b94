"""The benchmarks count what was recorded, and say nothing when the archives disagree."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import mean, quantiles
from typing import Any

import pytest

from agentaudit.archive import canonical
from agentaudit.archive.journal import Entry, JournalReader
from agentaudit.archive.layout import Layout
from agentaudit.archive.log import LogWriter
from agentaudit.archive.note import Signer
from agentaudit.demo.provider import IdentityProvider
from agentaudit.model import Kind
from benchmarks import archive, bulk, synthetic
from benchmarks.report import (
    Recorded,
    Row,
    bulk_rows,
    connect_row,
    disagreements,
    pgbench_rows,
    table,
)
from benchmarks.rows import row_block
from benchmarks.sealing import Archive
from benchmarks.sections import faults
from benchmarks.slices import Report, Slice, read_latencies, read_output
from benchmarks.targets import Target
from benchmarks.traffic import MEAN, WIRE_MEAN, Traffic, wire_payloads
from tests import tries
from tests.peers.gateway import GatewayFactory

# Printed by pgbench 18.6: pgbench --select-only --no-vacuum --client=8 --jobs=2 --time=1
PGBENCH_OUTPUT = """\
pgbench (18.6)
transaction type: <builtin: select only>
scaling factor: 1
query mode: prepared
number of clients: 8
number of threads: 2
maximum number of tries: 1
duration: 1 s
number of transactions actually processed: 38121
number of failed transactions: 0 (0.000%)
latency average = 0.209 ms
initial connection time = 8.112 ms
tps = 38364.862421 (without initial connection time)
"""


PGBENCH_LOG = """\
0 1 193 0 1764320543 112358
5 1 871 0 1764320543 112366
0 2 188 0 1764320543 112549
"""


def made(target: str, rate: float, *, cell: str = "prepared 8", **figures: Any) -> Slice:
    figures = {"executions": 100, "p50_us": 100.0, "p99_us": 100.0} | figures
    return Slice(cell=cell, target=target, application=f"{target}-{rate}", rate=rate, **figures)


def row(slices: Sequence[Slice], kind: str) -> Row:
    return next(pgbench_rows(slices, [(kind, slices[0].cell)]))


def test_pgbenchs_report_is_read() -> None:
    assert read_output(PGBENCH_OUTPUT) == Report(38121, 38364.862421, 0.209, 8.112)


def test_a_report_with_failed_transactions_is_refused() -> None:
    with pytest.raises(ValueError, match="3 transactions failed"):
        read_output(PGBENCH_OUTPUT.replace("failed transactions: 0", "failed transactions: 3"))


def test_a_slice_in_which_nobody_got_connected_is_no_measurement() -> None:
    # pgbench leaves out latency and rate when it processed nothing.
    cut = PGBENCH_OUTPUT[: PGBENCH_OUTPUT.index("number of failed")].replace("38121", "0")
    with pytest.raises(ValueError, match="no transaction in the time of the slice"):
        read_output(cut)


def test_latencies_are_read_from_pgbenchs_log() -> None:
    assert read_latencies(PGBENCH_LOG.splitlines()) == [188, 193, 871]


def test_a_ratio_compares_neighbours_in_time_and_the_median_counts() -> None:
    # The machine slows down by half in the second round: the ratio does not move.
    rounds = [(1000.0, 800.0), (500.0, 400.0), (1000.0, 10.0)]
    slices = [
        one for theirs, ours in rounds for one in (made("pgbouncer", theirs), made("relaxed", ours))
    ]
    found = row(slices, "relaxed")
    assert found.values == [0.8, 0.8, 0.01]
    assert found.measured == 0.8
    assert found.is_met


def test_a_missed_target_is_marked_and_counted() -> None:
    slices = [
        made("pgbouncer", 1000.0, cpu_s=0.001),
        made("relaxed", 740.0, cpu_s=0.001, p99_us=161.0),
    ]
    asked = [("relaxed", "prepared 8"), ("cpu", "prepared 8")]
    lines = list(table(list(pgbench_rows(slices, asked))))
    assert "| **0.74** missed |" in lines[2]
    assert "| **1.61** missed |" in lines[4]
    assert lines[-1] == "1 of 3 targets are met, 2 missed."


def test_cpu_time_is_weighed_by_executions() -> None:
    slices = [
        made("pgbouncer", 1, executions=300, cpu_s=0.003),
        made("relaxed", 1, executions=300, cpu_s=0.003, sealing_s=0.004),
        made("relaxed", 1, executions=100, cpu_s=0.005),
        made("pgbouncer", 1, executions=100, cpu_s=0.001),
    ]
    found = row(slices, "cpu")
    assert found.measured == pytest.approx(2.0)
    assert "gateway 20.0 µs, pgbouncer 10.0; the sealer 10.0 more, 30.0 together" in found.beside


def test_strict_may_add_two_syncs_of_its_own_round_and_a_fifth_of_a_millisecond() -> None:
    slices = [
        made("direct", 1, cell="simple 1", p50_us=100.0),
        made("strict", 1, cell="simple 1", p50_us=1000.0, sync_ms=0.35),
        made("strict", 1, cell="simple 1", p50_us=5000.0, sync_ms=2.5),
        made("direct", 1, cell="simple 1", p50_us=400.0),
    ]
    found = row(slices, "latency")
    assert found.values == pytest.approx([0.2, -0.4])
    assert found.is_met


def test_bulk_rates_are_held_against_the_server_itself_in_each_mode() -> None:
    slices = [
        made(target, rate, cell="select 400,000", moved=10**9, cpu_s=2.0)
        for target, rate in (("direct", 200e6), ("relaxed", 170e6), ("strict", 138e6))
    ]
    relaxed, strict = bulk_rows(slices)
    assert (relaxed.measured, relaxed.is_met) == (0.85, True)
    assert (strict.measured, strict.is_met) == (0.69, False)
    assert "170 of 200 MB/s; CPU 2.0 s/GB" in relaxed.beside


def test_what_a_connect_adds_is_the_difference_of_neighbours() -> None:
    slices = [
        made("direct", 1, cell="connect", p50_us=3000.0),
        made("relaxed", 1, cell="connect", p50_us=4500.0),
        made("relaxed", 1, cell="connect", p50_us=9000.0),
        made("direct", 1, cell="connect", p50_us=8000.0),
    ]
    found = connect_row(slices)
    assert found.values == [1.5, 1.0]
    assert found.is_met


def test_an_archive_with_one_execution_less_is_named() -> None:
    slices = [made("strict", 1.0), made("strict", 2.0, executions=7)]
    assert not [
        *disagreements(slices, {"strict-1.0": Recorded(1, 100), "strict-2.0": Recorded(1, 7)})
    ]
    assert [
        *disagreements(slices, {"strict-1.0": Recorded(1, 99), "strict-2.0": Recorded(1, 7)})
    ] == ["prepared 8, strict-1.0: 100 executions by the client's count, 99 are recorded"]


def test_an_archive_with_one_row_or_one_session_less_is_named() -> None:
    slices = [made("strict", 1.0, rows=5, sessions=3, executions=1)]
    assert [*disagreements(slices, {"strict-1.0": Recorded(2, 1, 4)})] == [
        "prepared 8, strict-1.0: 5 rows by the client's count, 4 are recorded",
        "prepared 8, strict-1.0: 3 sessions by the client's count, 2 are recorded",
    ]


def test_a_journal_is_sealed_up_once_its_last_event_is_signed(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for folder in (layout.log("gw1"), layout.journals("gw1")):
        folder.mkdir(parents=True)
    made_journal = layout.journals("gw1") / "made"
    segment = made_up(3_000).write_journal(made_journal, 1_000)
    made_journal.rename(layout.journal("gw1", segment))
    log = LogWriter(
        layout.log("gw1"), "x.test/gw1", Signer.generate("x.test/gw1"), tmp_path / "memory"
    )
    begun = {"type": "open_segment", "at": 0, "segment": str(segment), "first_event": 0}
    tick = {"type": "tick", "at": 0, "segment": str(segment), "root": "00" * 32}
    looked_at = Archive(tmp_path)
    log.append([begun, tick | {"n": 999}])
    assert not looked_at.is_sealed_up()
    log.append([tick | {"n": 1_000}])
    assert looked_at.is_sealed_up()
    with layout.journal("gw1", segment).open("ab") as file:
        # The next event, as far as it has been written.
        file.write(JournalReader(Path(file.name)).header.marker + bytes(40))
    assert not looked_at.is_sealed_up()


@pytest.fixture
def synthetic_server(tmp_path: Path) -> Iterator[Target]:
    """The server that answers as fast as its socket takes it."""
    with synthetic.running(tmp_path) as (port, _):
        yield Target(name="direct", port=port, user="bench", password="", database="synthetic")


def test_the_drain_counts_every_byte_of_an_answer(synthetic_server: Target) -> None:
    found = bulk.moved(
        synthetic_server,
        "counted",
        partial(bulk.read, statement="SELECT blocks 2", answer="SELECT 400000"),
        cell="synthetic",
        rows=400_000,
    )
    description, complete, ready = 7 + 21 + 23, 5 + len("SELECT 400000") + 1, 6
    assert found.moved == description + 2 * len(row_block()) + complete + ready


def test_an_answer_of_other_rows_is_refused(synthetic_server: Target) -> None:
    ask = partial(bulk.read, statement="SELECT blocks 1", answer="SELECT 200001")
    with pytest.raises(ValueError, match="SELECT 200001"):
        bulk.moved(synthetic_server, "other", ask, cell="synthetic", rows=200_001)


def test_figures_stand_only_on_an_archive_that_has_all_and_verifies(
    synthetic_server: Target, gateway: GatewayFactory, issuer: IdentityProvider
) -> None:
    running = gateway(
        {
            "name": "synthetic",
            "address": f"127.0.0.1:{synthetic_server.port}",
            "database": "synthetic",
            "user": "bench",
            "require_auth": ["none"],
            "tls": "disable",
            "groups": ["data-agents"],
        },
        durability="relaxed",
    )
    target = replace(
        synthetic_server,
        name="relaxed",
        port=running.port,
        password=issuer.token("bench", ["data-agents"]),
        pid=running.pid,
        archive=Archive(running.archive),
    )
    found = bulk.moved(
        target,
        "recorded",
        partial(bulk.read, statement="SELECT blocks 1", answer="SELECT 200000"),
        cell="synthetic",
        rows=200_000,
    )
    assert found.cpu_s > 0
    assert found.sealing_s > 0
    running.terminate()
    key = running.verifier_key
    assert not [*faults(running.archive, key, [found])]
    assert [*faults(running.archive, key, [replace(found, executions=2)])] == [
        "synthetic, recorded: 2 executions by the client's count, 1 are recorded"
    ]
    (events,) = running.archive.glob("events/**/*.parquet")
    data = bytearray(events.read_bytes())
    data[len(data) // 2] ^= 1
    events.write_bytes(data)
    assert "verify --deep says False" in [*faults(running.archive, key, [])]


@pytest.mark.full
@pytest.mark.timeout(600)
def test_a_quick_run_ends_with_proven_counts_and_a_table() -> None:
    few = [] if tries.IS_WHOLE else ["--clients", "8", "--protocols", "simple", "prepared"]
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", *few],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "| pgbench -S simple 8, relaxed: of pgbouncer | ≥ 0.75 |" in result.stdout
    assert "verify --deep: yes" in result.stdout


# --- the archive of made-up traffic ---------------------------------------------------------------


def made_up(events: int, *, seed: int = 1) -> Traffic:
    return Traffic(
        events,
        gateway="gw1",
        seed=seed,
        wire_mean=WIRE_MEAN,
        people=lambda user: f"hmac of {user}",
    )


def journals(folder: Path, *, seed: int = 1) -> list[bytes]:
    """Write a gateway's traffic as three journals; return their bytes."""
    folder.mkdir()
    traffic = made_up(3_000, seed=seed)
    paths = [folder / str(number) for number in range(3)]
    for path in paths:
        traffic.write_journal(path, 1_000)
    return [path.read_bytes() for path in paths]


def test_the_same_seed_makes_the_same_journals(tmp_path: Path) -> None:
    first = journals(tmp_path / "first")
    assert first == journals(tmp_path / "second")
    assert first != journals(tmp_path / "other", seed=2)


def test_made_up_traffic_is_whole_sessions_interleaved_with_canonical_rows(tmp_path: Path) -> None:
    journals(tmp_path / "made")
    entries: list[Entry] = []
    for number in range(3):
        entries += JournalReader(tmp_path / "made" / str(number)).read()
    assert [entry.event_no for entry in entries] == list(range(3_000))
    sessions: dict[bytes, list[Entry]] = {}
    for entry in entries:
        sessions.setdefault(entry.session_id, []).append(entry)
    for session in sessions.values():
        assert [entry.seq for entry in session] == list(range(len(session)))
        assert session[0].kind == Kind.SESSION_OPEN
        assert session[-1].kind == Kind.SESSION_CLOSE
    neighbours = pairwise(entries)
    assert sum(one.session_id != other.session_id for one, other in neighbours) > 1_500
    rows = [entry.payload or b"" for entry in entries if entry.kind == Kind.COMMAND_END]
    assert len(rows) > 900
    assert all(canonical.encode(canonical.decode(row)) == row for row in rows)


def test_all_payloads_have_the_mean_that_is_promised(tmp_path: Path) -> None:
    traffic = made_up(20_000)
    traffic.write_journal(tmp_path / "journal", 20_000)
    assert traffic.totals.payload_bytes / traffic.totals.events == pytest.approx(MEAN, rel=0.05)


def test_what_passes_on_the_wire_has_the_lengths_that_are_promised() -> None:
    lengths = [len(payload) for payload in wire_payloads(1, 20_000)]
    hundredths = quantiles(lengths, n=100)
    assert mean(lengths) == pytest.approx(MEAN, rel=0.05)
    assert hundredths[49] == pytest.approx(151, rel=0.05)
    assert hundredths[89] == pytest.approx(844, rel=0.1)
    assert hundredths[98] == pytest.approx(2_600, rel=0.15)


def test_an_archive_is_measured_only_as_long_as_it_verifies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["--repeats", "1", "--seconds", "0.2", "--json", str(tmp_path / "figures.json")]
    size = ["--events", "2000", "--segment-events", "800", "--dir", str(tmp_path), "--keep"]
    assert archive.main([*size, *short]) == 0
    printed = capsys.readouterr().out
    assert "| sealing, events a CPU-second | ≥ 200,000 |" in printed
    assert "2,000 events" in printed
    found = json.loads((tmp_path / "figures.json").read_text())["found"]
    assert found["deep"]["events"] == found["ask"]["found"]["events"] == 2_000
    assert found["record"]["events"] == found["record"]["expected"] > 16

    (kept,) = tmp_path.glob("agentaudit-bench-archive-*")
    events = sorted(kept.glob("archive/events/**/*.parquet"))
    assert len(events) == 3
    data = bytearray(events[1].read_bytes())
    data[len(data) // 2] ^= 1
    events[1].write_bytes(data)
    assert archive.main(["--again", str(kept), *short]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "no figures: verify --deep: " in captured.err
    assert events[1].name in captured.err


def test_a_disk_without_room_is_named_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = shutil.disk_usage(tmp_path).free // 100
    assert archive.main(["--events", str(events), "--dir", str(tmp_path)]) == 1
    assert "MiB are needed" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
