"""Protocol 3.0, 3.2 and what is newer, on both sides, and the cancel keys that go with them."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest

from agentaudit.demo.processes import until
from agentaudit.gateway.cancelling import CancelKeys, CancelRoute
from agentaudit.protocols import postgres_messages as wire
from tests.gateway.hosted import Hosted, hosted
from tests.gateway.raw import Raw, error_fields, login_error
from tests.gateway.recorded import read
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import PostgresPeer
from tests.peers.pump import Pump, PumpFactory

GREASE = 3 << 16 | 9999
"""What PostgreSQL's clients ask for to see whether a server negotiates: 3.9999 is never spoken."""


def startup(version: int, **parameters: str) -> bytes:
    return wire.startup_message({"user": "agent", "database": "orders"} | parameters, version)


def typed(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return the messages in `data`, which begins with one."""
    return list(wire.MessageReader().feed(data))


def key_of(down: bytes) -> bytes:
    """Return the secret of the cancel key in what a server said."""
    (body,) = [body for kind, body in typed(down) if kind == b"K"]
    return body[4:]


def version_of(up: bytes) -> int:
    """Return the protocol that a client asked for."""
    (version,) = struct.unpack_from("!I", up, 4)
    return int(version)


@contextmanager
def between_pumps(
    tmp_path: Path, server: PostgresPeer, pump: PumpFactory, issuer: SigningIssuer
) -> Iterator[tuple[Hosted, Pump, Pump]]:
    back = pump(server.host, server.port)
    target = server.target(address=f"{back.host}:{back.port}")
    with hosted(tmp_path, target, issuer=issuer) as gateway:
        yield gateway, pump(gateway.host, gateway.port), back


def cancels_a_statement(connection: psycopg.Connection[Any]) -> None:
    """Cancel from another thread, with the key that the server gave."""

    def cancel() -> None:
        until(lambda: connection.pgconn.transaction_status == 1, "the statement is under way")
        connection.cancel_safe(timeout=30)

    canceller = threading.Thread(target=cancel, daemon=True)
    canceller.start()
    with pytest.raises(psycopg.errors.QueryCanceled):
        connection.execute("SELECT pg_sleep(60)")
    canceller.join()


@pytest.mark.parametrize(
    ("asked", "spoken", "key", "backend", "backend_key"),
    [("3.0", 30000, 4, 3 << 16, 4), ("3.2", 30002, 32, 3 << 16 | 2, 32)],
)
def test_libpq_18_speaks_the_protocol_that_it_asks_for_and_cancels(
    tmp_path: Path,
    postgres18: PostgresPeer,
    pump: PumpFactory,
    signing_issuer: SigningIssuer,
    asked: str,
    spoken: int,
    key: int,
    backend: int,
    backend_key: int,
) -> None:
    with between_pumps(tmp_path, postgres18, pump, signing_issuer) as (gateway, front, back):
        dsn = gateway.dsn(
            "orders",
            signing_issuer.token("ana"),
            port=front.port,
            sslmode="disable",
            min_protocol_version=asked,
            max_protocol_version=asked,
        )
        with psycopg.connect(dsn, autocommit=True) as connection:
            assert connection.pgconn.full_protocol_version == spoken
            cancels_a_statement(connection)
            assert connection.execute("SELECT 1").fetchone() == (1,)
        front.wait_until_closed()
        back.wait_until_closed()
        ours, servers = key_of(front.wires[0].down), key_of(back.wires[0].down)
        assert (len(ours), len(servers)) == (key, backend_key)
        assert ours != servers
        assert version_of(back.wires[0].up) == backend
        # The cancel requests, each on a connection of its own: the client's key never goes on.
        assert bytes(front.wires[1].up).endswith(ours)
        assert bytes(back.wires[1].up).endswith(servers)
        gateway.close()
    recorded = read(gateway.archive)
    session = recorded.session(user="ana")
    assert [row["status"] for row in recorded.commands_of(session)] == ["cancelled", "ok"]
    assert any("cancel request from" in (e["text"] or "") for e in recorded.of(session))


def test_a_client_of_3_2_has_it_in_front_of_a_server_of_3_0(
    tmp_path: Path, postgres15: PostgresPeer, pump: PumpFactory, signing_issuer: SigningIssuer
) -> None:
    with between_pumps(tmp_path, postgres15, pump, signing_issuer) as (gateway, front, back):
        dsn = gateway.dsn(
            "orders",
            signing_issuer.token(),
            port=front.port,
            sslmode="disable",
            min_protocol_version="3.2",
        )
        with psycopg.connect(dsn, autocommit=True) as connection:
            assert connection.pgconn.full_protocol_version == 30002
            cancels_a_statement(connection)
        front.wait_until_closed()
        back.wait_until_closed()
        assert len(key_of(front.wires[0].down)) == 32
        assert version_of(back.wires[0].up) == wire.PROTOCOL_3_2
        # The server negotiates, and its client must not hear of it.
        assert typed(back.wires[0].down)[0] == (b"v", b"\0\3\0\0\0\0\0\0")
        assert b"v" not in [kind for kind, _ in typed(front.wires[0].down)]
        assert len(key_of(back.wires[0].down)) == 4


def test_asyncpg_cancels_by_a_key_of_3_0(
    tmp_path: Path, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    async def work(gateway: Hosted) -> int:
        connection = await asyncpg.connect(
            host=gateway.host,
            port=gateway.port,
            database="orders",
            user="agent",
            password=signing_issuer.token(),
        )
        with pytest.raises(asyncio.TimeoutError):
            await connection.execute("SELECT pg_sleep(60)", timeout=0.2)
        value: int = await connection.fetchval("SELECT 42")
        await connection.close()
        return value

    with hosted(tmp_path, postgres18.target(), issuer=signing_issuer) as gateway:
        assert asyncio.run(work(gateway)) == 42


@pytest.mark.parametrize(
    "packet",
    [
        startup(GREASE),
        startup(GREASE, **{"_pq_.first": "1", "_pq_.second": ""}),
        startup(wire.PROTOCOL_3_2, **{"_pq_.first": "1"}),
        startup(wire.PROTOCOL_3_0, **{"_pq_.first": "1"}),
        startup(3 << 16 | 1, **{"_pq_.first": "1"}),
        startup(wire.PROTOCOL_3_0),
        startup(wire.PROTOCOL_3_2),
    ],
    ids=["grease", "grease and options", "3.2 and option", "3.0 and option", "3.1", "3.0", "3.2"],
)
def test_the_protocol_is_negotiated_as_postgresql_18_does(
    tmp_path: Path, postgres18: PostgresPeer, signing_issuer: SigningIssuer, packet: bytes
) -> None:
    def first_words(server: Any) -> bytes:
        """Return what is said before the proof is asked for."""
        said = b""
        with Raw(server) as client:
            client.say(packet)
            while True:
                kind, body = client.hear_one()
                if kind != b"v":
                    assert kind in b"RE"
                    return said
                said += wire.frame(kind, body)

    with hosted(tmp_path, postgres18.target(), issuer=signing_issuer) as gateway:
        assert first_words(gateway) == first_words(postgres18)


def test_whoever_asks_for_something_newer_gets_the_newest_that_is_spoken(
    tmp_path: Path, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    with (
        hosted(tmp_path, postgres18.target(), issuer=signing_issuer) as gateway,
        Raw(gateway) as client,
    ):
        client.say(startup(GREASE, **{"_pq_.odd": "x", "options": "-c work_mem=7MB"}))
        assert client.hear_one() == (b"v", b"\0\3\0\2\0\0\0\1_pq_.odd\0")
        client.hear_one()
        client.say(wire.password_message(signing_issuer.token()))
        heard = {}
        while b"Z" not in heard:
            kind, body = client.hear_one()
            heard[kind] = body
        assert len(heard[b"K"]) == 4 + 32
        # What a server does not know it is not asked for.
        client.say(wire.frame(b"Q", b"SHOW work_mem\0"))
        while (message := client.hear_one())[0] != b"D":
            pass
        assert message[1].endswith(b"7MB")


def test_only_the_whole_key_cancels(
    tmp_path: Path, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    with hosted(tmp_path, postgres18.target(), issuer=signing_issuer) as gateway:
        with Raw(gateway) as client:
            client.say(startup(wire.PROTOCOL_3_2)).hear_one()
            client.say(wire.password_message(signing_issuer.token("ana")))
            heard = {}
            while b"Z" not in heard:
                kind, body = client.hear_one()
                heard[kind] = body
            pid, secret = wire.decode_backend_key_data(heard[b"K"])
            wrong = [
                (pid, secret[:-1]),
                (pid, secret[:4]),
                (pid, secret + b"\0"),
                (pid, bytes(32)),
                (pid, b"x" * 256),
                (pid + 1, secret),
                (0, secret),
            ]
            client.say(wire.frame(b"Q", b"SELECT pg_sleep(60)\0"))
            for key in wrong:
                with Raw(gateway) as canceller:
                    assert canceller.say(wire.cancel_request(*key)).hear_until_closed() == b""
            # A cancel that overtakes its query is lost, as with any server.
            sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
            with postgres18.connect(autocommit=True) as direct:
                until(lambda: direct.execute(sleeping).fetchone() == (1,), "the query runs")
            with Raw(gateway) as canceller:
                canceller.say(wire.cancel_request(pid, secret))
                assert canceller.hear_until_closed() == b""
            while (message := client.hear_one())[0] != b"E":
                pass
            assert b"C57014" in message[1]
        gateway.close()
    (counts,) = read(gateway.archive).refusals()
    assert f"unknown cancel key: {len(wrong)}" in counts


def test_keys_of_two_servers_with_one_process_id_are_told_apart() -> None:
    keys = CancelKeys()
    routes = [CancelRoute(None, 7, n.to_bytes(2, "big"), None) for n in range(300)]  # type: ignore[arg-type]
    secrets = [keys.add(route, wire.PROTOCOL_3_2) for route in routes]
    short = keys.add(routes[0], wire.PROTOCOL_3_0)

    assert [keys.find(7, secret) for secret in secrets] == routes
    assert keys.find(7, short) is routes[0]
    assert (len(short), {len(secret) for secret in secrets}) == (4, {32})

    for secret in [*secrets, short, short]:
        keys.remove(7, secret)
    assert len(keys) == 0
    assert keys.find(7, short) is None


# --- servers that do not speak what they are asked for


@contextmanager
def scripted(*answers: Callable[[socket.socket, bytes], None]) -> Iterator[tuple[str, list[bytes]]]:
    """Be a server whose connections go as `answers` say; yield its address and what it heard."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(30)
                    heard.append(connection.recv(65536))
                    answer(connection, heard[-1])

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", heard
        thread.join(30)


def refuses(code: str) -> Callable[[socket.socket, bytes], None]:
    def answer(connection: socket.socket, packet: bytes) -> None:
        message = "unsupported frontend protocol 3.2: server supports 2.0 to 3.0"
        connection.sendall(wire.error_response(code=code, message=message))

    return answer


def lets_in(*before: bytes, key: bytes = b"abcd") -> Callable[[socket.socket, bytes], None]:
    def answer(connection: socket.socket, packet: bytes) -> None:
        connection.sendall(
            b"".join(before)
            + wire.authentication_ok()
            + wire.backend_key_data(1, key)
            + wire.ready_for_query()
        )
        while connection.recv(65536):
            pass

    return answer


def target_at(address: str) -> dict[str, Any]:
    return {
        "name": "orders",
        "address": address,
        "database": "orders",
        "user": "u",
        "tls": "disable",
        "require_auth": ["none"],
        "groups": ["data-agents"],
    }


@pytest.mark.parametrize("code", ["0A000", "08P01"])
def test_a_server_that_refuses_3_2_is_asked_for_3_0(
    tmp_path: Path, signing_issuer: SigningIssuer, code: str
) -> None:
    with (
        scripted(refuses(code), lets_in()) as (address, heard),
        hosted(tmp_path, target_at(address), issuer=signing_issuer) as gateway,
    ):
        dsn = gateway.dsn("orders", signing_issuer.token(), min_protocol_version="3.2")
        with psycopg.connect(dsn) as connection:
            assert connection.pgconn.full_protocol_version == 30002
        assert [version_of(packet) for packet in heard] == [wire.PROTOCOL_3_2, wire.PROTOCOL_3_0]


def test_a_server_that_refuses_3_0_as_well_is_not_asked_again(
    tmp_path: Path, signing_issuer: SigningIssuer
) -> None:
    with (
        scripted(refuses("0A000"), refuses("0A000")) as (address, _),
        hosted(tmp_path, target_at(address), issuer=signing_issuer) as gateway,
        Raw(gateway) as client,
    ):
        client.say(startup(wire.PROTOCOL_3_2)).hear_one()
        client.say(wire.password_message(signing_issuer.token()))
        error = error_fields(client.hear_until_closed())
        assert (error["C"], "SQLSTATE 0A000" in error["M"]) == ("08004", True)


NEGOTIATIONS = {
    "one that was not asked for": ((wire.negotiate_protocol_version(wire.PROTOCOL_3_0),), b"abcd"),
    "a newer one": ((wire.negotiate_protocol_version(3 << 16 | 3),), b"abcd"),
    "an older major": ((wire.negotiate_protocol_version(2 << 16),), b"abcd"),
    "options": ((wire.negotiate_protocol_version(3 << 16, ["_pq_.x"]),), b"abcd"),
    "a long key in 3.0": ((), b"x" * 32),
}


@pytest.mark.parametrize("name", NEGOTIATIONS)
def test_a_server_that_negotiates_wrongly_is_at_fault(
    tmp_path: Path, signing_issuer: SigningIssuer, name: str
) -> None:
    before, key = NEGOTIATIONS[name]
    with (
        scripted(lets_in(*before, key=key)) as (address, _),
        hosted(tmp_path, target_at(address), issuer=signing_issuer) as gateway,
    ):
        error = login_error(gateway, signing_issuer.token())
    assert error["C"] == "08006"
    assert "the target: " in error["M"]
