"""An archive's files over HTTP: to auditors alone, recorded, and nothing else of the folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pyarrow.parquet as pq
import pytest

from agentaudit import cli
from agentaudit.archive import pulling
from agentaudit.archive.verify import verify
from agentaudit.demo.gateways import Gateway
from agentaudit.errors import ArchiveError
from tests.gateway.test_control import People
from tests.peers.certificates import Authority
from tests.peers.gateway import GatewayFactory, gateways
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import PostgresPeer

SAMPLE = Path(__file__).parents[2] / "sample_data" / "archive"


@pytest.fixture(scope="module")
def sealed(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority, postgres18: PostgresPeer
) -> Gateway:
    """What is left of a gateway that has sealed two segments: each test goes on with a copy."""
    folder = tmp_path_factory.mktemp("sealed")
    with closing(SigningIssuer()) as issuer, gateways(folder, authority, lambda: issuer) as make:
        gw = make(postgres18.target(), start=False)
        for number in range(2):
            gw.start()
            run(gw, issuer, f"SELECT {number} AS sealed")
            gw.wait_until_idle()
            assert gw.terminate() == 0
        return gw


@pytest.fixture
def people(
    gateway: GatewayFactory,
    postgres18: PostgresPeer,
    signing_issuer: SigningIssuer,
    sealed: Gateway,
) -> Iterator[People]:
    """A gateway with an archive of two sealed segments, and a session in its journal."""
    gw = gateway(
        postgres18.target(),
        issuer=signing_issuer,
        listen={"control": "127.0.0.1:0"},
        tables={"roles": {"admin": ["root"], "auditor": ["auditors"]}},
        start=False,
    )
    shutil.rmtree(gw.directory / "keys")
    for name in ("archive", "keys"):
        shutil.copytree(sealed.directory / name, gw.directory / name)
    gw.verifier_key = sealed.verifier_key
    gw.start()
    found = People(gw, signing_issuer)
    run(gw, signing_issuer, "SELECT 'in the journal'")
    yield found
    found.http.close()


def run(gw: Gateway, issuer: SigningIssuer, *sql: str) -> None:
    with psycopg.connect(gw.dsn("orders", issuer.token("ana")), autocommit=True) as client:
        for each in sql:
            client.execute(each)


def auditor(people: People) -> str:
    return people.issuer.token("ada", ["auditors"])


def get(people: People, path: str, token: str = "", **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named["Authorization"] = f"Bearer {token or auditor(people)}"
    return people.http.get(f"/v1/archive{path}", headers=named)


def a_table(people: People, table: str = "events") -> str:
    path = min(people.gw.archive.glob(f"{table}/*/*/*.parquet"))
    return "/" + path.relative_to(people.gw.archive).as_posix()


def accesses(people: People) -> list[dict[str, Any]]:
    people.gw.wait_until_idle()
    people.gw.terminate()
    found = [pq.read_table(path).to_pylist() for path in people.gw.archive.glob("access/*/*/*")]
    return sorted((row for rows in found for row in rows), key=_recorded_at)


def _recorded_at(row: dict[str, Any]) -> Any:
    return row["recorded_at"]


def test_an_auditor_gets_the_files_and_each_fetch_of_content_is_recorded(people: People) -> None:
    assert get(people, "").json() == {"logs": ["gw1"]}
    assert get(people, "/FORMAT").content == b"agentaudit archive 1\n"
    assert b"gw1" in get(people, "/log/gw1/checkpoint").content
    path = a_table(people)
    for _ in range(2):
        assert get(people, path).content == (people.gw.archive / path[1:]).read_bytes()
    assert get(people, path, people.issuer.token("ana")).status_code == 403
    assert get(people, path, "no.such.token").status_code == 401
    left = [one for one in accesses(people) if one["action"] == "export"]
    assert [one["object"] for one in left] == ["files of the log", path[1:], path[1:]]
    assert all("by ada (ada of http" in one["detail"] for one in left)


def test_parts_of_a_file_and_what_has_not_changed(people: People) -> None:
    path = a_table(people)
    whole = get(people, path)
    tag, size = whole.headers["ETag"], len(whole.content)
    assert get(people, path, If_None_Match=tag).status_code == 304
    part = get(people, path, Range="bytes=4-9", If_Range=tag)
    assert (part.status_code, part.content) == (206, whole.content[4:10])
    assert part.headers["Content-Range"] == f"bytes 4-9/{size}"
    assert get(people, path, Range="bytes=-5").content == whole.content[-5:]
    assert get(people, path, Range=f"bytes={size - 3}-").content == whole.content[-3:]
    assert get(people, path, Range=f"bytes={size}-").status_code == 416
    assert get(people, path, Range="bytes=0-1,4-5").status_code == 200
    assert get(people, path, Range="bytes=4-9", If_Range='"other"').status_code == 200


def test_nothing_else_is_given(people: People, tmp_path: Path) -> None:
    archive = people.gw.archive
    journal = next(archive.glob("journal/gw1/*.journal")).relative_to(archive).as_posix()
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    table = Path(a_table(people)[1:])
    segment = "018bcfe5-6800-7def-8123-456789abcdef"
    link = archive / table.with_name(f"{segment}.parquet")
    link.symlink_to(secret)
    folder = archive / f"residue/{segment}"
    folder.parent.mkdir(exist_ok=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/0.parquet").write_text("s3cret")
    folder.symlink_to(tmp_path / "elsewhere")
    os.mkfifo(archive / f"heads/{segment}.note")
    for path in (
        f"/{journal}",
        "/journal/gw1/control",
        "/journal/gw1/lock",
        "/../agentaudit.toml",
        "/..%2fagentaudit.toml",
        "/log/gw1/..%2f..%2f..%2fkeys/gw1.vkey",
        "/%2e%2e/state.db",
        "/log/gw1/keys/..%2f..%2f..%2fFORMAT",
        "//etc/passwd",
        "/%2fetc%2fpasswd",
        "/FORMAT%00",
        f"/{table.parent}",
        f"/{link.relative_to(archive)}",
        f"/residue/{segment}/0.parquet",
        f"/heads/{segment}.note",
        "/log",
        "/" + "a/" * 5000,
    ):
        answer = get(people, path)
        assert answer.status_code == 404, path
        assert "s3cret" not in answer.text


def test_without_a_record_nothing_is_given(people: People) -> None:
    path = a_table(people)
    socket = people.gw.archive / "journal/gw1/control"
    socket.rename(socket.with_name("moved"))
    assert get(people, path).status_code == 503
    asked = people.ask("POST", "/v1/access", auditor(people), action="verify", object="all of it")
    assert asked.status_code == 503
    socket.with_name("moved").rename(socket)
    assert get(people, path).status_code == 200
    people.gw.send(signal.SIGHUP)


def test_a_record_of_access_is_left_by_auditors(people: People) -> None:
    def leave(token: str, **access: str) -> int:
        return people.ask("POST", "/v1/access", token, **access).status_code

    assert leave(auditor(people), action="verify", object="archive", detail="copy of May") == 201
    assert leave(auditor(people), action="purge", object="archive") == 400
    assert leave(people.issuer.token("ana"), action="open", object="archive") == 403
    (left,) = [one for one in accesses(people) if one["action"] == "verify"]
    assert left["object"] == "archive"
    assert left["detail"].endswith(": copy of May")


# --- agentaudit pull


def pull(people: People, where: Path, url: str = "") -> int:
    token = people.gw.directory / "token"
    token.write_text(auditor(people))
    options = ["--token-file", str(token), "--json"]
    return cli.main(["pull", url or people.gw.control_url, str(where), *options])


def test_what_was_pulled_verifies_and_is_not_fetched_again(
    people: People, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = tmp_path / "copy"
    assert pull(people, where) == 0, capsys.readouterr()
    first = json.loads(capsys.readouterr().out)
    assert first["fetched"] > 10
    assert first["findings"] == []
    for path in people.gw.archive.glob("*/gw=gw1/*/*.parquet"):
        copy = where / path.relative_to(people.gw.archive)
        assert copy.read_bytes() == path.read_bytes()
    assert not list(where.glob("journal*"))
    lost = next(where.glob("events/*/*/*.parquet"))
    data = lost.read_bytes()
    lost.unlink()
    lost.with_name(lost.name + ".tmp").write_bytes(data[:1000])  # as an interruption leaves it
    changed = next(where.glob("commands/*/*/*.parquet"))
    changed.write_bytes(b"x" * changed.stat().st_size)
    assert pull(people, where) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["kept"] > again["fetched"]
    assert lost.read_bytes() == data
    people.gw.wait_until_idle()
    people.gw.restart()
    assert pull(people, where) == 0
    assert json.loads(capsys.readouterr().out)["fetched"] > 3
    result = verify(where, key=people.gw.verifier_key, deep=True, remember=False)
    # The running gateway's journal, which nobody is given.
    assert [finding.check for finding in result.findings] == ["journal"]


def test_a_pull_refuses_another_history_and_a_folder_with_something_else(
    people: People, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    assert pull(people, other) == 2
    assert [path.name for path in other.iterdir()] == ["thesis.txt"]
    where = tmp_path / "copy"
    assert pull(people, where) == 0
    key = where / "log/gw1/keys/gw1.vkey"
    kept = key.read_bytes()
    key.write_bytes(kept.replace(b"gw1+", b"gw2+"))
    assert pull(people, where) == 2
    assert "another key" in capsys.readouterr().err
    assert key.read_bytes() != kept


class Liar:
    """Gives the files of a folder, and others in their place."""

    def __init__(self, root: Path, **lies: bytes) -> None:
        self.root = root
        self.lies = lies
        self.asked: list[str] = []

    def fetch(self, path: str, target: Path, limit: int) -> bool:
        self.asked.append(path)
        lie = next((data for name, data in self.lies.items() if path.startswith(name)), None)
        source = self.root / path
        if lie is None and not source.is_file():
            return False
        target.write_bytes(source.read_bytes() if lie is None else lie)
        return True


@pytest.mark.parametrize("lie", ["events", "log", "heads", "policies"])
def test_whoever_lies_about_a_file_is_not_believed(tmp_path: Path, lie: str) -> None:
    source = Liar(SAMPLE, **{lie: b"\0" * 32})
    try:
        pulling.pull(source, ["gw1"], tmp_path / "copy")
    except ArchiveError:
        return
    assert verify(tmp_path / "copy", remember=False).findings


@pytest.mark.parametrize("names", [[], ["../x"], ["a/b"], [""], ["x"] * 2000])
def test_names_of_logs_are_names(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(ArchiveError):
        pulling.pull(Liar(SAMPLE), names, tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


def test_a_pull_writes_through_no_link(tmp_path: Path) -> None:
    where = tmp_path / "copy"
    (tmp_path / "elsewhere").mkdir()
    (where / "heads").parent.mkdir()
    (where / "heads").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArchiveError, match="a link"):
        pulling.pull(Liar(SAMPLE), ["gw1"], where)
    assert list((tmp_path / "elsewhere").iterdir()) == []
