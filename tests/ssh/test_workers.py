"""Several processes behind one SSH port: each connection is one worker's, from its first byte."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest

import agentaudit as aa
from agentaudit.demo.processes import until
from tests.gateway.test_control import People
from tests.gateway.test_workers import NAMES, require_proven, worker_pids
from tests.peers.gateway import GatewayFactory
from tests.peers.issuers import SigningIssuer
from tests.peers.sshd import Sshd
from tests.ssh.client import OpenSsh, connected, make_key

REMOVALS = {
    "name": "removals need somebody",
    "when": {"protocol": ["ssh"], "operation": ["rm"]},
    "action": "hold",
    "approvers": ["dba"],
}


@pytest.fixture
def two(
    gateway: GatewayFactory, sshd: Sshd, signing_issuer: SigningIssuer, tmp_path: Path
) -> Iterator[tuple[People, OpenSsh]]:
    """A gateway with two workers, and a client whose tokens are taken at any of them."""
    make_key(tmp_path / "gateway_key")
    gw = gateway(
        sshd.target(),
        issuer=signing_issuer,
        listen={"ssh": "127.0.0.1:0", "control": "127.0.0.1:0"},
        limits={"actor_connections": 20, "preauth_connections": 20},
        tables={"rule": [REMOVALS], "roles": {"admin": ["root"]}},
        ssh_host_key_file=str(tmp_path / "gateway_key"),
        workers=2,
    )
    token = signing_issuer.token(groups=["data-agents"])
    client = OpenSsh.of(tmp_path, gw.ssh_port, token, tmp_path / "gateway_key")
    with contextlib.closing(People(gw, signing_issuer)) as people:
        yield people, client


async def soon(condition: Callable[[], Any], what: str) -> None:
    """Wait for what others do meanwhile, with the event loop free for them."""
    await asyncio.to_thread(until, condition, what)


async def test_sessions_are_shared_out_ended_and_decided_about_in_any_worker(
    two: tuple[People, OpenSsh], tmp_path: Path
) -> None:
    people, client = two
    gw, root = people.gw, people.reviewer("rita", "root")

    def live() -> list[dict[str, Any]]:
        return list(people.ask("GET", "/v1/sessions/live", root).json())

    async with contextlib.AsyncExitStack() as opened:
        connections = [await opened.enter_async_context(connected(client)) for _ in range(20)]
        said = await asyncio.gather(*(each.run(f"echo {n}") for n, each in enumerate(connections)))
        assert [each.stdout for each in said] == [f"{n}\n" for n in range(20)]
        await soon(lambda: len(live()) == 20, "all are seen")
        assert Counter(each["gateway"] for each in live()) == dict.fromkeys(NAMES, 10)
        # One more is too many, whichever worker it comes to.
        refused = await asyncio.to_thread(client.ssh, "true")
        assert (refused.returncode, b"as many sessions" in refused.stderr) == (254, True)

        held = []
        for number, connection in enumerate(connections[:2]):
            (tmp_path / f"gone-{number}").touch()
            command = f"rm {tmp_path}/gone-{number}"
            held.append(await connection.create_process(command))
        waiting = await asyncio.to_thread(people.pending, people.reviewer(), 2)
        assert all((tmp_path / f"gone-{number}").exists() for number in range(2))
        for request in waiting:
            answer = await asyncio.to_thread(people.decide, request, people.reviewer())
            assert answer.status_code == 200
        for process in held:
            assert (await process.wait()).exit_status == 0
        assert not any((tmp_path / f"gone-{number}").exists() for number in range(2))

        for name in NAMES:
            one = next(each for each in live() if each["gateway"] == name)
            path = f"/v1/sessions/{one['session_id']}?reason=enough"
            assert people.ask("DELETE", path, root).status_code == 202
        await soon(lambda: len(live()) == 18, "both have ended")
    gw.wait_until_idle()
    assert gw.terminate() == 0
    told = aa.load(gw.archive).sql(
        "SELECT gateway, gateway_port, count(*) FILTER (close_reason <> 'refused'),"
        " count(*) FILTER (close_reason = 'ended')"
        " FROM sessions WHERE protocol = 'ssh' GROUP BY ALL"
    )
    assert sorted(told.fetchall()) == [(name, client.port, 10, 1) for name in NAMES]
    require_proven(gw)


async def test_a_worker_that_dies_takes_its_own_sessions_and_comes_back_as_the_same_host(
    two: tuple[People, OpenSsh], tmp_path: Path
) -> None:
    people, client = two
    gw = people.gw
    # Whoever changes the key does so for all of the gateway: the next start takes it.
    (tmp_path / "gateway_key").unlink()
    make_key(tmp_path / "another")
    (tmp_path / "another").rename(tmp_path / "gateway_key")
    pids = worker_pids(gw)
    async with connected(client) as one, connected(client) as other:
        for connection in (one, other):
            assert (await connection.run("echo there")).stdout == "there\n"
        os.kill(pids[NAMES[0]], signal.SIGKILL)
        lived = []
        for connection in (one, other):
            with contextlib.suppress(asyncssh.Error, OSError):
                lived.append((await connection.run("echo here")).stdout)
        assert lived == ["here\n"]
        await soon(lambda: worker_pids(gw).get(NAMES[0], 0) not in (0, *pids.values()), "another")
        ready = "worker is ready"
        await soon(lambda: sum(x["event"] == ready for x in gw.log_lines()) == 3, "it is ready")
        async with connected(client) as third, connected(client) as fourth:
            for connection in (third, fourth):
                assert (await connection.run("echo again")).stdout == "again\n"
    gw.wait_until_idle(but=1)
    assert gw.terminate() == 0
    require_proven(gw)


async def test_what_runs_may_end_and_who_says_nothing_makes_room(
    two: tuple[People, OpenSsh],
) -> None:
    people, client = two
    gw = people.gw
    with contextlib.ExitStack() as idle:
        for _ in range(60):
            idle.enter_context(socket.create_connection(("127.0.0.1", client.port), timeout=30))
        assert (await asyncio.to_thread(client.ssh, "echo in")).stdout == b"in\n"
    async with connected(client) as one, connected(client) as other:
        running = [await each.create_process("echo on; read x; echo $x") for each in (one, other)]
        for process in running:
            assert await process.stdout.readline() == "on\n"
        gw.send(signal.SIGTERM)
        await soon(lambda: "stopping" in gw.log_text(), "it stops")
        with pytest.raises((asyncssh.Error, OSError)):
            await connected(client)
        for process in running:
            process.stdin.write("done\n")
            assert await process.stdout.readline() == "done\n"
            assert (await process.wait()).exit_status == 0
    assert gw.terminate() == 0
    require_proven(gw)
