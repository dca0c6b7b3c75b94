"""Verbs that ask a gateway over HTTP: what happens there now, and its archive.

A token never stands among the arguments, where every user of a machine could read it. What comes
back was written by agents, or by whoever runs the server: it reaches the terminal through
`printable` alone.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import ssl
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from agentaudit.analysis.printable import printable
from agentaudit.cli.asking import refuse_abbreviations, token
from agentaudit.cli.output import ascii_json, print_json
from agentaudit.errors import AgentauditError, IdentityError, IssuerError, QuestionError

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]

TIMEOUT_S: Final = 60.0
"""Of silence: a stream says something every 15 seconds."""

MAX_ERROR_BYTES: Final = 64 * 1024
MAX_LINE_BYTES: Final = 4 << 20
LONGEST_PAUSE_S: Final = 30.0


def add(verbs: Verbs) -> None:
    """Add this module's verbs to the command line's."""
    one = verbs.add_parser(
        "tail",
        help="live commands and holds, as they happen",
        description="Live commands and holds, as they happen.",
        epilog="Exit status: 0 yes, 1 no, 2 could not tell.",
    )
    one.set_defaults(verb=tail)
    one.add_argument("--target", default="", help="of this target alone")
    one.add_argument("--user", default="", help="of this user alone")
    one.add_argument("--json", action="store_true", help="one JSON object a line")
    _add_control(one)
    one = verbs.add_parser(
        "pull",
        help="bring an archive from a gateway, whole at one checkpoint of each log",
        description="Bring an archive from a gateway, whole at one checkpoint of each log.",
        epilog="Exit status: 0 yes, 1 no, 2 could not tell.",
    )
    one.set_defaults(verb=pull)
    one.add_argument("url", metavar="URL", help="the control API of a gateway")
    one.add_argument("directory", type=Path, metavar="DIR", help="where the copy is, or will be")
    one.add_argument("--json", action="store_true", help="print the result as JSON")
    _add_token(one)


def _add_control(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--control",
        default=os.environ.get("AGENTAUDIT_CONTROL", ""),
        metavar="URL",
        help="the control API of a gateway (default: AGENTAUDIT_CONTROL)",
    )
    _add_token(one)


def _add_token(one: argparse.ArgumentParser) -> None:
    refuse_abbreviations(one)
    one.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="what proves who you are (default: AGENTAUDIT_TOKEN, then what login has kept)",
    )
    one.add_argument(
        "--ca-file",
        type=Path,
        metavar="FILE",
        help="certificates, PEM, instead of the system's authorities",
    )


class Remote:
    """The control API of a gateway, asked with a token."""

    def __init__(self, url: str, token_file: Path | None, ca_file: Path | None) -> None:
        """Raises `QuestionError`: no address that a token may be sent to, or no such CA file."""
        from agentaudit.settings.values import refuse_unsafe_url

        if not url:
            raise QuestionError(
                "no control API is named", hint="give --control, or set AGENTAUDIT_CONTROL"
            )
        try:
            parts = urlsplit(refuse_unsafe_url(url))
            self._port = parts.port
        except ValueError as error:
            raise QuestionError(f"control API {url[:200]}: {error}") from None
        self._url = url.rstrip("/")
        self._host = parts.hostname or ""
        self._prefix = parts.path.rstrip("/")
        self._token_file = token_file
        self._tls = None
        self.where = parts.netloc
        if parts.scheme == "https":
            try:
                self._tls = ssl.create_default_context(cafile=ca_file)
            except OSError as error:
                raise QuestionError(f"{ca_file}: {error.strerror or 'no certificates'}") from None

    def get(
        self, path: str, headers: Mapping[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Return the answer to a GET, whatever its status, and its connection, to be closed.

        Raises:
            OSError, http.client.HTTPException: there is none.
            QuestionError: there is no token to ask with.
        """
        connection: http.client.HTTPConnection
        if self._tls is None:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_S)
        else:
            connection = http.client.HTTPSConnection(
                self._host, self._port, timeout=TIMEOUT_S, context=self._tls
            )
        try:
            own = {"Authorization": f"Bearer {self._token()}"}
            connection.request("GET", self._prefix + path, headers=own | dict(headers))
            return connection, connection.getresponse()
        except BaseException:
            connection.close()
            raise

    def _token(self) -> str:
        # Looked for at every request: whoever renews it writes the file anew.
        return token(self._token_file, control=self._url)


def refusal(answer: http.client.HTTPResponse) -> AgentauditError:
    """Return what a gateway says with a status that is no success."""
    text, hint = f"status {answer.status}", ""
    try:
        said = json.loads(answer.read(MAX_ERROR_BYTES))
        text, hint = str(said["error"])[:1000], str(said.get("hint", ""))[:1000]
    except (ValueError, LookupError, TypeError, OSError, http.client.HTTPException):
        pass
    kind = {401: IdentityError, 503: IssuerError}.get(answer.status, QuestionError)
    return kind(text, hint=hint)


# --- tail


def tail(arguments: argparse.Namespace) -> int:
    """Live commands and holds, as they happen."""
    remote = Remote(arguments.control, arguments.token_file, arguments.ca_file)
    last_id, pause_s = "", 0.0
    while True:
        try:
            for event, id, said in _events(remote, last_id):
                last_id, pause_s = id or last_id, 0.0
                if event == "end" and "expired" in str(said.get("why")):
                    raise IdentityError("your token has expired", hint="agentaudit login")
                if _is_wanted(arguments, event, said):
                    print(_line(event, said, as_json=arguments.json), flush=True)
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, BrokenPipeError) and not last_id:
                raise
            why = getattr(error, "strerror", None) or type(error).__name__
            print(f"{remote.where}: {printable(str(why))}, trying again", file=sys.stderr)
        # The server has said all: it starts anew, or we were too slow.
        pause_s = min(max(1.0, 2 * pause_s), LONGEST_PAUSE_S)
        time.sleep(pause_s)


def _events(remote: Remote, last_id: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield event, id and data of a stream, until it ends."""
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id else {})
    connection, answer = remote.get("/v1/stream", headers)
    with closing(connection):
        if answer.status != 200:
            raise refusal(answer)
        event = id = ""
        while line := answer.readline(MAX_LINE_BYTES):
            name, _, value = line.decode(errors="replace").rstrip("\r\n").partition(": ")
            if name == "event":
                event = value
            elif name == "id":
                id = value
            elif name == "data":
                try:
                    said = json.loads(value)
                except (ValueError, RecursionError):
                    raise http.client.HTTPException("no JSON") from None
                if isinstance(said, dict):
                    yield event, id, said
                event = id = ""


def _is_wanted(arguments: argparse.Namespace, event: str, said: Mapping[str, Any]) -> bool:
    if event in ("gap", "end"):
        return True
    if arguments.target and said.get("target") != arguments.target:
        return False
    return not arguments.user or _user(said) == arguments.user


def _user(said: Mapping[str, Any]) -> str:
    requester = said.get("requester")
    return str(requester.get("user") if isinstance(requester, dict) else said.get("user", ""))


def _line(event: str, said: Mapping[str, Any], *, as_json: bool) -> str:
    if as_json:
        return ascii_json({"event": event} | dict(said))
    if event in ("gap", "end"):
        counts = [f"{n} {name}" for name, n in said.items() if name != "why" and n]
        return printable(f"-- {event}: {said.get('why')} {' '.join(counts)}".rstrip())
    cells = [_clock(said), event, said.get("target"), _user(said)]
    if event == "command":
        cells += [said.get("class"), said.get("status"), said.get("text")]
    elif event == "session":
        cells += [said.get("state"), said.get("close_reason", ""), said.get("session_id")]
    else:
        words = said.get("statement") or said.get("reason")
        cells += [said.get("state"), said.get("id"), words]
    return "  ".join(printable(str(cell)) for cell in cells if cell not in (None, ""))


def _clock(said: Mapping[str, Any]) -> str:
    for name in ("ended_at", "closed_at", "decided_at", "requested_at"):
        value = said.get(name)
        if isinstance(value, int) and 0 < value < 1 << 57:
            return f"{datetime.fromtimestamp(value // 1_000_000, UTC):%H:%M:%S}"
    return f"{datetime.now(UTC):%H:%M:%S}"


# --- pull


def pull(arguments: argparse.Namespace) -> int:
    """Bring an archive from a gateway, whole at one checkpoint of each log."""
    from agentaudit.archive import pulling
    from agentaudit.archive.verify import verify
    from agentaudit.archive.verify_log import UNSEALED

    remote = Remote(arguments.url, arguments.token_file, arguments.ca_file)
    source = _Files(remote)
    root: Path = arguments.directory
    try:
        pulled = pulling.pull(source, source.logs(), root, _progress)
    except http.client.HTTPException as error:
        raise QuestionError(
            f"{remote.where}: no answer over HTTP ({type(error).__name__})"
        ) from None
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise QuestionError(
            f"{error.filename or remote.where}: {why}", hint="pull again: it goes on from here"
        ) from None
    result = verify(root, remember=False)
    # What a live segment has is in its journal, which no copy has before it is sealed.
    unsealed = [finding for finding in result.findings if finding.seen.endswith(UNSEALED)]
    findings = [str(finding) for finding in result.findings if finding not in unsealed]
    if arguments.json:
        members = {"fetched": pulled.fetched, "kept": pulled.kept, "logs": pulled.sizes}
        unsealed_too = {"unsealed": len(unsealed), "findings": findings}
        print_json(members | unsealed_too)
    else:
        for finding in findings:
            print(printable(finding))
        sizes = ", ".join(f"{name} at {size} entries" for name, size in pulled.sizes.items())
        print(f"{pulled.fetched} files fetched, {pulled.kept} were there; {printable(sizes)}")
        if unsealed:
            print("the end of a log is not sealed yet and not in the copy: pull again later")
        hint = "a key that lies beside it proves little: agentaudit verify --key with yours"
        print(f"{root} is consistent; {hint}" if not findings else hint, file=sys.stderr)
    return 1 if findings else 0


def _progress(log: str) -> None:
    if sys.stderr.isatty():
        print(f"log {printable(log)}", file=sys.stderr)


class _Files:
    """The archive's files at a control API (`archive.pulling.Source`)."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    def logs(self) -> list[str]:
        """Return the names of the logs that are given; not checked."""
        connection, answer = self._get("/v1/archive", {})
        with closing(connection):
            if answer.status != 200:
                raise refusal(answer)
            try:
                return [str(name) for name in json.loads(answer.read(MAX_ERROR_BYTES))["logs"]]
            except (ValueError, LookupError, TypeError, RecursionError):
                raise QuestionError(f"{self._remote.where}: no list of logs") from None

    def fetch(self, path: str, target: Path, limit: int) -> bool:
        """Put the file at `target`, going on from what is there; say whether there is one."""
        begun = target.stat().st_size if target.exists() else 0
        if 0 < begun <= limit:
            if begun == limit:
                return True
            headers = {"Range": f"bytes={begun}-"}
        else:
            headers, begun = {}, 0
        connection, answer = self._get(f"/v1/archive/{path}", headers)
        with closing(connection):
            if answer.status == 404:
                return False
            if answer.status not in (200, 206, 416):
                raise refusal(answer)
            if answer.status == 416:
                target.unlink()
                return self.fetch(path, target, limit)
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            flags |= os.O_APPEND if answer.status == 206 else os.O_TRUNC
            size = begun if answer.status == 206 else 0
            with os.fdopen(os.open(target, flags, 0o640), "wb") as file:
                while data := answer.read(256 * 1024):
                    size += len(data)
                    if size > limit:
                        raise QuestionError(f"{path}: more than the {limit} bytes it may have")
                    file.write(data)
        return True

    def _get(
        self, path: str, headers: Mapping[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Ask, and wait where that was too often: a gateway hears 300 requests a minute."""
        give_up_s = time.monotonic() + _PATIENCE_S
        while True:
            connection, answer = self._remote.get(path, headers)
            if answer.status != 429 or time.monotonic() > give_up_s:
                return connection, answer
            connection.close()
            time.sleep(_PAUSE_S)


_PATIENCE_S: Final = 300.0
_PAUSE_S: Final = 5.0
