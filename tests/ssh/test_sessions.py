"""OpenSSH through the gateway, against a real server: it works, and all of it is recorded."""

from __future__ import annotations

import os
from pathlib import Path

from tests.peers.issuers import SigningIssuer
from tests.ssh.client import Started, recorded


def test_a_command_runs_and_every_byte_of_it_is_recorded(started: Started) -> None:
    gw, client = started()
    said = client.ssh("printf out; printf err >&2; cat; exit 7", input=b"typed\n")
    assert (said.stdout, said.stderr, said.returncode) == (b"outtyped\n", b"err", 7)
    case = recorded(gw)
    ((text, operation, status, code),) = case.sql(
        "SELECT text, operation, status, error_code FROM commands"
    ).fetchall()
    assert text == "printf out; printf err >&2; cat; exit 7"
    assert (operation, status, code) == ("exec", "error", "7")
    events = case.sql(
        "SELECT kind, side, status, payload, text FROM events WHERE command_no = 0 ORDER BY seq"
    ).fetchall()
    of = {
        (side, status): b"".join(p or b"" for k, s, st, p, _ in events if (s, st) == (side, status))
        for side, status in (("client", None), ("target", None), ("target", 1))
    }
    assert of["client", None] == text.encode() + b"typed\n"
    assert of["target", None] == b"outtyped\n"
    assert of["target", 1] == b"err"
    assert "exit-status 7" in [line for *_, line in events]
    assert case.verify(key=gw.verifier_key).ok
    ((identity,),) = case.sql("SELECT session_id FROM commands").fetchall()
    session = case.session(str(identity))
    assert session.result(0).to_pydict() == {"output": ["outtyped", "err"]}
    assert session.result(0, limit=1).to_pydict() == {"output": ["outtyped"]}
    (batch,) = session.result_batches(0)
    assert batch.to_pydict() == session.result(0).to_pydict()
    assert [number for number, _ in session.results(10)] == [0]
    told = session.transcript()
    assert "printf out" in told
    assert "outtyped" in told
    assert "error 7\n" in told


def test_files_pass_unchanged_both_ways(started: Started, tmp_path: Path) -> None:
    gw, client = started()
    data = os.urandom(3_000_000)
    (tmp_path / "up").write_bytes(data)
    place = tmp_path / "there"
    for mode in ([], ["-O"]):
        place.unlink(missing_ok=True)
        argv = ["scp", *mode, *client.options, "-P", str(client.port)]
        sent = client.run([*argv, str(tmp_path / "up"), f"host-1@127.0.0.1:{place}"])
        assert sent.returncode == 0, sent.stderr
        assert place.read_bytes() == data
        got = client.run([*argv, f"host-1@127.0.0.1:{place}", str(tmp_path / "down")])
        assert got.returncode == 0, got.stderr
        assert (tmp_path / "down").read_bytes() == data
    case = recorded(gw)
    sizes = case.sql(
        "SELECT operation, bytes_in > 3000000 FROM commands"
        " WHERE greatest(bytes_in, bytes_out) > 3000000 ORDER BY ended_at"
    ).fetchall()
    assert sizes == [("sftp.write", True), ("sftp.read", False), ("exec", True), ("exec", False)]


def test_what_a_rule_denies_does_not_run_and_the_client_is_told(
    started: Started, tmp_path: Path
) -> None:
    rule = {"name": "no touching", "when": {"text": "touch"}, "action": "deny"}
    gw, client = started(rule)
    denied = client.ssh(f"touch {tmp_path / 'made'}")
    assert denied.returncode == 254
    assert b'agentaudit: denied by rule "no touching"' in denied.stderr
    assert not (tmp_path / "made").exists()
    assert client.ssh("echo", "still here").stdout == b"still here\n"
    case = recorded(gw)
    rows = case.sql("SELECT decision, status, rule FROM commands ORDER BY started_at").fetchall()
    assert rows == [("deny", "denied", "no touching"), ("allow", "ok", "none")]


def test_whoever_is_nobody_is_not_let_in(started: Started, signing_issuer: SigningIssuer) -> None:
    _, client = started()
    (client.folder / "secret").write_text("not a token")
    refused = client.ssh("true")
    assert refused.returncode == 255
    assert b"agentaudit: " in refused.stderr
    (client.folder / "secret").write_text(signing_issuer.token(groups=["others"]))
    told = client.ssh("true")
    assert told.returncode == 254
    assert b"you are in no group" in told.stderr
    (client.folder / "secret").write_text(client.token)
    for user, why in (("host-2", b"no such target"), ("host-1/other", b"no such login")):
        told = client.ssh("true", user=user)
        assert told.returncode == 254
        assert why in told.stderr
