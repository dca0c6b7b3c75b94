"""A log and its witnesses: what a recorder gets cosigned, and what verify makes of it."""

from __future__ import annotations

import asyncio
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agentaudit.archive import witnessing
from agentaudit.archive.note import Checkpoint, Cosigner, CosigningKey, Verifier, open_note
from agentaudit.archive.outside import Outside, WitnessPeer
from agentaudit.archive.prove import prove
from agentaudit.archive.tile_hashes import TileHashes
from agentaudit.archive.tlog_policy import format_policy
from agentaudit.archive.verify import verify
from agentaudit.archive.witnessing import ask
from agentaudit.cli import main
from agentaudit.errors import ArchiveError, TamperedError
from agentaudit.settings.values import parse_address
from agentaudit.witness.server import WitnessServer, create_witness
from tests.archive.recording import (
    ANA,
    GATEWAY,
    Site,
    counted,
    crashed,
    exchange,
    new_site,
    record,
    rows,
    sealer,
    start,
)

DEADLINE_S = 60.0


class RunningWitness:
    """A witness of its own key that knows one site's log."""

    def __init__(self, folder: Path, site: Site, name: str = "witness.example/w1") -> None:
        self._folder = folder
        self.key = Cosigner.parse(create_witness(folder, name))
        (folder / "logs").write_text(site.vkey.splitlines()[0] + "\n")
        self.said: list[dict[str, Any]] = []

    @contextmanager
    def served(self) -> Iterator[WitnessPeer]:
        server = WitnessServer(self._folder, parse_address("127.0.0.1:0"), say=self.said.append)
        try:
            yield WitnessPeer(url=f"http://{server.address}", key=str(self.key))
        finally:
            server.close()


@pytest.fixture
def witness(tmp_path: Path, site: Site) -> RunningWitness:
    return RunningWitness(tmp_path / "w1", site)


def log_key(site: Site) -> Verifier:
    return Verifier.parse(site.vkey.splitlines()[0])


def policy(site: Site, *witnesses: RunningWitness) -> bytes:
    """What an auditor would write: the log's key and the witnesses', from their owners."""
    return format_policy([log_key(site)], [(w.key, "https://w.example/") for w in witnesses])


def log_folder(site: Site) -> Path:
    return site.layout.log(GATEWAY)


def cosigned(site: Site) -> bytes:
    return (log_folder(site) / "cosigned").read_bytes()


def size_of(note: bytes) -> int:
    return Checkpoint.parse(open_note(note, []).text).size


def checks(site: Site, **options: Any) -> set[str]:
    result = verify(site.archive, key=site.vkey, remember=False, **options)
    assert result.ok is False
    return {finding.check for finding in result.findings}


def work(site: Site, peers: list[WitnessPeer], *, rounds: int = 1) -> list[dict[str, Any]]:
    """Run a sealer in this process over what was recorded; return what it says."""
    said: list[dict[str, Any]] = []
    with sealer(site, outside=Outside(witnesses=tuple(peers))) as opened:
        opened._say = said.append
        opened.recover()
        for _ in range(rounds):
            opened.turn()
        opened.stop()
    return said


# --- recording


def test_what_was_recorded_and_sealed_is_cosigned_to_the_last_entry(
    site: Site, witness: RunningWitness
) -> None:
    with witness.served() as peer:
        record(site, sessions=2, outside=Outside(witnesses=(peer,)))
    result = verify(site.archive, key=site.vkey, policy=policy(site, witness), remember=False)
    assert result.ok is True, result.findings
    (anchor,) = result.anchors
    assert anchor.kind == "witnessed checkpoint"
    assert anchor.size == result.checkpoints[GATEWAY].size
    assert anchor.by == ("w1",)
    assert anchor.at_s is not None
    assert abs(anchor.at_s - time.time()) < 3600
    (exposure,) = result.exposure
    assert (exposure.anchor, exposure.entries, exposure.events) == ("witnessed checkpoint", 0, 0)


def test_the_published_checkpoint_carries_the_cosignature_and_a_start_goes_on_from_it(
    site: Site, witness: RunningWitness
) -> None:
    with witness.served() as peer:
        record(site, outside=Outside(witnesses=(peer,)))
        checkpoint = (log_folder(site) / "checkpoint").read_bytes()
        assert checkpoint == cosigned(site)
        assert open_note(checkpoint, [log_key(site)], [witness.key]).cosigned_by
        # The second run knows nothing of what the witness has seen, and learns it by 409.
        record(site, outside=Outside(witnesses=(peer,)))
    assert size_of(cosigned(site)) > size_of(checkpoint)
    result = verify(site.archive, key=site.vkey, policy=policy(site, witness), deep=True)
    assert result.ok is True, result.findings


def test_the_operators_policy_lies_in_the_log_and_is_no_authority(
    site: Site, witness: RunningWitness
) -> None:
    with witness.served() as peer:
        record(site, outside=Outside(witnesses=(peer,)))
    text = (log_folder(site) / "policy").read_bytes()
    assert text == format_policy([log_key(site)], [(witness.key, peer.url)])
    result = verify(site.archive, key=site.vkey, remember=False)
    assert result.ok is True
    assert result.anchors == []
    assert [exposure.anchor for exposure in result.exposure] == ["none"]


def test_a_crash_with_a_cosigned_checkpoint_is_recovered_from(
    site: Site, witness: RunningWitness
) -> None:
    with witness.served() as peer:
        outside = Outside(witnesses=(peer,))
        record(site, outside=outside)
        crashed(site, outside=outside)
        work(site, [peer])
    result = verify(site.archive, key=site.vkey, policy=policy(site, witness), deep=True)
    assert result.ok is True, result.findings


def test_a_witness_that_is_down_holds_up_nothing_and_is_named_once(
    site: Site, witness: RunningWitness
) -> None:
    with witness.served() as peer:
        pass  # a port that nobody listens on any more
    said: list[dict[str, Any]] = []

    async def run() -> None:
        recorder = await start(site, outside=Outside(witnesses=(peer,)), on_notice=said.append)
        session = recorder.open_session(ANA)
        for number in range(3):
            exchange(session, number)
            await counted(recorder)
        session.close("client")
        await recorder.stop()

    asyncio.run(run())
    assert [(line["notice"], line["level"]) for line in said] == [
        ("witness does not answer as it should", "warning")
    ]
    assert said[0]["url"] == peer.url
    result = verify(site.archive, key=site.vkey, policy=policy(site, witness), remember=False)
    assert result.ok is None
    assert result.without_quorum == [GATEWAY]
    assert result.findings == []
    assert result.exposure[0].events == result.events


def test_a_witness_that_never_answers_holds_up_nothing(site: Site, witness: RunningWitness) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        peer = WitnessPeer(url=f"http://127.0.0.1:{silent.getsockname()[1]}", key=str(witness.key))
        record(site, outside=Outside(witnesses=(peer,)))
    assert verify(site.archive, key=site.vkey, remember=False).ok is True


def test_of_two_witnesses_one_may_be_away_and_the_other_is_kept(
    site: Site, witness: RunningWitness, tmp_path: Path
) -> None:
    other = RunningWitness(tmp_path / "w2", site, "witness.example/w2")
    with witness.served() as peer, other.served() as second:
        pass
    with witness.served() as peer:
        record(site, outside=Outside(witnesses=(peer, second)))
    assert verify(site.archive, key=site.vkey, policy=policy(site, witness), remember=False).ok
    both = verify(site.archive, key=site.vkey, policy=policy(site, witness, other), remember=False)
    assert both.ok is None
    assert both.without_quorum == [GATEWAY]


def test_a_quorum_is_kept_until_there_is_a_newer_one(
    site: Site, witness: RunningWitness, tmp_path: Path
) -> None:
    other = RunningWitness(tmp_path / "w2", site, "witness.example/w2")
    with witness.served() as peer, other.served() as second:
        record(site, outside=Outside(witnesses=(peer, second)))
        both = cosigned(site)
        assert len(open_note(both, [], [witness.key, other.key]).cosigned_by) == 2
    with witness.served() as peer:
        record(site, outside=Outside(witnesses=(peer, second)))
    assert cosigned(site) == both
    result = verify(
        site.archive, key=site.vkey, policy=policy(site, witness, other), remember=False
    )
    assert result.ok is True
    assert result.anchors[-1].size == size_of(both)
    assert result.exposure[0].events > 0


def test_a_segment_that_is_sealed_is_offered_at_once(
    site: Site, witness: RunningWitness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(witnessing, "ROUND_S", 1e9)
    record(site)
    crashed(site, close=True)
    with (
        witness.served() as peer,
        sealer(site, outside=Outside(witnesses=(peer,))) as opened,
    ):
        opened.recover()
        deadline = time.monotonic() + DEADLINE_S
        while not (log_folder(site) / "cosigned").exists() and time.monotonic() < deadline:
            opened.turn()
        assert size_of(cosigned(site)) == opened._log.size
        before = opened._log.size
        opened._append({"type": "heartbeat", "next_event": opened._next_event_no})
        opened.turn()
        assert opened._witnessing is not None
        assert not opened._witnessing.is_under_way
        opened._witnessing.hurry()
        while size_of(cosigned(site)) == before and time.monotonic() < deadline:
            opened.turn()
        assert size_of(cosigned(site)) == before + 1


# --- a witness that one cannot trust


@contextmanager
def answering(answer: Callable[[bytes], bytes]) -> Iterator[str]:
    """A server that answers each request with whatever `answer` makes of it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    received = b""
                    while b"\n\n" not in received.partition(b"\r\n\r\n")[2]:
                        received += connection.recv(65536)
                    try:
                        connection.sendall(answer(received))
                    except OSError:
                        pass

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/prefix/"
        listener.shutdown(socket.SHUT_RDWR)


def http(status: str, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = new_site(tmp_path_factory.mktemp("recorded") / "site")
    record(site)
    return site


KEY = CosigningKey("witness.example/w1", bytes(32))
STRANGER = CosigningKey("witness.example/w1", b"another".ljust(32))


def asked(site: Site, answer: Callable[[bytes], bytes]) -> str:
    note = (log_folder(site) / "checkpoint").read_bytes()
    with answering(answer) as url:
        peer = WitnessPeer(url=url, key=str(KEY.cosigner))
        return ask(peer, KEY.cosigner, note, TileHashes(log_folder(site), size_of(note)), 0).line


def test_a_cosignature_is_found_among_others(recorded: Site) -> None:
    text = open_note((log_folder(recorded) / "checkpoint").read_bytes(), []).text
    line = KEY.cosign(text, 1_700_000_000)
    body = (STRANGER.cosign(text, 5) + line).encode()
    seen: list[bytes] = []

    def answer(request: bytes) -> bytes:
        seen.append(request)
        return http("200 OK", body)

    assert asked(recorded, answer) == line
    assert seen[0].startswith(b"POST /prefix/add-checkpoint HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (http("200 OK", b""), "signed note"),
        (http("200 OK", b"\n\n\n"), "signed note"),
        (http("200 OK", b"nonsense\n"), "signed note"),
        (http("200 OK", STRANGER.cosign("x", 5).encode()), "without a cosignature by its key"),
        (http("200 OK", KEY.cosign("another text\n", 5).encode()), "does not fit its text"),
        (http("200 OK", b"\xff\xfe\n"), "not UTF-8"),
        (http("200 OK", b"x" * 100_000), "longer than"),
        (http("302 Found", b"", "Location: http://127.0.0.1:1/"), "answers 302"),
        (http("404 Not Found", b"no\n"), "answers 404"),
        (http("409 Conflict", b"no\n"), "answers 409"),
        (http("409 Conflict", b"01\n"), "answers 409"),
        (b"\x00\x01\x02\r\n\r\n", "not an answer over HTTP"),
        (b"", "not an answer over HTTP"),
    ],
)
def test_what_is_no_witnesss_answer_is_refused(recorded: Site, reply: bytes, says: str) -> None:
    with pytest.raises(ArchiveError) as caught:
        asked(recorded, lambda _: reply)
    assert says in str(caught.value)
    assert not isinstance(caught.value, TamperedError)


def test_a_witness_that_has_seen_more_than_there_is_or_another_tree_is_an_alarm(
    recorded: Site,
) -> None:
    with pytest.raises(TamperedError, match="has cosigned 4711 entries"):
        asked(recorded, lambda _: http("409 Conflict", b"4711\n"))
    with pytest.raises(TamperedError, match="another root of this log's first 3 entries"):
        asked(recorded, lambda _: http("409 Conflict", b"3\n"))


def test_a_witness_to_which_our_own_proof_does_not_lead_is_an_alarm(recorded: Site) -> None:
    replies = iter([http("409 Conflict", b"3\n"), http("422 Unprocessable Entity", b"")])
    with pytest.raises(TamperedError, match="does not follow from the 3 entries"):
        asked(recorded, lambda _: next(replies))


def test_a_witness_that_moves_on_whenever_it_is_asked_is_given_up(recorded: Site) -> None:
    sizes = iter(range(1, 100))
    with pytest.raises(ArchiveError, match="goes on while it is asked"):
        asked(recorded, lambda _: http("409 Conflict", b"%d\n" % next(sizes)))


# --- forks and rollbacks


@pytest.fixture
def forked(tmp_path: Path, site: Site, witness: RunningWitness) -> tuple[Site, Site]:
    """A site that was witnessed, and its twin that went another way from an earlier state."""
    with witness.served() as peer:
        outside = Outside(witnesses=(peer,))
        record(site, outside=outside)
        twin = site.copy_to(tmp_path / "twin")
        record(site, outside=outside)
    record(twin, sessions=3)
    return site, twin


def test_a_fork_is_found_against_the_witnessed_checkpoint_of_the_other(
    forked: tuple[Site, Site], witness: RunningWitness
) -> None:
    site, twin = forked
    assert verify(twin.archive, key=twin.vkey, remember=False).ok is True
    since = cosigned(site).decode()
    assert checks(twin, since=since) == {"fork"}
    assert checks(twin, since=since, policy=policy(site, witness)) == {"fork"}
    # Put into its archive, it is the log's own contradiction, whoever looks.
    shutil.copy(log_folder(site) / "cosigned", log_folder(twin) / "cosigned")
    assert checks(twin) == {"fork"}
    assert checks(twin, policy=policy(site, witness)) == {"fork"}


def test_a_fork_gets_no_cosignature_and_its_gateways_log_says_why(
    forked: tuple[Site, Site], witness: RunningWitness
) -> None:
    _, twin = forked
    before = cosigned(twin)
    with witness.served() as peer:
        said = [line for line in work(twin, [peer]) if "notice" in line]
    assert {line["level"] for line in said} == {"error"}
    assert "does not follow from" in said[-1]["reason"]
    assert cosigned(twin) == before


def test_an_archive_that_was_rolled_back_is_found_against_what_witnesses_saw(
    tmp_path: Path, site: Site, witness: RunningWitness
) -> None:
    with witness.served() as peer:
        outside = Outside(witnesses=(peer,))
        record(site, outside=outside)
        yesterday = site.copy_to(tmp_path / "yesterday")
        record(site, outside=outside)
    later = cosigned(site)
    assert checks(yesterday, since=later.decode()) == {"rollback"}
    (log_folder(yesterday) / "cosigned").write_bytes(later)
    assert checks(yesterday) == {"rollback"}
    # The key alone cannot tell, as ever.
    (log_folder(yesterday) / "cosigned").unlink()
    assert verify(yesterday.archive, key=site.vkey, remember=False).ok is True


def test_a_rolled_back_log_that_goes_on_is_an_alarm_at_its_witness(
    tmp_path: Path, site: Site, witness: RunningWitness
) -> None:
    with witness.served() as peer:
        outside = Outside(witnesses=(peer,))
        record(site, outside=outside)
        yesterday = site.copy_to(tmp_path / "yesterday")
        record(site, sessions=4, outside=outside)
        said = [line for line in work(yesterday, [peer]) if "notice" in line]
    assert [line["level"] for line in said][:1] == ["error"]
    assert "has cosigned" in said[0]["reason"]


# --- what lies in the log's folder


@pytest.fixture
def witnessed(tmp_path: Path, site: Site, witness: RunningWitness) -> Site:
    with witness.served() as peer:
        record(site, outside=Outside(witnesses=(peer,)))
    return site


def test_every_byte_of_a_cosigned_checkpoint_matters_or_does_not_count(
    witnessed: Site, witness: RunningWitness
) -> None:
    path = log_folder(witnessed) / "cosigned"
    (log_folder(witnessed) / "checkpoint").write_bytes(
        b"".join((log_folder(witnessed) / "checkpoint").read_bytes().splitlines(True)[:-1])
    )
    note = path.read_bytes()
    trusted = policy(witnessed, witness)
    # But for the epoch key's line: the log key's own is what makes this the log's word.
    begin = note.index(b"/epoch ")
    epoch = range(note.rindex(b"\n", 0, begin) + 1, note.index(b"\n", begin))
    for place in [place for place in range(0, len(note), 7) if place not in epoch]:
        changed = note[:place] + bytes([note[place] ^ 1]) + note[place + 1 :]
        path.write_bytes(changed)
        result = verify(witnessed.archive, key=witnessed.vkey, policy=trusted, remember=False)
        assert result.ok is not True
    path.write_bytes(note)
    assert verify(witnessed.archive, key=witnessed.vkey, policy=trusted, remember=False).ok


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"a\n1\nAAAA\n\n", b"\xff" * 1000, b"x" * 200_000]
)
@pytest.mark.parametrize("name", ["cosigned", "policy"])
def test_what_is_no_cosigned_checkpoint_or_policy_is_a_finding(
    witnessed: Site, name: str, content: bytes
) -> None:
    (log_folder(witnessed) / name).write_bytes(content)
    assert checks(witnessed) == {"witness"}


def test_a_cosigned_checkpoint_of_another_log_is_a_finding(witnessed: Site, recorded: Site) -> None:
    shutil.copy(log_folder(recorded) / "checkpoint", log_folder(witnessed) / "cosigned")
    assert checks(witnessed) == {"witness"}


def test_a_policy_for_another_log_is_a_finding(witnessed: Site, recorded: Site) -> None:
    (log_folder(witnessed) / "policy").write_bytes(format_policy([log_key(recorded)], []))
    assert checks(witnessed) == {"witness"}


def test_other_files_beside_them_are_strays(witnessed: Site) -> None:
    (log_folder(witnessed) / "cosigned.old").write_bytes(cosigned(witnessed))
    assert checks(witnessed) == {"stray"}


def test_a_policy_names_the_logs_key_as_well_as_a_given_key_does(
    witnessed: Site, witness: RunningWitness, recorded: Site
) -> None:
    trusted = policy(witnessed, witness)
    assert verify(witnessed.archive, policy=trusted, remember=False).ok is True
    elsewhere = verify(recorded.archive, key=recorded.vkey, policy=trusted, remember=False)
    # The policy has another key for this origin: what the given key says is not what it asks for.
    assert elsewhere.ok is None
    assert elsewhere.without_quorum == [GATEWAY]
    without_key = verify(recorded.archive, policy=trusted, remember=False)
    assert "signature" in {finding.check for finding in without_key.findings}


def test_a_policy_without_witnesses_gives_no_anchor(witnessed: Site) -> None:
    trusted = format_policy([log_key(witnessed)], [])
    result = verify(witnessed.archive, policy=trusted, remember=False)
    assert result.ok is True
    assert result.anchors == []


def test_a_malformed_policy_is_an_error_of_whoever_gives_it(witnessed: Site) -> None:
    with pytest.raises(ArchiveError, match="policy line 1"):
        verify(witnessed.archive, policy="nonsense\n")


# --- as a gateway and the command line have it


def test_a_proof_of_a_witnessed_session_is_held_to_the_policy_too(
    witnessed: Site, witness: RunningWitness, tmp_path: Path
) -> None:
    session = rows(witnessed, "sessions")[0]["session_id"]
    proof = prove(witnessed.archive, session, out=tmp_path / "proof").folder
    result = verify(proof, key=witnessed.vkey, policy=policy(witnessed, witness), remember=False)
    assert result.ok is True, result.findings
    assert [anchor.kind for anchor in result.anchors] == ["witnessed checkpoint"]
    assert [exposure.anchor for exposure in result.exposure] == ["witnessed checkpoint"]
    stranger = RunningWitness(tmp_path / "w9", witnessed, "witness.example/w9")
    asked = policy(witnessed, stranger)
    result = verify(proof, key=witnessed.vkey, policy=asked, remember=False)
    assert result.ok is None
    assert result.without_quorum == [GATEWAY]


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    status = main(["verify", *words])
    return status, capsys.readouterr().out


def test_the_command_line_names_anchors_and_what_is_exposed(
    witnessed: Site,
    witness: RunningWitness,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    archive, keys = str(witnessed.archive), str(witnessed.keys / f"{GATEWAY}.vkey")
    key = tmp_path / "log.vkey"
    key.write_text(str(log_key(witnessed)))
    status, out = told(capsys, archive, "--key", str(key))
    assert (status, "anchor:" in out) == (0, False)
    assert "all of it: nothing outside the archive" in out
    trusted = tmp_path / "audit.policy"
    trusted.write_bytes(policy(witnessed, witness))
    status, out = told(capsys, archive, "--policy", str(trusted))
    assert status == 0
    assert "anchor: gw1: witnessed checkpoint at" in out
    assert "Z, by w1" in out
    assert "exposed: gw1: 0 log entries with 0 events, since the witnessed checkpoint" in out
    stranger = RunningWitness(tmp_path / "w9", witnessed, "witness.example/w9")
    trusted.write_bytes(policy(witnessed, stranger))
    status, out = told(capsys, archive, "--policy", str(trusted), "--key", str(key))
    assert status == 2
    assert "no quorum: gw1" in out
    assert told(capsys, archive, "--policy", keys)[0] == 2  # a key is no policy
    assert told(capsys, archive, "--policy", str(tmp_path / "missing"))[0] == 2
