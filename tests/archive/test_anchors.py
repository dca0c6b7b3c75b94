"""Time stamps over checkpoints, from a real authority (`openssl ts`) on loopback."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentaudit.archive.anchors import Authorities, request_token
from agentaudit.archive.layout import anchor_path, anchor_size
from agentaudit.archive.log import read_log
from agentaudit.archive.note import Checkpoint
from agentaudit.archive.outside import AnchorPeer, Outside
from agentaudit.archive.verification import Anchor
from agentaudit.archive.verify import verify
from agentaudit.errors import ArchiveError
from tests.archive.recording import (
    GATEWAY,
    Site,
    new_site,
    record,
    recover,
    resign,
    sealer,
    start,
    until,
)
from tests.peers.tsa import TimeStamper

DEADLINE_S = 60.0
TEXT = Checkpoint("example.com/log", 7, bytes(32)).text().encode()


@pytest.fixture(scope="module")
def stamper(tmp_path_factory: pytest.TempPathFactory) -> TimeStamper:
    return TimeStamper(tmp_path_factory.mktemp("tsa") / "one")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> TimeStamper:
    return TimeStamper(tmp_path_factory.mktemp("tsa") / "two")


@pytest.fixture
def url(stamper: TimeStamper) -> Iterator[str]:
    with stamper.served() as url:
        yield url


def peer_of(url: str, stamper: TimeStamper | None = None, interval_s: float = 3600.0) -> AnchorPeer:
    ca_file = None if stamper is None else str(stamper.ca_file)
    return AnchorPeer(url=url, interval_s=interval_s, ca_file=ca_file)


def folder(site: Site) -> Path:
    return site.layout.log(GATEWAY)


def anchors(site: Site) -> list[dict[str, Any]]:
    return [entry for entry in site.log_entries() if entry["type"] == "anchor"]


def stamp(
    site: Site, *peers: AnchorPeer, count: int = 1, grows: bool = False
) -> list[dict[str, Any]]:
    """Let a sealer run until `count` more anchors are logged; return what it said.

    Where the log `grows`, there is always something that no anchor covers.
    """
    said: list[dict[str, Any]] = []
    before = len(anchors(site)) if (folder(site) / "checkpoint").exists() else 0
    with sealer(site, outside=Outside(anchors=peers)) as opened:
        opened._say = said.append
        opened.recover()
        deadline = time.monotonic() + DEADLINE_S
        while len(anchors(site)) < before + count and time.monotonic() < deadline:
            if grows:
                opened._append({"type": "heartbeat", "next_event": opened._next_event_no})
            opened.turn()
        opened.stop()
    assert len(anchors(site)) == before + count
    return said


@pytest.fixture
def stamped(site: Site, url: str, stamper: TimeStamper) -> Site:
    record(site)
    stamp(site, peer_of(f"{url}/", stamper))
    return site


def checked(site: Site, stamper: TimeStamper | None = None) -> Any:
    tsa = None if stamper is None else stamper.ca_file.read_bytes()
    return verify(site.archive, key=site.vkey, tsa=tsa, remember=False)


# --- tokens


def test_a_token_says_when_its_text_was_there(url: str, stamper: TimeStamper) -> None:
    token = request_token(peer_of(f"{url}/", stamper), TEXT)
    at_s = Authorities(stamper.ca_file.read_bytes()).check(token, TEXT)
    assert abs(at_s - time.time()) < 3600


def test_a_token_is_good_for_its_text_and_its_authority_alone(
    url: str, stamper: TimeStamper, stranger: TimeStamper
) -> None:
    token = request_token(peer_of(f"{url}/"), TEXT)
    with pytest.raises(ArchiveError, match="Mismatch between messages"):
        Authorities(stamper.ca_file.read_bytes()).check(token, TEXT + b"x")
    with pytest.raises(ArchiveError, match="while verifying certificates"):
        Authorities(stranger.ca_file.read_bytes()).check(token, TEXT)
    both = stranger.ca_file.read_bytes() + stamper.ca_file.read_bytes()
    assert Authorities(both).check(token, TEXT)


def test_no_changed_token_is_accepted_with_another_time_or_text(
    url: str, stamper: TimeStamper
) -> None:
    token = request_token(peer_of(f"{url}/"), TEXT)
    authorities = Authorities(stamper.ca_file.read_bytes())
    at_s = authorities.check(token, TEXT)
    accepted = 0
    for place in range(len(token)):
        changed = token[:place] + bytes([token[place] ^ 0x15]) + token[place + 1 :]
        try:
            # What the signature does not cover (names of algorithms) may change; the time may not.
            assert authorities.check(changed, TEXT) == at_s
            accepted += 1
        except ArchiveError:
            pass
    assert accepted < 20


@pytest.mark.parametrize("token", [b"", b"0", b"\x30\x03\x02\x01\x00", b"\x30\x80", b"x" * 70_000])
def test_what_is_no_token_is_an_error(stamper: TimeStamper, token: bytes) -> None:
    with pytest.raises(ArchiveError, match="time stamp"):
        Authorities(stamper.ca_file.read_bytes()).check(token, TEXT)


@pytest.mark.parametrize("pem", [b"", b"-----BEGIN CERTIFICATE-----\n", b"\xff"])
def test_what_are_no_certificates_is_an_error(pem: bytes) -> None:
    with pytest.raises(ArchiveError, match="certificates"):
        Authorities(pem)


@pytest.mark.parametrize(
    ("path", "says"),
    [("/old", "not over what it was asked for"), ("/down", "answers 503"), ("/broken", "stamp")],
)
def test_an_authority_that_sends_something_else_is_refused(
    url: str, stamper: TimeStamper, path: str, says: str
) -> None:
    request_token(peer_of(f"{url}/", stamper), b"before")
    with pytest.raises(ArchiveError, match=says):
        request_token(peer_of(f"{url}{path}", stamper), TEXT)


def test_a_token_of_another_authority_than_the_settings_name_is_refused(
    url: str, stranger: TimeStamper
) -> None:
    with pytest.raises(ArchiveError, match="while verifying certificates"):
        request_token(peer_of(f"{url}/", stranger), TEXT)


# --- a log with time stamps


def test_a_time_stamp_bounds_what_is_exposed_for_whoever_has_the_certificates(
    stamped: Site, stamper: TimeStamper
) -> None:
    (entry,) = anchors(stamped)
    result = checked(stamped, stamper)
    assert result.ok is True, result.findings
    (anchor,) = result.anchors
    assert anchor == Anchor(
        gateway=GATEWAY,
        kind="time-stamped checkpoint",
        size=entry["size"],
        at_s=anchor.at_s,
        by=(entry["authority"],),
    )
    (exposure,) = result.exposure
    assert exposure.anchor == "time-stamped checkpoint"
    assert exposure.since_size == entry["size"]
    assert exposure.events == 0
    without = checked(stamped)
    assert without.ok is True
    assert without.anchors == []


def test_openssl_alone_verifies_a_stored_time_stamp(
    stamped: Site, stamper: TimeStamper, tmp_path: Path
) -> None:
    (entry,) = anchors(stamped)
    log = read_log(folder(stamped), [])
    text = Checkpoint(log.checkpoint.origin, entry["size"], bytes.fromhex(entry["root"])).text()
    (tmp_path / "text").write_text(text)
    subprocess.run(
        ["openssl", "ts", "-verify", "-data", tmp_path / "text", "-CAfile", stamper.ca_file]
        + ["-in", folder(stamped) / anchor_path(entry["size"])],
        check=True,
        capture_output=True,
    )


def test_a_gateway_stamps_while_it_records(site: Site, url: str, stamper: TimeStamper) -> None:
    # The start itself is news, so the first is asked for at once, by the sealer's own process.
    async def run() -> None:
        recorder = await start(site, outside=Outside(anchors=(peer_of(f"{url}/", stamper),)))
        await until(lambda: anchors(site) != [], "an anchor entry")
        await recorder.stop()

    asyncio.run(run())
    assert checked(site, stamper).ok is True


def test_authorities_are_asked_in_turn_and_never_twice_about_one_size(
    site: Site, url: str, stamper: TimeStamper
) -> None:
    record(site)
    first, second = peer_of(f"{url}/", stamper, 1e-9), peer_of(f"{url}/two", stamper, 1e-9)
    stamp(site, first, second, count=3, grows=True)
    sizes = [entry["size"] for entry in anchors(site)]
    assert len(set(sizes)) == 3
    assert checked(site, stamper).ok is True


def test_an_anchor_alone_is_no_news_to_anchor_again(
    site: Site, url: str, stamper: TimeStamper
) -> None:
    record(site)
    asked = stamper.asked
    with sealer(site, outside=Outside(anchors=(peer_of(f"{url}/", stamper, 1e-9),))) as opened:
        opened.recover()
        deadline = time.monotonic() + DEADLINE_S
        while not anchors(site) and time.monotonic() < deadline:
            opened.turn()
        for _ in range(50):
            opened.turn()
        assert opened._anchoring is not None
        assert not opened._anchoring._errand.is_under_way
        opened.stop()
    assert len(anchors(site)) == 1
    assert stamper.asked >= asked + 1


def test_an_authority_that_fails_is_named_once_and_stops_nothing(
    site: Site, url: str, stamper: TimeStamper
) -> None:
    record(site)
    said = stamp(site, peer_of(f"{url}/down"), peer_of(f"{url}/", stamper))
    notices = [line for line in said if "notice" in line]
    assert [(line["level"], line["reason"]) for line in notices] == [("warning", "it answers 503")]


def test_a_start_removes_a_token_that_no_entry_names(stamped: Site) -> None:
    left = folder(stamped) / anchor_path(2)
    left.write_bytes(b"a crash came between token and entry")
    assert checked(stamped).ok is True
    recover(stamped)
    assert not left.exists()
    (entry,) = anchors(stamped)
    assert (folder(stamped) / anchor_path(entry["size"])).exists()


def finding_of(site: Site, stamper: TimeStamper | None = None) -> set[str]:
    result = checked(site, stamper)
    assert result.ok is False
    return {finding.check for finding in result.findings}


def test_a_token_that_is_gone_or_changed_is_found_without_certificates(stamped: Site) -> None:
    (entry,) = anchors(stamped)
    path = folder(stamped) / anchor_path(entry["size"])
    token = path.read_bytes()
    path.write_bytes(token[:-1])
    assert finding_of(stamped) == {"anchor"}
    path.unlink()
    assert finding_of(stamped) == {"anchor"}


def test_a_history_that_was_written_anew_does_not_go_with_its_time_stamps(
    stamped: Site, stamper: TimeStamper
) -> None:
    """The operator has all keys: the log is signed anew, with the tokens of the other history."""
    (entry,) = anchors(stamped)

    def rewrite(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        last = max(n for n, e in enumerate(entries) if e["type"] == "key_epoch")
        assert last < entry["size"]
        return [e | {"version": "forged"} if e["type"] == "start" and n > last else e
                for n, e in enumerate(entries)]  # fmt: skip

    resign(stamped, rewrite)
    assert finding_of(stamped) == {"fork"}

    def hide(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        root = read_log(folder(stamped), []).root_at(entry["size"])
        return [e | {"root": root.hex()} if e["type"] == "anchor" else e for e in entries]

    resign(stamped, hide)
    assert checked(stamped).ok is True  # without certificates the token is only some file
    assert finding_of(stamped, stamper) == {"anchor"}


@pytest.mark.parametrize("size", [0, 1, 10**6])
def test_an_entry_that_anchors_what_was_not_there_is_found(stamped: Site, size: int) -> None:
    def change(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [e | {"size": size} if e["type"] == "anchor" else e for e in entries]

    resign(stamped, change)
    assert "anchor" in finding_of(stamped)


def test_names_of_tokens_are_those_of_sizes() -> None:
    assert anchor_size(anchor_path(120)) == 120
    for name in ("anchors/../x.tsr", "anchors/01.tsr", "anchors/1.TSR", "anchors/1.tsr.old", ""):
        assert anchor_size(name) is None


def test_other_files_among_the_tokens_are_strays(stamped: Site) -> None:
    (folder(stamped) / "anchors/note.txt").write_text("x")
    assert finding_of(stamped) == {"stray"}


def test_a_site_without_anchors_makes_no_folder_for_them(tmp_path: Path) -> None:
    site = new_site(tmp_path / "plain")
    record(site)
    assert not (folder(site) / "anchors").exists()
    assert not (folder(site) / "policy").exists()
