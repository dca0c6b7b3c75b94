"""A secret that passes on any channel reaches the other side, and no file of the gateway."""

from __future__ import annotations

from pathlib import Path

from tests.ssh.client import Started, recorded

SECRETS = {
    name: f"AKIA{letter * 3}SFODNN7EXA{letter * 3}"
    for name, letter in zip(
        ("text", "typed", "echoed", "error", "env", "split", "file", "path", "terminal"),
        "ABCDEFGHJ",
        strict=True,
    )
}


def test_a_secret_is_in_no_file_of_the_gateway(started: Started, tmp_path: Path) -> None:
    mask = {"name": "keys", "detect": ["secrets"], "action": "redact", "apply": ["archive"]}
    gw, client = started(mask=[mask], env=["LC_*"])
    secret = SECRETS
    assert client.ssh(f"echo {secret['text']}").stdout.decode().strip() == secret["text"]
    assert client.ssh("cat", input=secret["typed"].encode()).stdout.decode() == secret["typed"]
    halves = secret["split"][:9], secret["split"][9:]
    script = f"printf {halves[0]}; sleep 0.4; printf {halves[1]}; sleep 0.4"
    assert client.ssh(script).stdout.decode() == secret["split"]
    (tmp_path / "known").write_text(secret["echoed"])
    assert client.ssh(f"cat {tmp_path}/known").stdout.decode() == secret["echoed"]
    (tmp_path / "known").write_text(secret["error"])
    assert secret["error"] in client.ssh(f"cat {tmp_path}/known >&2").stderr.decode()
    client_env = client.environment | {"LC_TEST": secret["env"]}
    (tmp_path / "file").write_text(f"key = {secret['file']}\n" * 3)
    for mode in (["-O"], []):
        argv = ["scp", *mode, *client.options, "-P", str(client.port)]
        done = client.run([*argv, str(tmp_path / "file"), f"host-1@127.0.0.1:{tmp_path}/copy"])
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "copy").read_bytes() == (tmp_path / "file").read_bytes()
    client.ssh("ls", f"/nowhere/{secret['path']}")
    client.ssh("-tt", f"stty -echo; echo {secret['terminal']}")
    argv = ["ssh", *client.options, "-o", "SendEnv=LC_TEST", "-p", str(client.port)]
    done = client.run([*argv, "-l", "host-1", "127.0.0.1", "echo $LC_TEST"], environment=client_env)
    assert done.stdout.decode().strip() == secret["env"]

    case = recorded(gw)
    assert case.verify(key=gw.verifier_key).ok
    seen = b"".join(path.read_bytes() for path in gw.directory.rglob("*") if path.is_file())
    rows = case.sql("SELECT coalesce(payload::VARCHAR, '') || coalesce(text, '') FROM events")
    seen += "".join(row for (row,) in rows.fetchall()).encode()
    rows = case.sql("SELECT commands::VARCHAR FROM commands")
    seen += "".join(row for (row,) in rows.fetchall()).encode()
    assert [name for name, value in secret.items() if value.encode() in seen] == []
    assert [name for name, value in secret.items() if value[4:14].encode() in seen] == []
    assert b"keys" in seen
