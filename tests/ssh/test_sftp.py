"""Files through the gateway, with OpenSSH's own programs and asyncssh's, at a real server."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import shlex
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh
import pytest

import agentaudit as aa
from agentaudit.demo.gateways import Gateway
from agentaudit.model import Side
from tests.gateway.recorded import Recorded, Row, read
from tests.gateway.test_holds import Reviewers, meanwhile
from tests.peers.certificates import Authority
from tests.peers.gateway import gateways
from tests.peers.issuers import SigningIssuer
from tests.peers.sshd import Sshd
from tests.protocols import sftp_wire as wire
from tests.protocols.test_sftp import Talk, contents
from tests.ssh.client import OpenSsh, make_key

Done = subprocess.CompletedProcess[bytes]

SECRET = "AKIAIOSFODNN7EXAMPLX"
RULES = [
    {"name": "kept", "when": {"text": "keep-me"}, "action": "deny"},
    {"name": "moves", "when": {"operation": ["sftp.rename"]}, "action": "hold"}
    | {"approvers": ["dba"]},
    {"name": "uploads", "when": {"operation": ["sftp.open", "sftp.write"], "text": "ask-me"}}
    | {"action": "hold"}
    | {"approvers": ["dba"]},
]


@dataclass
class Site:
    """One gateway for all of this module, and what it has recorded since it was last asked."""

    gw: Gateway
    client: OpenSsh
    reviewers: Reviewers
    seen: set[bytes] = field(default_factory=set)

    def sftp(self, *lines: str, options: tuple[str, ...] = ()) -> Done:
        batch = ("-o", "BatchMode=no", "-b", "-")
        argv = ["sftp", *batch, *options, *self.client.options, "-P", str(self.client.port)]
        said = "".join(f"{line}\n" for line in lines)
        return self.client.run([*argv, "host-1@127.0.0.1"], input=said.encode())

    def scp(self, *words: str) -> Done:
        argv = ["scp", *self.client.options, "-P", str(self.client.port)]
        return self.client.run([*argv, *words])

    def recorded(self) -> tuple[Recorded, Row]:
        """Return what is recorded, and the one session that is new in it."""
        self.gw.wait_until_idle()
        found = read(self.gw.archive)
        new = [
            row
            for row in found.sessions
            if row["protocol"] == "ssh" and row["session_id"] not in self.seen
        ]
        self.seen |= {row["session_id"] for row in new}
        (session,) = new
        return found, session

    def rows(self, *operations: str) -> list[Row]:
        """Return the new session's commands, of these operations where some are named."""
        found, session = self.recorded()
        rows = found.commands_of(session)
        return [row for row in rows if not operations or row["operation"] in operations]

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncssh.SSHClientConnection]:
        connection = await asyncssh.connect(
            "127.0.0.1",
            self.client.port,
            username="host-1",
            password=self.client.token,
            known_hosts=None,
            client_keys=None,
            agent_path=None,
            config=[],
        )
        async with connection:
            yield connection


@pytest.fixture(scope="module")
def site(
    sshd: Sshd, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("sftp")
    issuer = SigningIssuer()
    host_key = folder / "gateway_key"
    make_key(host_key)
    with gateways(folder, authority, lambda: issuer) as start:
        gw = start(
            sshd.target(),
            listen={"ssh": "127.0.0.1:0"},
            tables={"rule": RULES, "mask": [{"name": "keys", "detect": ["secrets"]}]},
            ssh_host_key_file=str(host_key),
        )
        token = issuer.token(groups=["data-agents"])
        reviewers = Reviewers(gw)
        yield Site(gw, OpenSsh.of(folder, gw.ssh_port, token, host_key), reviewers)
        reviewers.state.close()
        gw.wait_until_idle()
        gw.terminate()
        assert aa.verify(gw.archive, key=gw.verifier_key, deep=True).ok
    issuer.close()


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "there").mkdir()
    return tmp_path


def digest(data: bytes) -> list[str]:
    return [hashlib.sha256(data).hexdigest()]


def passed(recorded: Recorded, session: Row, side: Side) -> dict[str, bytes]:
    """Return what is recorded of files, by path: from packets that are read as a peer would."""
    events = [e for e in recorded.of(session) if e["kind"] in ("request", "response", "content")]
    texts = {row["command_no"]: row for row in recorded.commands_of(session)}
    frames: dict[int, bytes] = {}
    for event in events:
        if event["side"] == side.value:
            number = event["command_no"]
            frames[number] = frames.get(number, b"") + recorded.payload(event)
    wanted = "sftp.write" if side is Side.CLIENT else "sftp.read"
    found = {}
    for number, row in texts.items():
        if row["operation"] == wanted:
            found[row["paths"][0]] = contents_of(frames.get(number, b""))
    return found


def contents_of(said: bytes) -> bytes:
    """Return the contents in packets of WRITE, or of DATA, that lie one behind the other."""
    out = b""
    at = 0
    while at < len(said):
        size = 4 + int.from_bytes(said[at : at + 4])
        packet = said[at : at + size]
        assert len(packet) == size
        at += size
        if packet[4] == 6:
            start = 13 + int.from_bytes(packet[9:13]) + 8
        elif packet[4] == 103:
            start = 9
        else:
            continue
        assert len(packet) == start + 4 + int.from_bytes(packet[start : start + 4])
        out += packet[start + 4 :]
    return out


def test_contents_are_equal_both_ways_and_hashed(site: Site, here: Path) -> None:
    data = random.Random(1).randbytes(2_500_001)
    (here / "up").write_bytes(data)
    place = here / "there" / "a file"
    done = site.sftp(
        f"put {here / 'up'} {shlex.quote(str(place))}",
        f"get {shlex.quote(str(place))} {here / 'down'}",
    )
    assert done.returncode == 0, done.stderr
    assert place.read_bytes() == (here / "down").read_bytes() == data
    recorded, session = site.recorded()
    rows = recorded.commands_of(session)
    moved = [row for row in rows if row["operation"] in ("sftp.read", "sftp.write")]
    assert [(r["operation"], r["paths"], r["sha256"], r["status"], r["text"]) for r in moved] == [
        ("sftp.write", [str(place)], digest(data), "ok", f"write {place} ({len(data)} bytes)"),
        ("sftp.read", [str(place)], digest(data), "ok", f"read {place} ({len(data)} bytes)"),
    ]
    assert passed(recorded, session, Side.CLIENT) == {str(place): data}
    assert passed(recorded, session, Side.TARGET) == {str(place): data}
    assert {row["operation"] for row in rows} >= {"subsystem", "sftp.realpath", "sftp.open"}
    assert all(row["status"] in ("ok", "error") for row in rows)


def test_scp_is_the_same(site: Site, here: Path) -> None:
    data = random.Random(2).randbytes(700_000)
    (here / "up").write_bytes(data)
    (here / "empty").write_bytes(b"")
    there = here / "there"
    sent = site.scp(str(here / "up"), str(here / "empty"), f"host-1@127.0.0.1:{there}")
    assert sent.returncode == 0, sent.stderr
    assert ((there / "up").read_bytes(), (there / "empty").read_bytes()) == (data, b"")
    rows = site.rows("sftp.open", "sftp.write")
    assert [(row["operation"], row["paths"], row["sha256"] or []) for row in rows] == [
        ("sftp.open", [str(there / "up")], []),
        ("sftp.write", [str(there / "up")], digest(data)),
        ("sftp.open", [str(there / "empty")], []),
    ]
    got = site.scp("-r", f"host-1@127.0.0.1:{there}", str(here / "back"))
    assert got.returncode == 0, got.stderr
    assert (here / "back" / "up").read_bytes() == data
    hashes = {row["paths"][0]: row["sha256"] for row in site.rows("sftp.read")}
    assert hashes == {str(there / "up"): digest(data), str(there / "empty"): digest(b"")}


def test_what_is_resumed_has_no_hash_and_says_why(site: Site, here: Path) -> None:
    data = b"".join(b"line %d\n" % number for number in range(20_000))
    (here / "there" / "f").write_bytes(data)
    (here / "part").write_bytes(data[:50_003])
    done = site.sftp(f"reget {here / 'there' / 'f'} {here / 'part'}")
    assert done.returncode == 0, done.stderr
    assert (here / "part").read_bytes() == data
    ((text, sha, status),) = [
        (row["text"], row["sha256"], row["status"]) for row in site.rows("sftp.read")
    ]
    left = len(data) - 50_003
    assert f"({left} bytes, not from the beginning on, or not in order)" in text
    assert (sha or [], status) == ([], "ok")


def test_what_a_rule_denies_is_answered_at_once_and_the_rest_goes_on(
    site: Site, here: Path
) -> None:
    for name in ("keep-me", "other"):
        (here / "there" / name).write_text(name)
    done = site.sftp(
        f"-rm {here / 'there' / 'keep-me'}",
        f"-get {here / 'there' / 'keep-me'} {here / 'got'}",
        f"rm {here / 'there' / 'other'}",
    )
    assert done.returncode == 0, done.stderr
    assert b'agentaudit: denied by rule "kept" (session ' in done.stderr
    assert sorted(path.name for path in (here / "there").iterdir()) == ["keep-me"]
    assert not (here / "got").exists()
    recorded, session = site.recorded()
    rows = [r for r in recorded.commands_of(session) if r["operation"] == "sftp.remove"]
    assert [(r["decision"], r["rule"], r["status"], r["error_code"]) for r in rows] == [
        ("deny", "kept", "denied", "3"),
        ("allow", "none", "ok", None),
    ]


def test_what_is_held_waits_for_people_and_what_is_behind_it_too(site: Site, here: Path) -> None:
    there = here / "there"
    (there / "old").write_text("text")

    def review() -> None:
        (request,) = site.reviewers.wait_for()
        (shown,) = request.shown["statements"]
        assert shown["text"] == f"rename {there / 'old'} {there / 'new'}"
        time.sleep(0.3)
        assert sorted(path.name for path in there.iterdir()) == ["old"]
        site.reviewers.decide(request)

    with meanwhile(review):
        done = site.sftp(f"rename {there / 'old'} {there / 'new'}", f"mkdir {there / 'z'}")
    assert done.returncode == 0, done.stderr
    assert b'waits for a decision, by rule "moves" (request ' in done.stderr
    assert sorted(path.name for path in there.iterdir()) == ["new", "z"]
    recorded, session = site.recorded()
    (row,) = [r for r in recorded.commands_of(session) if r["operation"] == "sftp.rename"]
    assert (row["decision"], row["rule"], row["status"]) == ("hold", "moves", "ok")
    (decided,) = [d for d in recorded.decisions if d["request_id"] == row["request_id"]]
    assert decided["state"] == "approved"


def test_what_people_deny_does_not_happen_and_the_client_hears_why(site: Site, here: Path) -> None:
    there = here / "there"
    (there / "old").write_text("text")
    with meanwhile(site.reviewers.deny_next):
        done = site.sftp(f"-rename {there / 'old'} {there / 'new'}", f"mkdir {there / 'z'}")
    assert done.returncode == 0, done.stderr
    assert b"not on a Friday" in done.stderr
    assert sorted(path.name for path in there.iterdir()) == ["old", "z"]
    ((decision, status, why),) = [
        (row["decision"], row["status"], row["error_text"]) for row in site.rows("sftp.rename")
    ]
    assert (decision, status) == ("hold", "denied")
    assert why == 'denied by rule "moves": not on a Friday'


def test_people_are_asked_once_for_a_file_that_is_written(site: Site, here: Path) -> None:
    (here / "up").write_bytes(b"x" * 100_000)
    with meanwhile(site.reviewers.approve_next):
        done = site.scp(str(here / "up"), f"host-1@127.0.0.1:{here / 'there' / 'ask-me'}")
    assert done.returncode == 0, done.stderr
    assert (here / "there" / "ask-me").stat().st_size == 100_000
    rows = site.rows("sftp.open", "sftp.write")
    assert [(r["operation"], r["decision"], r["rule"]) for r in rows] == [
        ("sftp.open", "hold", "uploads"),
        ("sftp.write", "hold", "uploads"),
    ]
    assert len({row["request_id"] for row in rows}) == 1


@pytest.mark.parametrize("buffer", [1000, 32768])
def test_a_secret_is_nowhere_in_the_archive_and_the_file_is_what_it_was(
    site: Site, here: Path, buffer: int
) -> None:
    """It stands at every place of a packet, and over the edges of packets."""
    piece = f"some text {SECRET} and more\n".encode()
    data = piece * (70_000 // len(piece))
    (here / "up").write_bytes(data)
    place = here / "there" / SECRET
    done = site.sftp(
        f"put {here / 'up'} {place}",
        f"get {place} {here / 'down'}",
        f"ls -l {here / 'there'}",
        options=("-B", str(buffer)),
    )
    assert done.returncode == 0, done.stderr
    assert place.read_bytes() == (here / "down").read_bytes() == data
    assert SECRET in done.stdout.decode()
    recorded, session = site.recorded()
    for event in recorded.of(session):
        assert SECRET.encode()[:12] not in recorded.payload(event)
        assert SECRET not in (event["text"] or "")
    rows = recorded.commands_of(session)
    assert SECRET not in repr(rows)
    kept = data.replace(SECRET.encode(), b"[masked:aws_key]****")
    for side, operation in ((Side.CLIENT, "sftp.write"), (Side.TARGET, "sftp.read")):
        assert list(passed(recorded, session, side).values()) == [kept]
        (row,) = [row for row in rows if row["operation"] == operation]
        assert row["sha256"] == digest(kept)
        assert f"({len(data)} bytes)" in row["text"]


def test_every_byte_on_the_wire_is_recorded_once(site: Site, here: Path) -> None:
    (here / "there" / "f").write_bytes(b"no secret\n" * 1000)
    site.sftp(f"get {here / 'there' / 'f'} {here / 'f'}", f"ls {here}")
    recorded, session = site.recorded()
    talk = Talk(begun=False)
    kinds = ("request", "response", "content")
    for event in recorded.of(session):
        if event["kind"] in kinds and event["text"] != "subsystem sftp":
            assert event["orig_len"] == len(recorded.payload(event))
            talk.say(Side(event["side"]), recorded.payload(event))
    assert b"".join(data for _, data, _ in contents(talk.steps)) == b"no secret\n" * 1000
    assert all(talk.sftp.left(side) == b"" for side in Side)


class Raw:
    """A client that says what it is told to."""

    def __init__(self, process: asyncssh.SSHClientProcess[bytes]) -> None:
        self._process = process
        self._buffer = b""

    def say(self, *frames: bytes) -> None:
        self._process.stdin.write(b"".join(frames))

    async def hear(self) -> bytes:
        """Return the next packet."""
        size = await self._process.stdout.readexactly(4)
        return size + await self._process.stdout.readexactly(int.from_bytes(size))

    async def open(self, number: int, path: Path, flags: int = wire.READ) -> bytes:
        self.say(wire.opens(number, os.fsencode(path), flags))
        answer = await self.hear()
        assert answer[4] == 102, answer
        return answer[13:]

    async def last_words(self) -> tuple[str, int | None]:
        said = await self._process.stderr.read()
        await self._process.wait_closed()
        return said.decode(), self._process.exit_status

    def end(self) -> None:
        self._process.stdin.write_eof()


@asynccontextmanager
async def raw(site: Site, *, begun: bool = True) -> AsyncIterator[Raw]:
    async with site.connection() as connection:
        process = await connection.create_process(subsystem="sftp", encoding=None)
        client = Raw(process)
        if begun:
            client.say(wire.INIT)
            assert (await client.hear())[4] == 2
        yield client


async def test_answers_pass_while_a_request_waits_and_requests_do_not(
    site: Site, here: Path
) -> None:
    there = here / "there"
    (there / "f").write_bytes(b"content")
    async with asyncio.timeout(60), raw(site) as client:
        handle = await client.open(1, there / "f")
        old, new = (wire.string(os.fsencode(there / name)) for name in ("f", "g"))
        client.say(
            wire.reads(2, handle, 0, 100),
            wire.request(18, 3, old, new),
            wire.request(14, 4, wire.string(os.fsencode(there / "made")), wire.NO_ATTRIBUTES),
        )
        assert (await client.hear()) == wire.data(2, b"content")
        (request,) = await asyncio.to_thread(site.reviewers.wait_for)
        client.say(wire.closes(5, handle))
        await asyncio.sleep(0.3)
        assert sorted(path.name for path in there.iterdir()) == ["f"]
        await asyncio.to_thread(site.reviewers.decide, request)
        answers = [await client.hear() for _ in range(3)]
        assert [(a[4], int.from_bytes(a[5:9])) for a in answers] == [(101, 3), (101, 4), (101, 5)]
    assert sorted(path.name for path in there.iterdir()) == ["g", "made"]
    assert [(r["operation"], r["status"]) for r in site.rows()][-3:] == [
        ("sftp.read", "ok"),
        ("sftp.rename", "ok"),
        ("sftp.mkdir", "ok"),
    ]


async def test_whoever_hangs_up_while_a_request_waits_is_asked_for_no_more(
    site: Site, here: Path
) -> None:
    there = here / "there"
    (there / "f").write_bytes(b"")
    old, new = (wire.string(os.fsencode(there / name)) for name in ("f", "g"))
    behind = wire.request(7, 2, wire.string(b"a handle"), wire.NO_ATTRIBUTES)
    async with asyncio.timeout(60), raw(site) as client:
        client.say(wire.request(18, 1, old, new), behind)
        await asyncio.to_thread(site.reviewers.wait_for)
    recorded, session = site.recorded()
    assert site.reviewers.state.requests(state="pending") == []
    assert (there / "f").exists()
    (row,) = [r for r in recorded.commands_of(session) if r["operation"] == "sftp.rename"]
    assert (row["decision"], row["status"]) == ("hold", "cancelled")
    left = [e for e in recorded.of(session) if e["text"] == "not passed on"]
    assert [recorded.payload(event) for event in left] == [behind]


async def test_the_end_of_what_a_client_says_comes_behind_what_waits(
    site: Site, here: Path
) -> None:
    """OpenSSH's server ends at once when it hears of it, whatever it was asked before."""
    old, new = (wire.string(os.fsencode(here / name)) for name in ("f", "g"))
    async with asyncio.timeout(60), raw(site) as client:
        client.say(wire.request(18, 1, old, new), wire.request(13, 2, new))
        client.end()
        (request,) = await asyncio.to_thread(site.reviewers.wait_for)
        await asyncio.to_thread(site.reviewers.decide, request)
        assert (await client.last_words())[1] == 0
    recorded, session = site.recorded()
    order = [event["text"] for event in recorded.of(session) if event["kind"] != "response"]
    places = [
        next(at for at, text in enumerate(order) if text is not None and text.startswith(word))
        for word in ("rename ", "approved ", "remove ", "eof")
    ]
    assert places == sorted(places)


async def test_what_is_read_out_of_order_has_no_hash(site: Site, here: Path) -> None:
    (here / "there" / "f").write_bytes(b"one\ntwo\n")
    async with asyncio.timeout(60), raw(site) as client:
        handle = await client.open(1, here / "there" / "f")
        for number, offset in ((2, 4), (3, 0)):
            client.say(wire.reads(number, handle, offset, 4))
            assert (await client.hear())[4] == 103
        client.say(wire.closes(4, handle))
        await client.hear()
    (row,) = site.rows("sftp.read")
    assert (row["sha256"] or [], row["status"]) == ([], "ok")
    assert "(8 bytes, not from the beginning on, or not in order)" in row["text"]


async def test_what_is_no_sftp_ends_the_channel_with_a_reason(site: Site, here: Path) -> None:
    garbage = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    async with asyncio.timeout(60), raw(site) as client:
        client.say(wire.request(17, 1, wire.string(os.fsencode(here))), garbage)
        words, status = await client.last_words()
    assert "agentaudit: sftp: a packet of 1195725856 bytes" in words
    assert status == 254
    recorded, session = site.recorded()
    rows = recorded.commands_of(session)
    assert rows[0]["status"] == "error"
    assert rows[0]["error_text"].startswith("sftp: a packet of 1195725856 bytes")
    assert [row["operation"] for row in rows] == ["subsystem", "sftp.stat"]
    left = [e for e in recorded.of(session) if e["text"] == "not passed on"]
    assert [recorded.payload(event) for event in left] == [garbage]


async def test_half_a_packet_is_recorded_when_its_client_hangs_up(site: Site, here: Path) -> None:
    half = wire.opens(1, os.fsencode(here / "a b"))[:-7]
    async with asyncio.timeout(60), raw(site) as client:
        client.say(half)
        await asyncio.sleep(0.3)
    recorded, session = site.recorded()
    (event,) = [e for e in recorded.of(session) if e["text"] == "not passed on"]
    assert event["orig_len"] == len(half)
    assert recorded.payload(event)[:9] == half[:9]


async def test_a_client_of_another_make_sees_what_it_would_without_us(
    site: Site, sshd: Sshd, here: Path
) -> None:
    data = random.Random(3).randbytes(1_000_000)

    async def play(sftp: asyncssh.SFTPClient, name: str) -> list[Any]:
        top = here / name
        await sftp.mkdir(str(top))
        (here / "up").write_bytes(data)
        await sftp.put(str(here / "up"), str(top / "a"))
        await sftp.posix_rename(str(top / "a"), str(top / "b"))
        (top / "link").symlink_to("b")
        await sftp.chmod(str(top / "b"), 0o640)
        await sftp.get(str(top / "b"), str(here / f"{name}.down"))
        found: list[Any] = [sorted(str(each) for each in await sftp.listdir(str(top)))]
        found.append(oct((await sftp.stat(str(top / "b"))).permissions or 0))
        found.append(await sftp.readlink(str(top / "link")))
        for gone in ("nowhere", "b"):
            try:
                await sftp.rmdir(str(top / gone))
            except asyncssh.SFTPError as error:
                found.append(error.code)
        async with sftp.open(str(top / "b"), "rb") as file:
            await file.seek(10)
            found.append(await file.read(20))
        return found

    async with asyncio.timeout(90):
        direct = await asyncssh.connect(
            *("127.0.0.1", sshd.port),
            username=sshd.user,
            client_keys=[str(sshd.key_file)],
            known_hosts=None,
            agent_path=None,
            config=[],
        )
        async with direct, direct.start_sftp_client() as sftp:
            expected = await play(sftp, "direct")

        async with site.connection() as connection, connection.start_sftp_client() as sftp:
            renamed = asyncio.to_thread(site.reviewers.approve_next)
            approved = asyncio.gather(renamed)
            assert await play(sftp, "through") == expected
            await approved
    assert (here / "through.down").read_bytes() == data
    rows = site.rows("sftp.read", "sftp.write", "sftp.rmdir")
    of = [(r["operation"], r["sha256"] or [], r["status"]) for r in rows]
    assert of[:2] == [("sftp.write", digest(data), "ok"), ("sftp.read", digest(data), "ok")]
    assert [(operation, status) for operation, _, status in of[2:]] == [
        ("sftp.rmdir", "error"),
        ("sftp.rmdir", "error"),
        ("sftp.read", "ok"),
    ]
