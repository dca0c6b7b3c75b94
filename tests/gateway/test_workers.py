"""Several processes on one port, each with a log of its own: `[gateway] workers`."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

import agentaudit as aa
from agentaudit.archive.verify import verify
from agentaudit.client import local
from agentaudit.demo.gateways import Gateway
from agentaudit.demo.processes import PeerError, until, without_libpq_variables
from agentaudit.protocols import postgres_messages as wire
from tests.gateway.raw import Raw
from tests.gateway.recorded import read
from tests.gateway.test_crash import Busy
from tests.peers.gateway import GatewayFactory
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import DEBIAN_BINARIES, PostgresPeer

NAMES = ["gw1-1", "gw1-2"]


@pytest.fixture
def two(
    gateway: GatewayFactory, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> Gateway:
    return gateway(postgres18.target(), issuer=signing_issuer, workers=2)


def worker_pids(gw: Gateway) -> dict[str, int]:
    """Return the process of each worker that lives now, by the name of its log."""
    found = {}
    for child in psutil.Process(gw.pid).children():
        for sealer in child.children():
            for file in sealer.open_files():
                match = re.search(r"/journal/([^/]+)/lock$", file.path)
                if match is not None:
                    found[match[1]] = child.pid
    return found


def connect(gw: Gateway, token: str) -> psycopg.Connection[Any]:
    return psycopg.connect(gw.dsn("orders", token), autocommit=True)


def require_proven(gw: Gateway) -> None:
    answer = verify(gw.archive, key=gw.verifier_key, deep=True, remember=False)
    assert (answer.ok, answer.findings) == (True, [])


def test_connections_are_shared_out_evenly_and_each_is_in_the_log_of_its_worker(
    two: Gateway, signing_issuer: SigningIssuer
) -> None:
    token = signing_issuer.token("ana")
    mark = secrets.token_hex(8)
    with ExitStack() as opened:
        connections = [opened.enter_context(connect(two, token)) for _ in range(8)]
        for number, connection in enumerate(connections):
            assert connection.execute(f"SELECT '{mark}-{number}'").fetchone() == (
                f"{mark}-{number}",
            )
    two.wait_until_idle()
    port = two.port
    assert two.terminate() == 0

    case = aa.load(two.archive)
    told = case.sql(
        "SELECT gateway, gateway_port, count(*) FROM sessions WHERE target = 'orders' GROUP BY ALL"
    ).fetchall()
    assert sorted(told) == [(name, port, 4) for name in NAMES]
    texts = case.sql(f"SELECT text FROM commands WHERE text LIKE '%{mark}%'").fetchall()
    assert len(set(texts)) == 8
    require_proven(two)


def test_the_lines_of_a_worker_name_it(two: Gateway, signing_issuer: SigningIssuer) -> None:
    with connect(two, signing_issuer.token()), connect(two, signing_issuer.token()):
        pass

    def named(event: str) -> set[str]:
        return {line["gateway"] for line in two.log_lines() if line["event"] == event}

    until(lambda: named("session opened") == set(NAMES), "both workers say that they serve")
    two.wait_until_idle()
    (listening,) = [line for line in two.log_lines() if line["event"] == "listening"]
    assert (listening["gateway"], listening["port"]) == ("gw1", two.port)


def test_one_file_of_keys_is_enough_for_who_verifies(
    two: Gateway, signing_issuer: SigningIssuer
) -> None:
    with connect(two, signing_issuer.token()):
        pass
    two.terminate()
    shared = (two.directory / "keys" / "gw1.vkey").read_text()
    assert verify(two.archive, key=shared, deep=True, remember=False).ok
    of_one = (two.directory / "keys" / "gw1-1.vkey").read_text()
    answer = verify(two.archive, key=of_one, remember=False)
    assert (answer.ok, answer.unknown_signers) == (None, ["gw1-2"])


# --- cancelling


def interrupted(dsn: str, direct: psycopg.Connection[Any]) -> str:
    """Press Ctrl-C at psql while its statement runs; return what it says."""
    mark = secrets.token_hex(8)
    psql = subprocess.Popen(
        [DEBIAN_BINARIES / "psql", "--no-psqlrc", dsn, "-c", f"SELECT pg_sleep(60), '{mark}'"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=without_libpq_variables(),
    )

    def runs() -> bool:
        found = direct.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active'"
            " AND pid <> pg_backend_pid() AND query LIKE %s",
            [f"%{mark}%"],
        ).fetchone()
        return found == (1,)

    until(runs, "the statement runs")
    psql.send_signal(signal.SIGINT)
    return psql.communicate(timeout=60)[1]


def test_a_cancel_of_psql_reaches_its_session_whichever_worker_gets_it(
    two: Gateway, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    dsn = two.dsn("orders", signing_issuer.token("ana"))
    tries = 12
    told: list[str] = []
    with ExitStack() as opened, postgres18.connect() as direct:
        for _ in range(tries // 2):
            told.append(interrupted(dsn, direct))
            two.wait_until_idle()
        # One worker gets two more than the other: what comes now, requests to cancel included,
        # goes to the other, whose sessions these are.
        first, second, third = (psycopg.connect(dsn) for _ in range(3))
        opened.enter_context(first)
        opened.enter_context(third)
        second.close()
        two.wait_until_idle(but=2)
        for _ in range(tries // 2):
            told.append(interrupted(dsn, direct))
            two.wait_until_idle(but=2)
    assert [line for line in told if "canceling statement due to user request" not in line] == []
    two.wait_until_idle()
    two.terminate()
    recorded = read(two.archive)
    cancelled = [row for row in recorded.commands if row["status"] == "cancelled"]
    requests = [
        event for event in recorded.events if (event["text"] or "").startswith("cancel request")
    ]
    assert len(cancelled) == len(requests) == tries
    # Of each worker's sessions some were cancelled, by way of the other and directly.
    assert set(Counter(event["gateway"] for event in requests)) == set(NAMES)


def test_a_key_that_no_worker_knows_is_counted_and_cancels_nothing(
    two: Gateway, signing_issuer: SigningIssuer
) -> None:
    with connect(two, signing_issuer.token()) as ana:
        pid = ana.info.backend_pid
        for last in range(4):  # of either worker, twice
            with Raw(two) as stranger:
                request = wire.cancel_request(pid, bytes([0, 0, 0, last]))
                assert stranger.say(request).hear_until_closed() == b""
        assert ana.execute("SELECT 1").fetchone() == (1,)
    two.terminate()
    refusals = " ".join(read(two.archive).refusals())
    assert sum(map(int, re.findall(r"unknown cancel key: (\d+)", refusals))) == 4


# --- limits


def test_a_users_connections_are_counted_over_all_workers_and_a_dead_ones_are_free(
    gateway: GatewayFactory, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw = gateway(
        postgres18.target(), issuer=signing_issuer, workers=2, limits={"actor_connections": 4}
    )
    token = signing_issuer.token("ana")
    with ExitStack() as opened:
        for _ in range(4):
            opened.enter_context(connect(gw, token))
        for _ in range(4):  # whichever worker it comes to
            with pytest.raises(psycopg.OperationalError, match="as many sessions as you may"):
                connect(gw, token)
        connect(gw, signing_issuer.token("ben")).close()

        os.kill(worker_pids(gw)["gw1-1"], signal.SIGKILL)
        until(lambda: gw.log_text().count('"worker is ready"') == 3, "another worker is there")
        for _ in range(2):
            opened.enter_context(connect(gw, token))
        with pytest.raises(psycopg.OperationalError, match="as many sessions as you may"):
            connect(gw, token)


def test_anonymous_connections_are_counted_over_all_workers(
    gateway: GatewayFactory, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw = gateway(
        postgres18.target(), issuer=signing_issuer, workers=2, limits={"preauth_connections": 6}
    )
    with ExitStack() as opened:
        idle = [opened.enter_context(Raw(gw)) for _ in range(6)]
        for client_ in idle:
            client_.say(wire.ssl_request())
            assert client_.hear_byte() == b"N"
        with connect(gw, signing_issuer.token()) as ana:
            assert ana.execute("SELECT 1").fetchone() == (1,)
        ended = [one for one in idle if one.has_been_closed()]
        assert len(ended) == 1


# --- a worker that dies


def test_kill_9_of_a_worker_under_load_loses_nothing_acknowledged_and_the_rest_goes_on(
    gateway: GatewayFactory, own_postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    server = own_postgres18
    server.execute("CREATE TABLE crash (marker text)", "GRANT ALL ON crash TO PUBLIC")
    server.execute("CREATE TABLE crash (marker text)", database=server.database)
    server.execute("GRANT ALL ON crash TO PUBLIC", database=server.database)
    gw = gateway(server.target(), issuer=signing_issuer, workers=2)
    mark = secrets.token_hex(8)
    users = [f"{mark}-{number}" for number in range(10)]
    busy = [Busy(gw.host, gw.port, signing_issuer.token(user), user) for user in users]
    until(lambda: all(one.answered >= 5 for one in busy), "all are under way")

    os.kill(worker_pids(gw)["gw1-2"], signal.SIGKILL)

    until(lambda: sum(not one.is_alive for one in busy) == 5, "its sessions are over")
    left = [one for one in busy if one.is_alive]
    before = [one.answered for one in left]
    until(lambda: gw.log_text().count('"worker is ready"') == 3, "another worker is there")
    until(
        lambda: all(one.answered > so_far for one, so_far in zip(left, before, strict=True)),
        "the other worker's sessions go on",
    )
    with connect(gw, signing_issuer.token("ben")) as new:
        assert new.execute("SELECT 1").fetchone() == (1,)
    for one in left:
        one.hang_up()
    gw.wait_until_idle(but=5)
    assert gw.terminate() == 0

    require_proven(gw)
    recorded = read(gw.archive)
    texts = Counter(event["text"] for event in recorded.events if event["kind"] == "request")
    ran = [one.text for one in server.logged(mark)]
    assert len(ran) > 50
    assert [text for text in ran if text not in texts] == []
    reasons = Counter(
        row["close_reason"] for row in recorded.sessions if row["user"].startswith(mark)
    )
    assert reasons["gateway_crash"] == 5
    (ended,) = [line for line in gw.log_lines() if line["event"].startswith("worker ended")]
    assert (ended["gateway"], ended["status"]) == ("gw1-2", -signal.SIGKILL)


def test_a_connection_that_a_worker_dies_over_ends_at_once(two: Gateway) -> None:
    pid = worker_pids(two)["gw1-1"]
    (sealer,) = psutil.Process(pid).children()
    os.kill(pid, signal.SIGSTOP)
    sealer.suspend()  # so that it outlives the worker
    with Raw(two) as unread:
        os.kill(pid, signal.SIGKILL)
        assert unread.hear_until_closed() == b""
    sealer.resume()
    until(lambda: two.log_text().count('"worker is ready"') == 3, "another worker is there")


def test_a_worker_that_cannot_record_gets_no_connections_while_another_can(
    two: Gateway, signing_issuer: SigningIssuer
) -> None:
    (sealer,) = psutil.Process(worker_pids(two)["gw1-1"]).children()
    sealer.kill()
    until(lambda: '"recording failed"' in two.log_text(), "it is noticed")
    with ExitStack() as opened:
        for _ in range(4):
            ana = opened.enter_context(connect(two, signing_issuer.token()))
            assert ana.execute("SELECT 1").fetchone() == (1,)
    two.wait_until_idle()
    assert two.terminate() == 1
    two.start()
    two.terminate()
    require_proven(two)


def test_the_workers_of_a_killed_supervisor_drain_and_seal(
    two: Gateway, signing_issuer: SigningIssuer
) -> None:
    with connect(two, signing_issuer.token()) as ana:
        ana.execute("SELECT 1")
        workers = [psutil.Process(pid) for pid in worker_pids(two).values()]
        assert len(workers) == 2
        two.kill9()
        psutil.wait_procs(workers, timeout=60)
        assert [one for one in workers if one.is_running()] == []
        with pytest.raises(psycopg.OperationalError, match="shutting down"):
            ana.execute("SELECT 2")
    assert list(two.archive.glob("journal/*/*.journal")) == []
    require_proven(two)
    assert {row["close_reason"] for row in read(two.archive).sessions} == {"shutdown"}
    two.start()


# --- starting, reloading, stopping


def test_sigterm_lets_a_transaction_end_and_sessions_of_all_workers_are_told(
    two: Gateway, signing_issuer: SigningIssuer
) -> None:
    token = signing_issuer.token()
    with connect(two, token) as busy, connect(two, token) as idle:
        busy.execute("BEGIN")
        two.send(signal.SIGTERM)
        until(lambda: two.log_text().count('"session closed"') == 1, "the idle session ends")
        with pytest.raises(psycopg.OperationalError, match="shutting down"):
            idle.execute("SELECT 1")
        assert busy.execute("SELECT 1").fetchone() == (1,)
        busy.execute("COMMIT")
        assert two.wait() == 0
    require_proven(two)
    assert list(two.archive.glob("journal/*/*.journal")) == []


def test_a_reload_reaches_all_workers(
    gateway: GatewayFactory, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw = gateway(postgres18.target(groups=["data-agents"]), issuer=signing_issuer, workers=3)
    gw.config.write_text(gw.config.read_text().replace('"data-agents"', '"others"'))

    gw.send(signal.SIGHUP)

    until(lambda: gw.log_text().count('"reloaded"') == 3, "all have reloaded")
    for _ in range(6):
        with pytest.raises(psycopg.OperationalError, match="no group"):
            connect(gw, signing_issuer.token("ana", ["data-agents"]))


def test_a_worker_that_starts_again_has_the_settings_of_now_in_the_archive_of_before(
    gateway: GatewayFactory, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw = gateway(postgres18.target(groups=["data-agents"]), issuer=signing_issuer, workers=2)
    changed = gw.config.read_text().replace('"data-agents"', '"others"')
    gw.config.write_text(changed.replace('name = "gw1"', 'name = "gw7"'))
    for pid in worker_pids(gw).values():
        os.kill(pid, signal.SIGKILL)
    until(lambda: gw.log_text().count('"worker is ready"') == 4, "others are there")

    with pytest.raises(psycopg.OperationalError, match="no group"):
        connect(gw, signing_issuer.token("ana", ["data-agents"]))
    with connect(gw, signing_issuer.token("ana", ["others"])):
        assert local.running(gw.archive) == NAMES


def test_a_worker_without_keys_ends_the_start_in_its_words(
    gateway: GatewayFactory, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw = gateway(postgres18.target(), issuer=signing_issuer, workers=2, start=False)
    (gw.directory / "keys" / "gw1-2.key").unlink()

    with pytest.raises(PeerError, match="exit status 2"):
        gw.start()

    assert f"agentaudit: log key {gw.directory}/keys/gw1-2.key: No such file" in gw.log_text()
    assert local.running(gw.archive) == []


def test_a_tampered_log_of_one_worker_ends_the_start(
    two: Gateway, signing_issuer: SigningIssuer
) -> None:
    with connect(two, signing_issuer.token()), connect(two, signing_issuer.token()):
        pass
    two.terminate()
    old = two.archive / "log" / "gw1-2" / "checkpoint"
    lines = old.read_text().splitlines(keepends=True)
    old.write_text("".join(lines[:1] + ["1\n"] + lines[2:]))

    with pytest.raises(PeerError, match="exit status 2"):
        two.start()

    assert "gw1-2 does not fit its text" in two.log_text()
    assert local.running(two.archive) == []


def test_a_gateway_with_fewer_workers_seals_what_the_others_left(
    gateway: GatewayFactory, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gw = gateway(postgres18.target(), issuer=signing_issuer, workers=2)
    with connect(gw, signing_issuer.token()), connect(gw, signing_issuer.token()):
        workers = [psutil.Process(pid) for pid in worker_pids(gw).values()]
        family = [*workers, *(child for one in workers for child in one.children())]
        for one in workers:
            one.kill()
        gw.kill9()
        psutil.wait_procs(family, timeout=60)
    assert len(list(gw.archive.glob("journal/gw1-*/*.journal"))) == 2
    text = gw.config.read_text()
    assert "workers = 2\n" in text
    gw.config.write_text(text.replace("workers = 2\n", "workers = 1\n"))
    subprocess.run(
        ["agentaudit", "keygen", "--config", gw.config],
        env=os.environ | {"PATH": f"{Path(os.sys.executable).parent}:{os.environ['PATH']}"},
        check=True,
        capture_output=True,
    )

    gw.start()
    with connect(gw, signing_issuer.token()):
        pass
    gw.wait_until_idle(but=2)
    gw.terminate()

    key = (gw.directory / "keys" / "gw1.vkey").read_text()
    answer = verify(gw.archive, key=key, deep=True, remember=False)
    assert (answer.ok, answer.findings, answer.gateways) == (True, [], 3)
    assert {row["close_reason"] for row in read(gw.archive).sessions if row["user"]} == {
        "gateway_crash",
        "client",
    }
