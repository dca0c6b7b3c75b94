"""Two gateways record into one archive while a notebook reads it."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import psycopg
import pytest

import agentaudit as aa
from agentaudit import cli
from agentaudit.demo.gateways import Gateway
from agentaudit.demo.processes import until
from tests.peers.gateway import GatewayFactory
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import PostgresPeer

ROUNDS = 25
STATEMENTS = 12

# The case is opened once, as people do, and again each time: both must see all that there is.
CELL = """
import json, pathlib, agentaudit
folder = pathlib.Path({folder!r})
standing = agentaudit.load(folder / "archive")
looks = []
while not (folder / "over").exists():
    for case in (standing, agentaudit.load(folder / "archive")):
        counts = [case.sql(f"SELECT count(*) FROM {{table}}").fetchall()[0][0]
                  for table in ("sessions", "commands", "events", "access")]
        ended = case.sql("SELECT count(*) FROM commands WHERE status = 'ok'").fetchall()[0][0]
        looks.append([*counts, ended])
        assert case.contradictions == (), case.contradictions
    with (folder / "looks").open("a") as told:
        told.write(".")
latest = standing.commands(target="orders").limit(1).fetchall()
session = standing.session(latest[0][0])
rows = session.result(session.count - 1).to_pylist()
(folder / "read.json").write_text(json.dumps([looks, rows]))
"""


def work(gateway: Gateway, token: str, names: list[str], errors: list[BaseException]) -> None:
    """Open sessions one after the other, each with a few statements of all sorts."""
    try:
        for turn in range(ROUNDS):
            with psycopg.connect(gateway.dsn("orders", token), autocommit=True) as connection:
                for number in range(STATEMENTS):
                    text = f"SELECT %s || repeat('x', {number * 900}), {turn}"
                    assert connection.execute(text, [names[number % 2]]).fetchall()
    except BaseException as error:
        errors.append(error)


def test_two_gateways_write_into_one_archive_while_a_notebook_reads_it(
    tmp_path: Path,
    gateway: GatewayFactory,
    postgres18: PostgresPeer,
    signing_issuer: SigningIssuer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    archive = tmp_path / "archive"
    both = [
        gateway(
            postgres18.target(),
            issuer=signing_issuer,
            name=name,
            archive=str(archive),
            segment_events=300,
        )
        for name in ("gw1", "gw2")
    ]
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(CELL.format(folder=str(tmp_path)))]
    )
    read: list[BaseException] = []

    def reader() -> None:
        try:
            nbclient.NotebookClient(notebook, timeout=100).execute()
        except BaseException as error:
            read.append(error)

    def count() -> int:
        seen = tmp_path / "looks"
        return seen.stat().st_size if seen.exists() else 0

    def looked(times: int) -> bool:
        assert not read, read
        return count() >= times

    reading = threading.Thread(target=reader, daemon=True)
    reading.start()
    until(lambda: looked(2), "the notebook reads")
    errors: list[BaseException] = []
    token = signing_issuer.token("ana")
    working = [
        threading.Thread(target=work, args=(one, token, ["a", "b"], errors), daemon=True)
        for one in both
    ]
    for thread in working:
        thread.start()
    for thread in working:
        thread.join()
    assert errors == []
    so_far = count()
    until(lambda: looked(so_far + 2), "the notebook reads on")
    (tmp_path / "over").touch()
    reading.join()
    assert not read, read

    looks, rows = json.loads((tmp_path / "read.json").read_text())
    for kind in zip(*looks, strict=True):
        assert list(kind) == sorted(kind)
    assert len({tuple(look) for look in looks}) > 4
    assert looks[-1][1] == looks[-1][4] == 2 * ROUNDS * STATEMENTS
    assert len(rows) == 1
    for one in both:
        one.terminate()

    keys = "\n".join(one.verifier_key for one in both)
    case = aa.load(archive)
    answer = case.verify(keys.split(), deep=True)
    assert (answer.ok, answer.findings, answer.gateways) == (True, [], 2)
    assert answer.segments > 6
    told = dict(
        case.sql(
            "SELECT gateway, count(*) FROM sessions WHERE target = 'orders' GROUP BY gateway"
        ).fetchall()
    )
    assert told == {"gw1": ROUNDS, "gw2": ROUNDS}

    assert cli.main(["retention", "plan", "--config", str(both[1].config), "--json"]) == 0
    plans: list[dict[str, Any]] = [
        json.loads(line) for line in capsys.readouterr().out.splitlines()
    ]
    assert [plan["gateway"] for plan in plans] == ["gw1", "gw2"]
