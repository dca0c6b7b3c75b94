"""An agent that has logged in and means harm: memory stays bounded, and nobody else notices."""

from __future__ import annotations

import select
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest

from agentaudit.demo.gateways import Gateway
from agentaudit.demo.processes import until
from benchmarks.measure import peak_bytes
from tests.gateway.raw import error_fields
from tests.gateway.recorded import read
from tests.gateway.scripts import Speaker
from tests.peers.gateway import GatewayFactory
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import PostgresPeer
from tests.protocols import wire

MIB = 1 << 20
GROWTH = 96 * MIB
"""What one connection may make a gateway grow by, whatever it sends."""

HUGE = (1 << 30) - 1


@pytest.fixture
def gw(gateway: GatewayFactory, postgres18: PostgresPeer, signing_issuer: SigningIssuer) -> Gateway:
    return gateway(postgres18.target(), issuer=signing_issuer, durability="relaxed")


@contextmanager
def undisturbed(gw: Gateway, issuer: SigningIssuer) -> Iterator[Callable[[], None]]:
    """Yield what asks something as another agent; the gateway may not grow meanwhile."""
    dsn = gw.dsn("orders", issuer.token("bystander"))
    with psycopg.connect(dsn, autocommit=True) as connection:

        def ask() -> None:
            assert connection.execute("SELECT 7").fetchone() == (7,)

        ask()
        before = peak_bytes(gw.pid)
        yield ask
        ask()
        grown = peak_bytes(gw.pid) - before
    assert grown < GROWTH, f"{grown / MIB:.0f} MiB"


def push(client: Speaker, data: bytes, ask: Callable[[], None], times: int) -> int:
    """Send `data` so often, or until nobody takes it for a while; return how often it went whole.

    Nothing is read meanwhile, and the bystander asks now and then.
    """
    client.socket.setblocking(False)
    sent = 0
    for number in range(times):
        left = memoryview(data)
        while left:
            if not select.select([], [client.socket], [], 0.5)[1]:
                ask()
                if not select.select([], [client.socket], [], 0.5)[1]:
                    return sent
            try:
                left = left[client.socket.send(left) :]
            except (ConnectionResetError, BrokenPipeError):
                return sent
        sent += 1
        if number % 16 == 0:
            ask()
    return sent


def closed_with(client: Speaker) -> dict[str, str]:
    client.socket.settimeout(30)
    ready = client.heard.rindex(b"Z\0\0\0\5")
    return error_fields(client.heard[ready:] + client.hear_until_closed())


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"\0" * 64, id="zeros"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", id="HTTP"),
        pytest.param(b"Q\0\0\0\3", id="a length below four"),
        pytest.param(b"Q\x80\0\0\0", id="a negative length"),
        pytest.param(b"B\xff\xff\xff\xff", id="a length of -1"),
        pytest.param(b"S" + struct.pack("!i", HUGE), id="a Sync of a gigabyte"),
        pytest.param(b"D" + struct.pack("!i", HUGE), id="a Describe of a gigabyte"),
        pytest.param(b"E" + struct.pack("!i", 10_001), id="an Execute of 10 KB"),
        pytest.param(wire.message("Q", b"SELECT 1"), id="a Query without an end"),
        pytest.param(wire.message("P", b"\0" * 3), id="a Parse that is cut off"),
        pytest.param(wire.message("B", b"\0\0\0\1\0\1\0\0\0\0\0\0"), id="a Bind that is cut off"),
        pytest.param(wire.message("D", b"X\0"), id="a Describe of neither"),
        pytest.param(wire.message("p", b"secret\0"), id="a second password"),
        pytest.param(wire.message("Z", b"I"), id="what only a server says"),
    ],
)
def test_garbage_ends_its_own_session_with_a_protocol_error(
    said: bytes, gw: Gateway, signing_issuer: SigningIssuer
) -> None:
    with (
        undisturbed(gw, signing_issuer) as ask,
        Speaker(gw, signing_issuer.token(), "garbage") as client,
    ):
        # What is behind it is not looked at any more.
        client.say(said + wire.query("SELECT 'never'"))
        error = closed_with(client)
        ask()

    assert (error["S"], error["C"]) == ("FATAL", "08P01")
    assert "Traceback" not in gw.log_text()
    gw.wait_until_idle()
    session = read(gw.archive).session(client_app="garbage")
    assert session["close_reason"] == "protocol_error"


@pytest.mark.parametrize("kind", ["Q", "P", "B", "d", "F"])
def test_a_message_of_a_gigabyte_is_never_held(
    kind: str, gw: Gateway, signing_issuer: SigningIssuer
) -> None:
    with (
        undisturbed(gw, signing_issuer) as ask,
        Speaker(gw, signing_issuer.token(), "huge") as client,
    ):
        client.say(kind.encode() + struct.pack("!i", HUGE))
        sent = push(client, b"\0" + b"x" * MIB, ask, 128)
        assert sent > 64 or kind == "B"
        client.socket.close()


FLOODS = {
    "Sync": wire.SYNC,
    "Flush": wire.FLUSH,
    "Parse": wire.parse("", ""),
    "Close": wire.close_statement("x"),
    "Describe": wire.describe_portal(),
    "Bind": wire.bind(),
    "Execute": wire.execute(),
    "empty Query": wire.query(""),
    "CopyData": wire.copy_data(b""),
    "CopyDone": wire.COPY_DONE,
}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_without_end_and_without_reading_fills_no_memory(
    kind: str, gw: Gateway, signing_issuer: SigningIssuer
) -> None:
    with (
        undisturbed(gw, signing_issuer) as ask,
        Speaker(gw, signing_issuer.token(), "flood") as client,
    ):
        client.say(wire.SYNC)
        block = FLOODS[kind] * (MIB // len(FLOODS[kind]))
        push(client, block, ask, 8)


def test_a_million_names_fill_no_memory(gw: Gateway, signing_issuer: SigningIssuer) -> None:
    with (
        undisturbed(gw, signing_issuer) as ask,
        Speaker(gw, signing_issuer.token(), "names") as client,
    ):
        for first in range(0, 1_000_000, 50_000):
            names = b"".join(wire.parse(f"{n}", "SELEC") for n in range(first, first + 50_000))
            if not push(client, names, ask, 1):
                break


@pytest.mark.parametrize("sql", ["SELECT repeat('x', 1000) FROM generate_series(1, 3000000)"])
def test_output_that_is_never_read_stops_the_server_and_nothing_else(
    sql: str, gw: Gateway, signing_issuer: SigningIssuer, postgres18: PostgresPeer
) -> None:
    def waits() -> bool:
        rows = postgres18.execute(
            "SELECT wait_event FROM pg_stat_activity WHERE application_name = 'never reads'"
        )
        return rows == [("ClientWrite",)]

    with (
        undisturbed(gw, signing_issuer) as ask,
        Speaker(gw, signing_issuer.token(), "never reads") as client,
    ):
        client.say(wire.query(sql))
        until(waits, "the server waits for the gateway")
        ask()
        until(waits, "the server still waits")
