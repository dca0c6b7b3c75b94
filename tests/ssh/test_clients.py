"""Unmodified clients work through the gateway, and what they moved is what is recorded."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import paramiko
import pytest

from tests.ssh.client import OpenSsh, Started, connected, recorded


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    (folder / "inner").mkdir(parents=True)
    for number in range(20):
        (folder / "inner" / f"{number}").write_bytes(bytes([number]) * 3000 * number)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def remote_shell(client: OpenSsh) -> str:
    """Return how rsync and git are told to connect."""
    return shlex.join(["ssh", *client.options, "-p", str(client.port)])


def test_rsync_copies_a_tree_and_only_what_has_changed(
    started: Started, tree: Path, tmp_path: Path
) -> None:
    gw, client = started()
    for _ in range(2):
        argv = ["rsync", "-a", "-e", remote_shell(client)]
        done = client.run([*argv, f"{tree}/", f"host-1@127.0.0.1:{tmp_path / 'copy'}"])
        assert done.returncode == 0, done.stderr
        assert contents(tmp_path / "copy") == contents(tree)
        (tree / "inner" / "3").write_bytes(b"changed")
    rows = recorded(gw).sql("SELECT operation, status, bytes_in FROM commands ORDER BY started_at")
    (_, _, first), (_, _, second) = rows.fetchall()
    assert first > second


def test_git_pushes_and_clones(started: Started, tree: Path, tmp_path: Path) -> None:
    gw, client = started()
    environment = client.environment | {
        "GIT_SSH_COMMAND": remote_shell(client),
        "GIT_CONFIG_GLOBAL": "/dev/null",
        **{
            f"GIT_{who}_{what}": "a@b.test"
            for who in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        },
    }

    def git(*words: str) -> None:
        done = subprocess.run(
            ["git", *words], cwd=tree, env=environment, capture_output=True, timeout=60
        )
        assert done.returncode == 0, done.stderr

    there = f"ssh://host-1@127.0.0.1:{client.port}{tmp_path / 'there.git'}"
    subprocess.run(["git", "init", "-q", "--bare", tmp_path / "there.git"], check=True)
    git("init", "-q", "-b", "main")
    git("add", ".")
    git("commit", "-q", "-m", "all of it")
    git("push", "-q", there, "main")
    git("clone", "-q", "-b", "main", there, str(tmp_path / "clone"))
    assert contents(tmp_path / "clone" / "inner") == contents(tree / "inner")
    texts = recorded(gw).sql("SELECT text FROM commands ORDER BY started_at").fetchall()
    assert [text.split()[0] for (text,) in texts] == ["git-receive-pack", "git-upload-pack"]


@pytest.fixture
def control_paths() -> Iterator[str]:
    """Yield a folder whose name is short enough for a socket's in it."""
    with tempfile.TemporaryDirectory() as folder:
        yield folder


@pytest.mark.parametrize("is_pipelined", [False, True])
def test_ansible_pings_copies_and_runs(
    started: Started, tree: Path, tmp_path: Path, control_paths: str, is_pipelined: bool
) -> None:
    gw, client = started()
    options = shlex.join(client.options)
    inventory = tmp_path / "inventory"
    inventory.write_text(
        f"host ansible_host=127.0.0.1 ansible_port={client.port} ansible_user=host-1"
        f" ansible_python_interpreter={sys.executable} ansible_ssh_common_args={options!r}\n"
    )
    secrets = tmp_path / "secrets.json"
    secrets.write_text(json.dumps({"ansible_password": client.token}))
    environment = client.environment | {
        "ANSIBLE_SSH_PASSWORD_MECHANISM": "ssh_askpass",
        "ANSIBLE_PIPELINING": str(is_pipelined),
        "ANSIBLE_LOCAL_TEMP": str(tmp_path / "local"),
        "ANSIBLE_REMOTE_TEMP": str(tmp_path / "remote"),
        "ANSIBLE_SSH_CONTROL_PATH_DIR": control_paths,
        # A master that stays keeps the end of our pipe.
        "ANSIBLE_SSH_ARGS": "-o ControlMaster=auto -o ControlPersist=2s",
        "LC_ALL": "C.UTF-8",
    }
    source, there = tree / "inner" / "7", tmp_path / "there"
    for module, arguments in (
        ("ping", ""),
        ("copy", f"src={source} dest={there}"),
        ("shell", "echo $((6 * 7))"),
    ):
        done = subprocess.run(
            [
                Path(sys.executable).with_name("ansible"),
                "-i",
                inventory,
                "-e",
                f"@{secrets}",
                "host",
            ]
            + ["-m", module, "-a", arguments],
            env=environment,
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert b"42" in done.stdout
    assert there.read_bytes() == source.read_bytes()
    case = recorded(gw)
    assert case.verify(key=gw.verifier_key).ok


def test_paramiko_runs_a_command_and_moves_a_file(started: Started, tree: Path) -> None:
    gw, client = started()
    with paramiko.SSHClient() as connection:
        connection.load_host_keys(str(client.folder / "known_hosts"))
        connection.connect(
            "127.0.0.1",
            client.port,
            "host-1",
            client.token,
            allow_agent=False,
            look_for_keys=False,
        )
        _, out, _ = connection.exec_command("echo from paramiko; exit 4")
        assert out.read() == b"from paramiko\n"
        assert out.channel.recv_exit_status() == 4
        with connection.open_sftp() as files:
            files.put(str(tree / "inner" / "9"), str(tree / "sent"))
            with files.open(str(tree / "sent"), "rb") as file:
                assert file.read() == (tree / "inner" / "9").read_bytes()
    assert recorded(gw).verify(key=gw.verifier_key).ok


async def test_asyncssh_runs_many_commands_on_one_connection(started: Started) -> None:
    gw, client = started()
    async with connected(client) as connection:
        answers = [await connection.run(f"echo {n}; exit {n}") for n in range(5)]
        killed = await connection.run("kill -TERM $$")
        async with connection.create_process("cat; echo at the end") as process:
            process.stdin.write("through and through")
            process.stdin.write_eof()
            assert await process.stdout.read() == "through and throughat the end\n"
        async with connection.start_sftp_client() as files:
            await files.symlink("what/it/names", str(client.folder / "link"))
            assert (client.folder / "link").readlink() == Path("what/it/names")
        async with connection.create_process("echo on; sleep 20") as process:
            assert await process.stdout.readline() == "on\n"
            # Of a session as root OpenSSH takes none: that it was sent on is all there is to see.
            process.send_signal("INT")
            process.channel.abort()
    assert [(a.stdout, a.exit_status) for a in answers] == [(f"{n}\n", n) for n in range(5)]
    assert killed.exit_signal is not None
    assert killed.exit_signal[0] == "TERM"
    case = recorded(gw)
    rows = case.sql(
        "SELECT error_code, status FROM commands WHERE operation = 'exec' ORDER BY command_no"
    ).fetchall()
    assert [code for code, _ in rows] == [None, "1", "2", "3", "4", "TERM", None, None]
    assert rows[-1][1] == "cancelled"
    said = case.sql("SELECT text FROM events WHERE kind = 'notice' AND side = 'client'").fetchall()
    assert ("signal INT",) in said


async def test_nothing_is_forwarded(started: Started) -> None:
    _, client = started()
    async with connected(client) as connection:
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.open_connection("127.0.0.1", client.port)
        with pytest.raises(asyncssh.ChannelListenError):
            await connection.forward_remote_port("127.0.0.1", 0, "127.0.0.1", client.port)
        assert (
            await connection.run("echo $SSH_AUTH_SOCK$DISPLAY", env={"DISPLAY": "x"})
        ).stdout == "\n"
