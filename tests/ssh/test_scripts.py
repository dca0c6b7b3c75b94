"""A file that was copied and then run is linked to what was recorded of it, and still unknown."""

from __future__ import annotations

import hashlib
from pathlib import Path
from uuid import UUID

import pytest

from agentaudit.gateway.ssh_scripts import (
    MAX_COMING,
    MAX_FILES,
    MAX_OWNER_BYTES,
    MAX_OWNERS,
    MAX_SCRIPT_BYTES,
    Scripts,
    SessionScripts,
    add,
)
from agentaudit.masking.masks import Masks
from agentaudit.model import Command
from tests.ssh.client import OpenSsh, Started, connected, recorded

REMOVALS = {"name": "no removals", "when": {"operation": ["rm"]}, "action": "deny"}


def copy(client: OpenSsh, source: Path, to: Path) -> None:
    argv = ["scp", *client.options, "-P", str(client.port), str(source), f"host-1@127.0.0.1:{to}"]
    done = client.run(argv)
    assert done.returncode == 0, done.stderr


def test_a_script_that_was_copied_is_judged_by_what_is_in_it(
    started: Started, data: Path, tmp_path: Path
) -> None:
    gw, client = started(REMOVALS)
    script = tmp_path / "local.sh"
    script.write_text(f"#!/bin/sh\ncd {data.parent}\nrm -rf data\n")
    remote = tmp_path / "deploy.sh"
    copy(client, script, remote)
    for text in (
        f"bash {remote}",
        f"chmod +x {remote} && {remote}",
        f"cd {tmp_path} && sh deploy.sh",
        f"nohup sh < {remote}",
        f"cat {remote} | sh",
        f"/proc/self/root/bin/sh {remote}",
    ):
        refused = client.ssh(text)
        assert refused.returncode == 254, text
        assert b'denied by rule "no removals"' in refused.stderr, text
    assert (data / "file").read_text() == "kept"
    other = tmp_path / "other.sh"
    client.ssh(f"cat > {other} && chmod 755 {other}", input=script.read_bytes())
    client.ssh(f"cat > {tmp_path}/here.sh <<'E'\nrm -rf {data}\nE")
    client.ssh(f"cp {other} {tmp_path}/copied.sh")
    for name in ("other.sh", "here.sh"):
        assert client.ssh(f"bash {tmp_path}/{name}").returncode == 254, name
    assert (data / "file").read_text() == "kept"
    assert client.ssh(f"bash {tmp_path}/copied.sh").returncode == 0  # nobody looks into copies
    assert not data.exists()

    case = recorded(gw)
    ((session, number, digest),) = case.sql(
        "SELECT session_id, command_no, sha256[1] FROM commands WHERE operation = 'sftp.write'"
    ).fetchall()
    assert digest == hashlib.sha256(script.read_bytes()).hexdigest()
    ((cls, confidence, resources, risk),) = case.sql(
        f"SELECT class, confidence, resources, risk FROM commands WHERE text = 'bash {remote}'"
    ).fetchall()
    assert (cls, confidence) == ("unknown", "uncertain")
    assert str(data) in resources
    expected = {"contains rm", "runs script", f"script sha256:{digest} of {session}/{number}"}
    assert expected <= set(risk)
    assert "runs file" in risk


def test_a_script_that_was_changed_since_is_as_unknown_as_before(
    started: Started, data: Path, tmp_path: Path
) -> None:
    unknown = {"name": "who knows", "when": {"class": ["unknown"]}, "action": "deny"}
    reads = {"name": "reads", "when": {"class": ["read", "write"]}, "action": "allow"}
    gw, client = started(REMOVALS, reads, unknown)
    script = tmp_path / "x.sh"
    (tmp_path / "local").write_text("ls\n")
    copy(client, tmp_path / "local", script)
    assert client.ssh(f"echo 'r'm -rf {data} >> {script}").returncode == 0
    assert client.ssh(f"bash {script}").returncode == 254
    assert (data / "file").read_text() == "kept"
    rows = recorded(gw).sql("SELECT rule, risk FROM commands WHERE class = 'unknown'").fetchall()
    ((rule, risk),) = rows
    assert rule == "who knows"
    assert "contains ls" in risk


async def test_a_path_in_the_folder_of_the_login_is_known_by_either_name(
    started: Started, tmp_path: Path
) -> None:
    gw, client = started()
    name = f"agentaudit-test-{tmp_path.name}.sh"
    async with connected(client) as connection, connection.start_sftp_client() as sftp:
        home = await sftp.realpath(".")
        try:
            for path in (name, f"{home}/{name}"):
                async with sftp.open(path, "wb") as file:
                    await file.write(b"ls\n")
                for text in (f"sh {name}", f"sh ~/{name}", f"sh {home}/{name}", f"python3 {name}"):
                    await connection.run(text)
        finally:
            await sftp.remove(name)
    rows = recorded(gw).sql("SELECT risk FROM commands WHERE class = 'unknown'").fetchall()
    assert len(rows) == 8
    assert all(any(each.startswith("script sha256:") for each in risk) for (risk,) in rows)


def test_what_masks_hide_in_a_script_is_hidden_in_what_is_found_there(
    started: Started, tmp_path: Path
) -> None:
    mask = {"name": "keys", "detect": ["secrets"], "action": "redact", "apply": ["archive"]}
    gw, client = started(mask=[mask])
    secret, other = "AKIAQQQSFODNN7EXAQQQ", "correct-horse-battery-staple-9"
    script = f"rm -f /nowhere/{secret}\nexport PGPASSWORD={other}\nrm -f /nowhere/{other}\n"
    (tmp_path / "local").write_text(script)
    copy(client, tmp_path / "local", tmp_path / "x.sh")
    client.ssh(f"cat > {tmp_path}/y.sh", input=script.encode())
    for name in ("x.sh", "y.sh"):
        assert client.ssh(f"sh {tmp_path}/{name}").returncode == 0
    case = recorded(gw)
    rows = case.sql("SELECT risk, resources FROM commands WHERE class = 'unknown'").fetchall()
    assert len(rows) == 2
    for risk, _ in rows:
        assert "contains rm" in risk
    ((session, number, digest),) = case.sql(
        "SELECT session_id, command_no, sha256[1] FROM commands WHERE operation = 'sftp.write'"
    ).fetchall()
    assert digest != hashlib.sha256(script.encode()).hexdigest()
    assert f"script sha256:{digest} of {session}/{number}" in rows[0][0]
    assert "script of " in str(rows[1])  # its hash would help to guess what is hidden
    seen = "".join(r for (r,) in case.sql("SELECT commands::VARCHAR FROM commands").fetchall())
    files = b"".join(path.read_bytes() for path in gw.directory.rglob("*") if path.is_file())
    for each in (secret, other):
        assert each not in seen
        assert each.encode() not in files


# What is kept, without a host.

SESSION = UUID(int=1)


@pytest.fixture
def scripts() -> Scripts:
    return Scripts()


def session(scripts: Scripts, owner: object = "ana") -> SessionScripts:
    return scripts.of(owner, SESSION, Masks([]))


def written(of: SessionScripts, path: str, content: bytes, *, is_whole: bool = True) -> None:
    collected = of.begin()
    for byte in range(0, len(content), 1000):
        add(collected, content[byte : byte + 1000])
    of.keep([path], collected, 7, is_whole=is_whole)


def linked(of: SessionScripts, text: str) -> tuple[str, ...]:
    command = Command(command_no=1, cls="unknown", operation="exec")
    of.link(command, text)
    assert command.cls == "unknown"
    return command.risk


@pytest.mark.parametrize(
    ("content", "is_whole"),
    [
        (b"rm x", False),
        (b"rm \xff", True),
        (b"rm \0", True),
        (b"", True),
        (b"rm x;" * MAX_SCRIPT_BYTES, True),
    ],
)
def test_what_is_no_whole_text_is_not_kept(
    scripts: Scripts, content: bytes, is_whole: bool
) -> None:
    ana = session(scripts)
    written(ana, "~/x", content, is_whole=is_whole)
    assert linked(ana, "sh x") == ()


def test_nobody_is_told_what_others_wrote(scripts: Scripts) -> None:
    ana = session(scripts)
    written(ana, "~/x", b"rm y")
    assert "contains rm" in linked(ana, "sh x")
    assert "contains rm" in linked(session(scripts), "sh x")
    assert linked(session(scripts, "bob"), "sh x") == ()


def test_little_is_kept_and_the_oldest_goes_first(scripts: Scripts) -> None:
    ana = session(scripts)
    for number in range(MAX_FILES + 1):
        written(ana, f"~/{number}", b"rm y")
    assert linked(ana, "sh 0") == ()
    assert linked(ana, f"sh {MAX_FILES}") != ()
    line = b"rm y\n" * (MAX_SCRIPT_BYTES // 5)
    for number in range(MAX_OWNER_BYTES // len(line) + 1):
        written(ana, f"~/large{number}", line)
    assert scripts.find("ana", "~/large0") is None
    assert scripts.find("ana", f"~/{MAX_FILES}") is None
    for number in range(MAX_OWNERS):
        written(session(scripts, number), "~/x", b"rm y")
    assert scripts.find("ana", "~/large3") is None
    assert [ana.begin() for _ in range(MAX_COMING + 1)].count(None) == 1


@pytest.mark.parametrize(
    ("text", "stdin", "paths"),
    [
        ("cat > x", b"ls", ["~/x"]),
        ("cat >| /srv/x && chmod +x /srv/x", b"ls", ["/srv/x"]),
        ("cat >> x", b"ls", []),
        ("cat > x | tee y", b"ls", []),
        ("cat y > x", b"ls", []),
        ("cat > x; echo rm >> x", b"ls", []),
        ("cat > $X", b"ls", []),
        ("# cat > x", b"ls", []),
        ("cat > x <<'E'\nls\nE", b"", ["~/x"]),
        ("cat > x <<E\n$(ls)\nE", b"", []),
    ],
)
def test_a_request_that_writes_a_file_whole_gives_its_text(
    scripts: Scripts, text: str, stdin: bytes, paths: list[str]
) -> None:
    ana = session(scripts)
    given = ana.given(Command(command_no=3, cls="write"), text)
    if given is not None:
        given.add(stdin)
        given.has_ended = True
        given.end(0)
    kept = [path for path in ("~/x", "/srv/x", "~/y") if scripts.find("ana", path)]
    assert kept == paths
