"""The soak says no when something is missing, and a minute of it says yes."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.peers.serverlog import Line
from tests.soak import ssh
from tests.soak.__main__ import main
from tests.soak.accounts import (
    Archived,
    Row,
    against_clients,
    against_pgbench,
    against_server,
)
from tests.soak.samples import MIB, Sample, trend
from tests.soak.traffic import Bench

RAN = "duration: 0.1 ms  "


def archived(**outcomes: str) -> Archived:
    """Return what an archive says of executions; `a1_7="ok"` is that of soak:a1-7."""
    made = Archived.__new__(Archived)
    made.rows = {f"soak:{name.replace('_', '-')}": [Row(o, "")] for name, o in outcomes.items()}
    made.benches = {("pgbench-1", "select-only"): 10}
    return made


def line(message: str, *, query: str = "", sqlstate: str = "00000", detail: str = "") -> Line:
    severity = "LOG" if sqlstate == "00000" else "ERROR"
    return Line("a1", 1, severity, sqlstate, message, detail, query, "")


@pytest.mark.parametrize(
    ("told", "problems"),
    [
        ({"soak:a1-1": "ok", "soak:a1-2": "22012", "soak:a1-3": "skipped"}, 0),
        ({"soak:a1-4": "ok"}, 1),
        ({"soak:a1-1": "22012"}, 1),
        ({"soak:a1-3": "ok"}, 1),
    ],
)
def test_an_answer_without_its_row_is_a_problem(told: dict[str, str], problems: int) -> None:
    rows = archived(a1_1="ok", a1_2="22012", a1_3="incomplete")

    assert len(list(against_clients(rows, told))) == problems


def test_an_execution_that_is_recorded_twice_is_a_problem() -> None:
    rows = archived(a1_1="ok")
    rows.rows["soak:a1-1"] *= 2

    assert len(list(against_clients(rows, {"soak:a1-1": "ok"}))) == 1


@pytest.mark.parametrize(
    ("lines", "problems"),
    [
        ([line(f"{RAN}statement: SELECT 'soak:a1-1'")], 0),
        ([line(f"{RAN}execute s: SELECT $1", detail="Parameters: $1 = 'soak:a1-1'")], 0),
        ([], 1),
        ([line("no", query="SELECT 'soak:a1-1'", sqlstate="22012")], 1),
        ([line(f"{RAN}statement: SELECT 'soak:a1-{n}'") for n in (1, 2)], 1),
    ],
)
def test_what_the_server_ran_and_the_archive_does_not_hold_is_a_problem(
    lines: list[Line], problems: int
) -> None:
    assert len(list(against_server(archived(a1_1="ok"), lines))) == problems


def test_a_transaction_of_pgbenchs_without_its_row_is_a_problem() -> None:
    bench = Bench("pgbench-1", "select-only", 10)

    assert list(against_pgbench(archived(), [bench])) == []
    assert len(list(against_pgbench(archived(), [Bench("pgbench-1", "select-only", 11)]))) == 1


def samples_of(value: Callable[[int], float]) -> list[Sample]:
    return [Sample(float(at), int(value(at)), 0, 0, 0, 0) for at in range(1, 3601)]


def test_a_slope_is_a_leak_and_noise_is_none() -> None:
    noise = random.Random(4)
    flat = samples_of(lambda at: 100 * MIB + noise.randrange(20 * MIB) + (at == 1800) * 90 * MIB)
    leaking = samples_of(lambda at: 100 * MIB + noise.randrange(20 * MIB) + at * 16 * 1024)
    warming = samples_of(lambda at: min(100, 20 + at) * MIB)

    def is_flat(samples: list[Sample]) -> bool:
        return trend(samples, lambda one: one.resident).is_flat(floor=16 * MIB, share=0.1)

    assert [is_flat(one) for one in (flat, leaking, warming)] == [True, False, True]
    assert trend(leaking, lambda one: one.resident).growth == pytest.approx(42 * MIB, rel=0.1)


@pytest.mark.full
@pytest.mark.timeout(400)
def test_a_minute_of_everything_loses_nothing_and_leaks_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--minutes", "1"]) == 0, capsys.readouterr().out


def test_a_command_over_ssh_that_is_not_recorded_as_it_was_is_a_problem() -> None:
    row = ("exec", "ok", None, 10, 5)
    for found, problems in (
        ([row], 0),
        ([], 1),
        ([row, row], 1),
        ([("exec", "ok", None, 10, 4)], 1),
        ([("exec", "error", "1", 10, 5)], 1),
    ):
        assert len(list(ssh.unlike({"m": row}, {"m": found}))) == problems


@pytest.mark.full
@pytest.mark.timeout(400)
def test_half_a_minute_of_everything_over_ssh_loses_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ssh.main(["--minutes", "0.5", "--sessions", "8"]) == 0, capsys.readouterr().out
