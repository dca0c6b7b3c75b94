"""A TCP connection that a client wants opened at the host (`ssh -L`, `-D`, `-W`): a channel too.

The client's request waits until it has been recorded and decided about, and until the host has
answered it; so a client whose connection is refused hears the reason as that of its request, and
nothing of a connection passes that nobody let pass. No rule is asked about the bytes; they are
recorded and masked as those of any channel.

The host is asked for the same place that the rules were asked about, never as the client spelled
it. Names are looked up by the host. Of who connects to the client's own listener the host is told
nothing: that is the client's word alone.

Source: RFC 4254, section 7.2
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import asyncssh

from agentaudit.gateway.ssh_session import Channel, SshSession
from agentaudit.model import Event, Flag, Hold, Kind, Side
from agentaudit.policy import FORWARD
from agentaudit.protocols.ssh import Destination, said

MAX_NAME: Final = 256
"""Characters of what a client says, beyond which it is cut."""

_ORIGINATOR: Final = ("127.0.0.1", 65535)
"""What OpenSSH says of a connection that came from no other."""


class Forward(Channel, asyncssh.SSHTCPSession[bytes]):
    """A connection of the client's, and what it becomes at the target."""

    def __init__(self, relay: SshSession, number: int) -> None:
        super().__init__(relay, number)
        self._answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._destination: Destination | None = None
        self._hidden = ""
        self._is_confirmed = self._is_to_close = False

    async def ask(
        self, chan: asyncssh.SSHTCPChannel[bytes], host: str, port: int, *originator: Any
    ) -> Forward:
        """Return this, once the connection is open at the target.

        Raises:
            asyncssh.ChannelOpenError: it is not to be, or could not be.
        """
        # Both are ends of channels; only what is asked of them before they are open differs.
        self._take(chan)  # type: ignore[arg-type]
        self._down.is_asking = True
        asked = [word[:MAX_NAME] if isinstance(word, str) else word for word in originator]
        shown = self._masked(host[:MAX_NAME])
        self._said = [said("direct-tcpip", shown, port, *map(self._shown, asked))]
        destination = self._destination = Destination.of(host, port)
        command = self.command
        command.cls, command.risk = "write", ("tunnels", "contacts host")
        text = f"{FORWARD} {destination}"
        if destination is None:
            self._denied = "neither a host's name nor an address, or no port"
            text = f"{FORWARD} {said(shown, port)}"
        elif shown != host:
            # What a mask hides it might not know again in its one form.
            self._hidden = f"{shown}:{port}"
            text = f"{FORWARD} {host}:{port}"
        if not self._begin(FORWARD, text):
            self._fail(asyncssh.OPEN_CONNECT_FAILED, "the session ends")
        try:
            await self._answer
        except BaseException:
            self._relay.closed()
            raise
        return self

    def _shown(self, word: Any) -> Any:
        return self._masked(word) if isinstance(word, str) else word

    def _line(self, text: str) -> str:
        return text

    def _decide(self, text: str) -> Hold | None:
        destination = self._destination
        if destination is None:
            return super()._decide(text)
        self.command.resources = (str(destination),)
        hold = super()._decide(f"{FORWARD} {destination}")
        if self._hidden:
            self.command.resources = (self._hidden,)
        return hold

    def _environment(self) -> dict[str, str]:
        return {}

    # --- at the target

    async def _open(self) -> None:
        destination = self._destination
        assert destination is not None
        try:
            chan, _ = await self._relay.target.create_connection(
                self._at_target,  # type: ignore[arg-type]
                destination.asked,
                destination.port,
                *_ORIGINATOR,
            )
        except asyncssh.ChannelOpenError as error:
            self._refuse(error.code, error.reason[:MAX_NAME], "error", Flag(0))
        except (asyncssh.Error, OSError):
            self._refuse(asyncssh.OPEN_CONNECT_FAILED, "the connection is gone", "error")
        else:
            if self._is_over:
                chan.close()

    def opened(self, chan: Any) -> None:
        super().opened(chan)
        self._down.throttle()  # nobody hears yet what the target says

    def started(self) -> None:
        """Let the client have the connection: the target has opened it."""
        relay = self._relay
        if relay.note(self.command.command_no, Side.TARGET, "open-confirmation"):
            relay.later(self._confirm)

    def _confirm(self) -> None:
        if not self._answer.done():
            self._answer.set_result(None)

    def connection_made(self, chan: Any) -> None:
        pass  # it was made before it was open

    def session_started(self) -> None:
        self._is_confirmed = True
        self._down.is_asking = False
        super().started()
        self._down.throttle()
        # The library reads whatever was said before, when this is over.
        asyncio.get_running_loop().call_soon(self._read_again)
        if self._is_to_close:
            self._client.close()

    def _read_again(self) -> None:
        if self._up.is_paused:
            self._client.pause_reading()

    def from_target(self, data: bytes, datatype: int | None) -> None:
        if not self._is_over:
            super().from_target(data, datatype)

    def target_eof(self) -> None:
        """Note that the target says no more: the other direction may go on for long."""
        relay = self._relay
        relay.recorded(lambda: self.finish(is_cut_off=False, side=Side.TARGET))
        if relay.note(self.command.command_no, Side.TARGET, "eof"):
            relay.later(self._client.write_eof)

    # --- ends

    def say(self, message: str) -> bool:
        """Tell the client nothing: all that could be said here is taken for the connection's."""
        return True

    def tell(self, words: str) -> None:
        self._fail(asyncssh.OPEN_CONNECT_FAILED, words.strip())
        self._close_client()

    def _fail(self, code: int, why: str) -> None:
        if not self._answer.done():
            self._answer.set_exception(asyncssh.ChannelOpenError(code, why))

    def _deny(self, why: str, status: str = "denied") -> None:
        self._refuse(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, why, status)

    def _refuse(self, code: int, why: str, status: str, flags: Flag = Flag.SYNTHETIC) -> None:
        """Answer the client's request, and end the channel."""
        command, relay = self.command, self._relay
        shown = self._masked(why)
        command.status, command.error_code, command.error_text = status, str(code), shown
        where = f"(session {relay.session.session_id}, command {command.command_no})"
        words = f"agentaudit: {why} {where}" if flags else why
        relay.record(
            Event(
                kind=Kind.NOTICE,
                side=Side.TARGET,
                command_no=command.command_no,
                text=said("open-failure", code, shown),
                flags=flags,
            )
        )
        self._finish(lambda: self._fail(code, words))

    def _close_client(self) -> None:
        if self._is_confirmed:
            self._client.close()
        self._is_to_close = True

    def cut(self, message: str, words: str) -> None:
        self._withdraw(message)
        self.command.status, self.command.error_text = "cancelled", message
        self._end(lambda: self._fail(asyncssh.OPEN_CONNECT_FAILED, words.strip()))
        if self._target is not None:
            self._target.close()

    def target_closed(self) -> None:
        """Note that the connection is over at the target, and with it this one."""
        self._relay.recorded(lambda: self.finish(is_cut_off=False, side=Side.TARGET))
        self.command.status = "ok"
        self._end()

    def target_lost(self) -> None:
        self.command.status = "incomplete"
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.closed()
        target = self._target
        if exc is not None or self._is_over or target is None:
            self.client_gone()
            return
        # What it has said before goes on before that.
        self._relay.recorded(lambda: self.finish(is_cut_off=False, side=Side.CLIENT))
        self.command.status = "ok"
        self._finish(target.close)

    def client_gone(self) -> None:
        self._withdraw("the client hung up")
        if not self._is_over:
            self.command.status = "cancelled"
            self._end()
        if self._target is not None:
            self._target.close()

    def _end(self, act: Any = None) -> None:
        def end() -> None:
            if act is not None:
                act()
            self._fail(asyncssh.OPEN_CONNECT_FAILED, "it is over")
            self._close_client()

        self._finish(end)
