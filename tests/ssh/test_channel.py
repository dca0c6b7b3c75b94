"""What a client says on a channel while the target's is being opened."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any
from unittest import mock
from uuid import UUID

import asyncssh
import pytest

from agentaudit.archive.recorder import Waiter
from agentaudit.gateway import ssh_flow
from agentaudit.gateway.ssh_flow import Wire
from agentaudit.gateway.ssh_scripts import Scripts
from agentaudit.gateway.ssh_session import Channel
from agentaudit.gateway.ssh_sftp import _find
from agentaudit.masking.masks import Masks
from agentaudit.model import Command, Event
from agentaudit.policy import NO_RULE, SessionPolicy
from tests.ssh.client import Started, connected, recorded


class Relay:
    """A session whose recorder is never slow."""

    masks = Masks([{"name": "all", "action": "redact", "apply": ["archive"], "detect": ["all"]}])

    def __init__(self) -> None:
        self.spawned = 0
        self.lines: list[str] = []
        self.policy = SessionPolicy((), NO_RULE)
        self.session = mock.Mock(closed=False)
        self.scripts = Scripts().of("ana", UUID(int=1), self.masks)
        self.settings = mock.Mock(exec_only=False, env=("LC_*",))

    def record(self, *events: Event) -> bool:
        return True

    def note(self, number: int, side: object, line: str, status: int | None = None) -> bool:
        self.lines.append(line)
        return True

    def recorded(self, events: Callable[[], list[Event]]) -> None:
        events()

    def wait(self, waiter: Waiter) -> None:
        waiter.go()

    def count(self, size: int) -> None: ...

    def withhold(self) -> None: ...

    def closed(self) -> None: ...

    def left(self, channel: Channel) -> None: ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        work.close()
        self.spawned += 1


@pytest.fixture
def relay() -> Relay:
    return Relay()


@pytest.fixture
def channel(relay: Relay) -> Channel:
    channel = Channel(relay, 0)  # type: ignore[arg-type]
    channel.connection_made(mock.Mock(_send_pktsize=32768))
    return channel


def calls(target: mock.Mock) -> list[tuple[Any, ...]]:
    return [(name, *args) for name, args, _ in target.mock_calls if name != "resume_reading"]


def test_it_comes_in_its_order_behind_what_the_channel_is_for(channel: Channel) -> None:
    """A server drops what comes before a command, and what was said before an end must not
    come behind it."""
    target = mock.Mock()
    channel.data_received(b"one\n", None)
    channel.opened(target)
    channel.data_received(b"two\n", None)
    channel.eof_received()
    assert calls(target) == []
    channel.started()
    assert calls(target) == [("write", b"one\n", None), ("write", b"two\n", None), ("write_eof",)]


def test_a_terminal_that_is_resized_meanwhile_has_its_last_size(channel: Channel) -> None:
    target = mock.Mock()
    channel.pty_requested("xterm", (80, 24, 0, 0), {53: 1})
    channel.opened(target)
    channel.terminal_size_changed(100, 30, 0, 0)
    assert calls(target) == []
    channel.started()
    assert calls(target) == [("change_terminal_size", 100, 30, 0, 0)]


def test_what_waits_in_a_window_is_kept_in_few_pieces(relay: Relay) -> None:
    connection = mock.Mock()
    connection.get_key_option.return_value = {}
    made = asyncssh.SSHServerChannel(
        connection, mock.Mock(), True, False, False, 0, 0, None, "strict", 2 << 20, 32768
    )
    made._session = channel = Channel(relay, 0)  # type: ignore[arg-type]
    made._send_state = made._recv_state = "open"
    channel.connection_made(made)
    pieces = [bytes([number % 251]) for number in range(50_000)]
    with mock.patch.object(channel, "data_received") as received:
        for piece in pieces:
            made._accept_data(piece)
        assert len(made._recv_buf) < 8
        assert made._recv_window == (2 << 20) - len(pieces)
        made.resume_reading()
        assert b"".join(call.args[0] for call in received.mock_calls) == b"".join(pieces)
        received.reset_mock()
        made._accept_data(b"at once")
        received.assert_called_once_with(b"at once", None)


def test_packets_of_one_byte_are_asked_for_in_vain(relay: Relay) -> None:
    channel = Channel(relay, 0)  # type: ignore[arg-type]
    channel.connection_made(mock.Mock(_send_pktsize=1))
    channel._client.get_environment.return_value = {}  # type: ignore[attr-defined]
    channel.shell_requested()
    assert (channel.command.decision, channel.command.status) == ("deny", "denied")


def test_a_terminal_edits_no_packets_and_comes_before_what_it_is_for(channel: Channel) -> None:
    """OpenSSH's server gives a subsystem one, and there a DEL takes back a byte."""
    channel._client.get_environment.return_value = {}  # type: ignore[attr-defined]
    assert channel.pty_requested("xterm", (80, 24, 0, 0), {})
    channel.subsystem_requested("sftp")
    assert (channel.command.decision, channel.command.status) == ("deny", "denied")
    assert not channel.pty_requested("xterm", (80, 24, 0, 0), {})


async def test_agents_and_windows_are_not_forwarded_and_that_is_recorded(started: Started) -> None:
    gw, client = started()
    async with connected(client) as connection:
        chan, _ = await connection.create_session(asyncssh.SSHClientSession, "sleep 1")
        for name in (b"x11-req", b"auth-agent-req@openssh.com"):
            assert not await chan._make_request(name)
        chan.close()
    rows = recorded(gw).sql("SELECT text FROM events WHERE text LIKE '% refused'").fetchall()
    assert rows == [("x11-req refused",), ("auth-agent-req@openssh.com refused",)]


SECRET = "AKIAIOSFODNN7EXAMPLX"


def test_what_a_target_says_of_its_end_is_masked(relay: Relay, channel: Channel) -> None:
    channel.killed(SECRET, False, f"password = hunter22 {SECRET}")
    channel._take_outcome("ok")
    said = [*relay.lines, channel.command.error_code, channel.command.error_text]
    assert not any(SECRET in str(each) or "hunter22" in str(each) for each in said)


def test_what_stands_behind_a_space_is_masked_before_that_is_written_out(
    relay: Relay, channel: Channel
) -> None:
    line = channel._variable(("LC_X", "Authorization: Bearer abcdefgh12345678abcdefgh"))
    assert line.startswith("env LC_X ")
    assert "abcdefgh12345678" not in line
    channel.pty_requested(f"x {SECRET}", (80, 24, 0, 0), {})
    assert SECRET not in channel._said[0]


def test_what_is_hidden_in_a_command_is_hidden_in_what_is_found_in_it(
    relay: Relay, channel: Channel
) -> None:
    """Of a program that nobody knows, the name is a risk."""
    channel._client.get_environment.return_value = {}  # type: ignore[attr-defined]
    assert channel.exec_requested(f"{SECRET} /srv/{SECRET}")
    command = channel.command
    assert len(command.risk) > 1
    assert SECRET not in f"{command.text} {command.risk} {command.resources} {command.paths}"


def test_a_command_that_nobody_waits_for_any_more_is_not_run(
    relay: Relay, channel: Channel
) -> None:
    channel._client.get_environment.return_value = {}  # type: ignore[attr-defined]
    with mock.patch.object(relay, "wait") as wait:
        channel.exec_requested("touch /srv/x")
        channel.connection_lost(None)
    (opening, *_) = [call.args[0] for call in wait.mock_calls]
    opening.go()
    assert relay.spawned == 0
    assert channel.command.status == "cancelled"


async def test_a_peer_that_takes_no_answer_is_heard_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ssh_flow, "_LOOK_S", 0.001)
    connection, told = mock.Mock(), mock.Mock()
    transport = connection._transport
    transport.is_closing.return_value = False
    transport.get_write_buffer_size.return_value = 300_000
    Wire(connection, told)
    connection.pause_writing()
    await asyncio.sleep(0.01)
    transport.pause_reading.assert_not_called()
    transport.get_write_buffer_size.return_value = 9_000_000
    await asyncio.sleep(0.01)
    transport.pause_reading.assert_called_once()
    connection.resume_writing()
    transport.resume_reading.assert_called_once()
    assert told.mock_calls == [mock.call(True), mock.call(False)]


def test_what_belongs_to_the_machine_does_so_by_any_of_its_names() -> None:
    for path in ("/etc/x", "//etc/x", "/proc/self/root/etc/x", "/proc/1/root/srv/x"):
        command = Command(command_no=0, operation="sftp.open", cls="write", resources=(path,))
        _find(command)
        assert command.cls == "admin"
