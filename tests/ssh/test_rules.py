"""What a command would do decides whether it runs, and nothing runs before it is decided."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path

import asyncssh
import pytest

from tests.gateway.test_holds import Reviewers, meanwhile
from tests.ssh.client import Started, connected, recorded

REMOVALS = {
    "name": "removals need a second person",
    "when": {"operation": ["rm"]},
    "action": "hold",
    "approvers": ["dba"],
}
UNKNOWN = {"name": "who knows", "when": {"class": ["unknown"]}, "action": "deny"}


def test_a_removal_runs_when_somebody_has_approved_and_not_before(
    started: Started, data: Path, reviewed: list[Reviewers]
) -> None:
    gw, client = started(REMOVALS)
    reviewed.append(Reviewers(gw))
    (reviewers,) = reviewed
    text = f"cd {data.parent} && nohup rm -rf data"

    def review() -> None:
        (request,) = reviewers.wait_for()
        assert (data / "file").read_text() == "kept"
        (shown,) = request.shown["statements"]
        assert shown["text"] == text
        assert "contains rm" in shown["risk"]
        reviewers.decide(request)

    with meanwhile(review):
        done = client.ssh(text)
    assert done.returncode == 0, done.stderr
    assert b'agentaudit: waits for a decision, by rule "removals need' in done.stderr
    assert not data.exists()
    ((decision, rule, status, state),) = (
        recorded(gw)
        .sql(
            "SELECT c.decision, c.rule, c.status, d.state FROM commands c JOIN decisions d"
            " ON d.request_id = c.request_id"
        )
        .fetchall()
    )
    assert (decision, rule, status, state) == ("hold", REMOVALS["name"], "ok", "approved")


def test_denied_it_does_not_run_and_the_client_hears_why(
    started: Started, data: Path, reviewed: list[Reviewers]
) -> None:
    gw, client = started(REMOVALS)
    reviewed.append(Reviewers(gw))
    with meanwhile(reviewed[0].deny_next):
        done = client.ssh("rm", "-rf", str(data))
    assert done.returncode == 254
    assert b"not on a Friday" in done.stderr
    assert (data / "file").read_text() == "kept"
    ((status, code),) = recorded(gw).sql("SELECT status, error_code FROM commands").fetchall()
    assert (status, code) == ("denied", "254")


def test_a_client_that_hangs_up_while_it_waits_runs_nothing(
    started: Started, data: Path, reviewed: list[Reviewers]
) -> None:
    gw, client = started(REMOVALS)
    reviewed.append(Reviewers(gw))
    with pytest.raises(subprocess.TimeoutExpired):
        client.ssh("rm", "-rf", str(data), timeout=5)
    case = recorded(gw)
    assert case.sql("SELECT state FROM decisions").fetchall() == [("cancelled",)]
    assert case.sql("SELECT status FROM commands").fetchall() == [("cancelled",)]
    assert (data / "file").read_text() == "kept"


EVASIONS = [
    "r\\m -rf {0}",
    "'r'm -rf {0}",
    "$(echo rm) -rf {0}",
    "`echo rm` -rf {0}",
    "X=rm; $X -rf {0}",
    "echo cm0gLXJmIA== | base64 -d | sh",
    "printf 'rm -rf {0}' | sh",
    "sh <<'END'\nrm -rf {0}\nEND",
    "bash <<< 'rm -rf {0}'",
    "echo {0} | xargs rm -rf",
    "find {0} -delete",
    "find {0} -exec rm -rf {{}} +",
    "eval 'rm -rf {0}'",
    "alias x=rm; x -rf {0}",
    "f() {{ rm -rf {0}; }}; f",
    "python3 -c 'import shutil; shutil.rmtree(\"{0}\")'",
    "busybox rm -rf {0}",
    "/bin/rm -rf {0}",
    "env -i rm -rf {0}",
    "nohup timeout 9 nice rm -rf {0}",
    "true\nrm -rf {0}",
    "true; rm -rf {0}",
    "$'\\x72m' -rf {0}",
    "cat > {0}/s; sh {0}/s",
    "sh",
]


def test_no_disguise_of_a_removal_passes(started: Started, data: Path) -> None:
    gw, client = started(UNKNOWN, WRITES)
    for text in EVASIONS:
        script = f"rm -rf {data}\n".encode()
        done = client.ssh(text.format(data), input=script)
        assert done.returncode == 254, text
        assert (data / "file").read_text() == "kept", text
    assert client.ssh(f"ls {data}").stdout == b"file\n"
    rows = recorded(gw).sql("SELECT decision, count(*) FROM commands GROUP BY ALL").fetchall()
    assert dict(rows) == {"deny": len(EVASIONS), "allow": 1}


WRITES = {"name": "no writing here", "when": {"class": ["write", "admin"]}, "action": "deny"}


def test_a_shell_is_not_let_past_rules_that_could_not_be_asked(started: Started) -> None:
    gw, client = started(REMOVALS)
    refused = client.ssh(input=b"rm -rf /\n")
    assert refused.returncode == 254
    assert b"no shell without a terminal on a target with rules" in refused.stderr
    rows = recorded(gw).sql("SELECT operation, decision, rule FROM commands").fetchall()
    assert rows == [("shell", "deny", "protocol")]


async def test_a_command_of_no_words_is_no_shell(started: Started) -> None:
    gw, client = started(REMOVALS, exec_only=True)
    async with connected(client) as connection:
        chan, session = await connection.create_session(Said, encoding=None, **NO_COMMAND)
        with suppress(BrokenPipeError):  # it may have heard already
            chan.write(b"echo from a shell\n")
            chan.write_eof()
        await chan.wait_closed()
    assert chan.get_exit_status() == 254
    assert b"no command" in session.said
    assert b"from a shell" not in session.said
    rows = recorded(gw).sql("SELECT operation, decision, rule FROM commands").fetchall()
    assert rows == [("exec", "deny", "protocol")]


class NoWords(str):
    """A command that is empty, and that asyncssh sends nevertheless."""

    def __bool__(self) -> bool:
        return True


NO_COMMAND = {"command": NoWords()}


class Said(asyncssh.SSHClientSession[bytes]):
    """What came, from either stream."""

    said = b""

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self.said += data


def test_without_rules_a_shell_is_recorded(started: Started) -> None:
    gw, client = started()
    done = client.ssh("-tt", input=b"echo $((6 * 7))\nexit 3\n")
    assert done.returncode == 3
    assert b"42" in done.stdout
    case = recorded(gw)
    rows = case.sql(
        "SELECT operation, text, status, error_code FROM commands ORDER BY command_no"
    ).fetchall()
    assert rows == [
        ("shell", "", "error", "3"),
        ("line", "echo $((6 * 7))", "ok", None),
        ("line", "exit 3", "ok", None),
    ]
    ((seen,),) = case.sql(
        "SELECT string_agg(payload::VARCHAR, '' ORDER BY seq) FROM events WHERE side = 'target'"
    ).fetchall()
    assert "42" in seen


def test_a_target_may_be_for_commands_alone(started: Started) -> None:
    _, client = started(exec_only=True)
    refused = client.ssh(input=b"id\n")
    assert refused.returncode == 254
    assert b"no shell on this target" in refused.stderr
    assert client.ssh("echo", "yes").stdout == b"yes\n"
