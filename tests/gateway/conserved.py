"""Every byte of a session accounted for: on both wires, and in the archive."""

from __future__ import annotations

import struct

from tests.gateway.recorded import Recorded, Row
from tests.peers.pump import Wire


def messages(data: bytes) -> list[tuple[str, bytes]]:
    """Return the typed messages in `data`, which must end with the end of one."""
    found = []
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from("!I", data, at + 1)
        found.append((chr(data[at]), data[at + 5 : at + 1 + length]))
        at += 1 + length
    assert at == len(data)
    return found


def startup_packets(up: bytes) -> list[bytes]:
    """Return the packets before the first message: they have no type byte."""
    found = []
    while up:
        length, code = struct.unpack_from("!II", up)
        found.append(up[:length])
        up = up[length:]
        if code >> 16 == 3:
            break
    return found


def after_startup(up: bytes) -> bytes:
    """Return what follows the start-up packets."""
    return up[sum(map(len, startup_packets(up))) :]


def is_conserved(recorded: Recorded, session: Row, front: Wire, back: Wire) -> None:
    """Assert that client, gateway, archive and server agree about every byte after the login."""
    sent, answered = recorded.wire(session, "client"), recorded.wire(session, "target")
    to_gateway = after_startup(bytes(front.up))
    assert to_gateway.endswith(sent)
    assert [kind for kind, _ in messages(to_gateway[: len(to_gateway) - len(sent)])] == ["p"]
    to_server = after_startup(bytes(back.up))
    assert to_server.endswith(sent)
    login = to_server[: len(to_server) - len(sent)]
    assert {kind for kind, _ in messages(login)} == {"p"}

    assert bytes(front.down).endswith(answered)
    assert bytes(back.down).endswith(answered)
    greeting = bytes(back.down)[: len(back.down) - len(answered)]
    assert [kind for kind, _ in messages(greeting)].index("Z") == len(messages(greeting)) - 1

    (login_event,) = [e for e in recorded.of(session) if e["text"] == "login"]
    assert login_event["orig_len"] == len(front.down) - len(answered)
    assert login_event["payload"] is None
    assert session["bytes_in"] == len(sent)
    assert session["bytes_out"] == len(front.down)


def session_wires(wires: list[Wire]) -> dict[str, Wire]:
    """Return those on which a session began, by the application that it named.

    The others carried a cancel request.
    """
    found = {}
    for wire in wires:
        parameters = startup_packets(bytes(wire.up))[-1][8:].split(b"\0")
        named = dict(zip(parameters[::2], parameters[1::2], strict=False))
        if b"application_name" in named:
            found[named[b"application_name"].decode()] = wire
    return found
