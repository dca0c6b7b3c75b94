"""Deciding and access from the command line, beside a gateway, its control API and a database."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from agentaudit.cli import main
from agentaudit.demo.database import embedded_postgres
from agentaudit.demo.processes import until, without_libpq_variables
from tests.gateway.test_control import DELETES, People, Waiting
from tests.peers.gateway import GatewayFactory
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import PostgresPeer

Site = Callable[..., People]


@pytest.fixture
def site(
    gateway: GatewayFactory,
    postgres18: PostgresPeer,
    signing_issuer: SigningIssuer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Site]:
    """Start gateways that hold deletes, and point the command line at the last one."""
    postgres18.execute(
        "DROP TABLE IF EXISTS customers",
        "CREATE TABLE customers AS SELECT generate_series(1, 5) AS n",
        "GRANT ALL ON customers TO PUBLIC",
        "ANALYZE customers",
        database="orders",
    )
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("AGENTAUDIT_TOKEN", raising=False)
    made: list[People] = []

    def start(**changes: Any) -> People:
        gw = gateway(
            postgres18.target(approvers=["dba"], **postgres18.inspector()) | changes,
            issuer=signing_issuer,
            listen={"control": "127.0.0.1:0"},
            tables={"rule": [DELETES], "roles": {"admin": ["root"], "auditor": ["auditors"]}},
        )
        made.append(People(gw, signing_issuer))
        monkeypatch.setenv("AGENTAUDIT_CONTROL", gw.control_url)
        return made[-1]

    yield start
    for people in made:
        people.http.close()
    postgres18.execute("DROP TABLE customers", database="orders")


class CommandLine:
    """Runs verbs as somebody, and says what they print and how they end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, token: str, *words: object) -> tuple[int, str, str]:
        with self._monkeypatch.context() as patched:
            patched.setenv("AGENTAUDIT_TOKEN", token)
            status = main([str(word) for word in words])
        printed = self._capsys.readouterr()
        return status, printed.out, printed.err

    def rows(self, token: str, *words: object) -> list[dict[str, Any]]:
        """Return what a verb prints as JSON."""
        status, out, err = self(token, *words, "--json")
        assert status == 0, err
        return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(monkeypatch, capsys)


class Psql:
    """psql, given a script; `end` waits for it and returns all that it has printed."""

    def __init__(self, people: People, user: str, script: str, **settings: str) -> None:
        self._process = subprocess.Popen(
            [embedded_postgres() / "psql", "-X", "-v", "VERBOSITY=verbose",
             people.gw.dsn("orders", people.issuer.token(user))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=without_libpq_variables() | settings,
        )  # fmt: skip
        assert self._process.stdin is not None
        self._process.stdin.write(script)
        self._process.stdin.close()

    def end(self) -> str:
        assert self._process.stdout is not None
        with self._process:
            return self._process.stdout.read()


def count(postgres: PostgresPeer) -> int:
    with postgres.connect() as client:
        return int(client.execute("SELECT count(*) FROM customers").fetchone()[0])


def test_a_delete_in_psql_waits_until_a_second_person_approves_it_from_the_command_line(
    site: Site, cli: CommandLine, postgres18: PostgresPeer
) -> None:
    people = site()
    script = "BEGIN;\nDELETE FROM customers;\nCOMMIT;\n"
    psql = Psql(people, "ana", script, PGOPTIONS="-c work_mem=7MB", PGCLIENTENCODING="UTF8")
    (request,) = people.pending(people.reviewer())

    status, out, _ = cli(people.reviewer(), "pending")
    lines = out.splitlines()
    assert status == 0
    assert re.fullmatch(r"DELETE  write  customers +\d+ s left", lines[0])
    assert lines[1:4] == [
        "  risk        no where",
        "  rows        about 5 (customers has about 5)",
        "  rule        deletes need a DBA",
    ]
    for line in (
        f"  who         ana, agent agent, says {people.issuer.issuer}",
        "              BEGIN;",
        "  began with  options = -c work_mem=7MB",
        "  │ DELETE FROM customers;",
        "  may decide  you may",
        f"  digest      {request['digest']}",
        f"  id          {request['id']}",
    ):
        assert line in lines
    labels = [line.split()[0] for line in lines if line.strip()]
    assert labels.count("began") == 1  # what is usual, or told elsewhere, is left out
    assert "also" not in labels

    assert count(postgres18) == 5
    status, out, _ = cli(people.reviewer(), "approve", request["id"][:20], "--reason", "asked for")
    assert (status, out) == (0, f"{request['id']}  approved\n")
    printed = psql.end()
    assert "DELETE 5\nCOMMIT\n" in printed
    assert f"agentaudit approve {request['id']}" in printed
    assert count(postgres18) == 0
    status, out, err = cli(people.reviewer(), "approve", request["id"], "--reason", "again")
    assert (status, out) == (1, "")
    assert "approved already" in err or "is approved" in err
    assert cli(people.reviewer(), "pending")[1:] == ("", "nothing waits for a decision\n")


def test_a_denied_delete_ends_with_42501_the_rule_the_ids_and_what_to_do(
    site: Site, cli: CommandLine, postgres18: PostgresPeer
) -> None:
    people = site()
    psql = Psql(people, "ana", "BEGIN;\nDELETE FROM customers;\nCOMMIT;\n")
    (request,) = people.pending(people.reviewer())
    status, out, _ = cli(people.reviewer(), "deny", request["id"], "--reason", "not on a Friday")
    assert (status, out) == (0, f"{request['id']}  denied\n")
    printed = psql.end()
    assert 'ERROR:  42501: agentaudit: denied by rule "deletes need a DBA"' in printed
    assert f"request {request['id']}; reason: not on a Friday" in printed
    assert "HINT:  ask who decided" in printed
    assert "ROLLBACK" in printed
    assert count(postgres18) == 5


def test_who_may_not_decide_is_told_so_with_1_and_what_cannot_be_told_is_2(
    site: Site, cli: CommandLine
) -> None:
    people = site()
    waiting = Waiting(people, sql="DELETE FROM customers")
    (request,) = people.pending(people.reviewer())
    for token, status, said in (
        (people.reviewer("ana"), 1, "you asked for it yourself"),
        (people.reviewer(age_s=1000), 1, "15 minutes ago"),
        (people.issuer.token("dora", ["dba"]), 1, "needs a token of the audience"),
        (people.reviewer("dora", "others"), 1, "none that you may see"),
        ("no.such.token", 2, "token"),
        ("no token", 2, "no token"),
    ):
        ended, out, err = cli(token, "approve", request["id"], "--reason", "checked")
        assert (ended, out) == (status, "")
        assert said in err
        assert token not in err or " " in token
    with pytest.raises(SystemExit):
        cli(people.reviewer(), "approve", request["id"])
    assert cli(people.reviewer(), "deny", request["id"], "--reason", "no")[0] == 0
    assert waiting.result() is not None


def test_a_batch_is_of_one_class_and_target_and_refused_before_anything_is_decided(
    site: Site, cli: CommandLine
) -> None:
    people = site()
    sql = "DELETE FROM customers WHERE n = 1"
    waiting = [Waiting(people, user, sql) for user in ("ana", "ben")]
    waiting.append(Waiting(people, "cid", "SELECT 1; DELETE FROM customers"))
    found = {one["requester"]["user"]: one["id"] for one in people.pending(people.reviewer(), 3)}
    status, _, err = cli(people.reviewer(), "approve", *found.values(), "--reason", "all")
    assert status == 2
    assert "must be of one kind, class and target" in err
    assert len(people.pending(people.reviewer(), 3)) == 3

    shown = cli(people.reviewer(), "pending")[1].splitlines()
    table = shown[[line.split()[0] if line else "" for line in shown].index("TIME") :]
    assert len(table) == 4
    beginnings = {
        line.split()[4]: line.split()[3] for line in table[1:] if "ana" in line or "ben" in line
    }
    assert all(re.fullmatch(r"[0-9a-f-]{13,36}", each) for each in beginnings.values())

    both = [found["ana"], found["ben"]]
    status, out, _ = cli(people.reviewer(), "approve", *both, found["ana"], "--reason", "ok")
    assert status == 0
    assert out.splitlines() == [f"{id}  approved" for id in both]
    people.decide({"id": found["cid"], "digest": digest(people, found["cid"])}, people.reviewer())
    late = cli(people.reviewer(), "deny", *both, "--reason", "too late")
    assert late[0] == 1
    assert late[2].count("already") == 2 or late[2].count("is approved") == 2
    assert [each.result() is None for each in waiting] == [True, True, True]


def digest(people: People, id: str) -> str:
    return str(people.ask("GET", f"/v1/requests/{id}", people.reviewer()).json()["digest"])


def test_a_beginning_of_an_id_will_do_where_it_is_long_enough(site: Site, cli: CommandLine) -> None:
    people = site()
    waiting = Waiting(people, sql="DELETE FROM customers")
    (request,) = people.pending(people.reviewer())
    for beginning, said in (
        (request["id"][:4], "at least 8 characters"),
        ("ffffffff-ffff", "there is none"),
    ):
        status, _, err = cli(people.reviewer(), "deny", beginning, "--reason", "no")
        assert status == 2
        assert said in err
    assert cli(people.reviewer(), "deny", request["id"][:9].upper(), "--reason", "no")[0] == 0
    assert waiting.result() is not None


def test_a_login_is_all_that_an_approval_takes(site: Site, cli: CommandLine) -> None:
    people = site()
    issuer = people.issuer
    waiting = Waiting(people, sql="DELETE FROM customers")
    people.pending(people.reviewer())
    # As providers do that say in ID tokens alone when somebody logged in.
    stated = {"aud": "agentaudit-review", "auth_time": int(time.time()), "at_hash": "x"}
    issuer.tokens = {
        "access_token": issuer.token("dora", ["dba"]),
        "id_token": issuer.token("dora", ["dba"], claims=stated),
        "token_type": "Bearer",
    }
    words = ["--client-id", "agentaudit-review", "--audience", "agentaudit-review"]
    assert cli("", "login", "--issuer", issuer.issuer, *words)[0] == 0

    (row,) = cli.rows("", "pending")
    assert cli("", "approve", row["id"], "--reason", "as agreed")[0] == 0
    assert waiting.result() is None


HOSTILE = (
    "DELETE FROM customers WHERE 'harmless \x1b[2J\x1b]0;title\x07\x9b31m' <> '\u202e\u2066\u200b'"
    "\r -- nothing to see here" + "\n" * 500 + "-- │ may decide  you may\n--digest      0\n"
    "-- " + "x" * 200_000 + "\u202e\nOR n = 1"
)


def test_a_hostile_text_is_shown_whole_and_harmlessly(site: Site, cli: CommandLine) -> None:
    people = site()
    waiting = Waiting(people, sql=HOSTILE)
    (request,) = people.pending(people.reviewer())
    status, out, _ = cli(people.reviewer(), "pending")
    assert status == 0
    assert all(character.isprintable() or character == "\n" for character in out)
    assert not re.search("[\u200b-\u200f\u202a-\u202e\u2066-\u2069]", out)
    lines = out.splitlines()
    assert len(lines) < 60
    own = [line for line in lines if line and not line.startswith(("  │", "  ┊"))]
    assert own[0].startswith("DELETE  write  customers")
    assert own.count("  may decide  you may") == 1
    assert [line for line in own if line.startswith("  digest ")] == [
        f"  digest      {request['digest']}"
    ]
    assert "  ┊ (499 lines without a word)" in lines
    text = "\n".join(line[4:] for line in lines if line.startswith("  │ "))
    assert "x" * 200_000 + "\\u202e\nOR n = 1" in text
    assert r"harmless \x1b[2J\x1b]0;title\x07\x9b31m" in text
    (row,) = cli.rows(people.reviewer(), "pending")
    assert row["shown"]["statements"][0]["text"] == HOSTILE
    assert cli(people.reviewer(), "deny", request["id"], "--reason", "no")[0] == 0
    waiting.result()


@pytest.mark.parametrize("columns", [80, 120])
def test_in_a_terminal_no_line_is_wider_than_it_is_and_nothing_is_lost(
    site: Site, columns: int
) -> None:
    people = site()
    sql = f"DELETE FROM customers WHERE 'é日本語' <> '{'words and 語 ' * 60}'"
    waiting = Waiting(people, sql=sql)
    (request,) = people.pending(people.reviewer())
    shown = in_terminal(columns, people.reviewer(), "pending")
    from agentaudit.analysis.printable import width

    assert max(map(width, shown.splitlines())) == columns
    text = "".join(line[4:] for line in shown.splitlines() if line.startswith(("  │ ", "  ┊ ")))
    assert text == sql
    told = in_terminal(columns, people.reviewer(), "deny", request["id"], "--reason", "no")
    assert "  rule        deletes need a DBA" in told.splitlines()
    assert f"{request['id']}  denied" in told
    waiting.result()


def in_terminal(columns: int, token: str, *words: str) -> str:
    """Return what a verb prints in a terminal so wide."""
    import fcntl
    import os
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-m", "agentaudit.cli", *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment | {"AGENTAUDIT_TOKEN": token},
    )
    os.close(theirs)
    printed = bytearray()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        try:
            while part := terminal.read(65536):
                printed += part
        except OSError:
            pass  # EIO: the other end is closed
    assert process.wait() == 0, printed.decode()
    return printed.decode().replace("\r\n", "\n")


# --- access for a time ----------------------------------------------------------------------------


def test_access_is_asked_for_granted_used_by_ticket_and_revoked(
    site: Site, cli: CommandLine
) -> None:
    people = site(access="request", max_window="1h")
    ana = people.issuer.token("ana")
    asked: list[subprocess.CompletedProcess[str]] = []

    def ask() -> None:
        words = ["request", "orders", "--for", "30m", "--reason", "month's end", "--class", "read"]
        asked.append(run(ana, *words, "--table", "customers", "--wait"))

    thread = threading.Thread(target=ask)
    thread.start()
    (request,) = people.pending(people.reviewer())
    shown = cli(people.reviewer(), "pending")[1].splitlines()
    assert shown[0].startswith("access to orders for 30 min")
    for line in ("  classes     read", "  tables      customers", "  reason      month's end"):
        assert line in shown
    assert cli(people.reviewer(), "approve", request["id"], "--reason", "fine")[0] == 0
    thread.join()
    assert (asked[0].returncode, asked[0].stdout) == (0, f"{request['id']}\n")

    (grant,) = cli.rows(ana, "grants")
    assert grant["in_force"]
    assert "in force" in cli(ana, "grants")[1]
    status, out, _ = cli(ana, "ticket", "orders")
    assert status == 0
    with psycopg.connect(people.gw.dsn("orders", out.strip()), autocommit=True) as client:
        assert client.execute("SELECT count(*) FROM customers").fetchone() == (5,)
        assert cli(ana, "revoke", grant["id"][:24])[0] == 0
        until(lambda: not is_alive(client), "its session ends")
    assert cli.rows(ana, "grants") == []
    assert [one["revoked_by"] for one in cli.rows(ana, "grants", "--all")] == ["ana"]
    assert "revoked by ana" in cli(ana, "grants", "--all")[1]
    assert cli(ana, "revoke", str(UUID(int=1)))[0] == 1
    status, _, err = cli(people.reviewer(), "ticket", "orders")
    assert status == 1
    assert "the token with which one connects" in err


def test_a_request_that_is_denied_ends_with_1_and_says_why(site: Site, cli: CommandLine) -> None:
    people = site(access="request")
    asked: list[subprocess.CompletedProcess[str]] = []
    words = ["request", "orders", "--for", "30m", "--reason", "x", "--at", "2030-01-01", "--wait"]
    thread = threading.Thread(target=lambda: asked.append(run(people.issuer.token("ana"), *words)))
    thread.start()
    (request,) = people.pending(people.reviewer())
    assert "  from        2030-01-01 00:00:00Z" in cli(people.reviewer(), "pending")[1]
    assert cli(people.reviewer(), "deny", request["id"], "--reason", "no need")[0] == 0
    thread.join()
    assert asked[0].returncode == 1
    assert "dora: deny, no need" in asked[0].stderr


def test_a_session_is_ended_and_its_user_blocked_and_let_in_again(
    site: Site, cli: CommandLine
) -> None:
    people = site()
    root = people.reviewer("rita", "root")
    dsn = people.gw.dsn("orders", people.issuer.token("ana"))
    with psycopg.connect(dsn, autocommit=True) as client:
        until(lambda: bool(cli.rows(root, "end", "--list")), "the session is in the state")
        (live,) = cli.rows(root, "end", "--list")
        assert live["user"] == "ana"
        assert cli(root, "end", live["session_id"][:20])[0] == 2  # why?
        assert cli(root, "end", live["session_id"][:20], "--reason", "runs wild")[0] == 0
        until(lambda: not is_alive(client), "it ends")
    assert cli(people.issuer.token("ana"), "block", "ben", "--reason", "x")[0] == 1
    status, out, _ = cli(root, "block", "ana", "--issuer", people.issuer.issuer, "--reason", "wild")
    assert status == 0
    assert "ana" in cli(root, "block", "--list")[1]

    def is_let_in() -> bool:
        try:
            psycopg.connect(people.gw.dsn("orders", people.issuer.token("ana"))).close()
        except psycopg.OperationalError:
            return False
        return True

    until(lambda: not is_let_in(), "she is blocked")
    assert cli(root, "unblock", out.strip())[0] == 0
    until(is_let_in, "she is let in again")
    assert cli.rows(root, "block", "--list") == []
    assert cli(root, "unblock", out.strip())[0] == 1
    assert cli(root, "block", "ana", "--subject", "ana", "--reason", "both")[0] == 2


def is_alive(client: psycopg.Connection[Any]) -> bool:
    try:
        client.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


def run(token: str, *words: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-m", "agentaudit.cli", *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"AGENTAUDIT_TOKEN": token},
    )


# --- who asks -------------------------------------------------------------------------------------


def test_the_token_of_the_last_login_is_used_and_never_for_another_api(
    site: Site, cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agentaudit.client import tokens

    people = site()
    now = int(time.time())

    def keep(token: str, audience: str, got_at: int, **more: Any) -> None:
        tokens.keep(
            tokens.Kept(people.issuer.issuer, audience, "cli", token, got_at, now + 3600, **more)
        )

    keep("of.another.api", "agentaudit-review", now + 1, control="https://elsewhere.example.com")
    assert cli("", "pending")[0] == 2
    keep(people.issuer.token("ana"), "agentaudit", now - 10)
    keep(people.reviewer(), "agentaudit-review", now, control=people.gw.control_url)
    waiting = Waiting(people, sql="DELETE FROM customers")
    (request,) = people.pending(people.reviewer())
    refused = cli("", "deny", request["id"], "--reason", "no", "--audience", "agentaudit")
    assert refused[0] == 1
    assert "needs a token of the audience" in refused[2]
    assert cli("", "deny", request["id"], "--reason", "no")[0] == 0
    assert waiting.result() is not None


def test_without_an_address_or_a_token_a_verb_says_what_to_give(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("AGENTAUDIT_CONTROL", raising=False)
    assert "give --control" in cli("x", "pending")[2]
    plain = cli("x", "pending", "--control", "http://gw.example.com:8470")
    assert plain[0] == 2
    assert "plain http is for loopback only" in plain[2]
    assert "agentaudit login gets one" in cli("", "pending", "--control", "http://[::1]:1")[2]
    token = tmp_path / "token"
    token.write_text("x\n")
    nobody = cli("", "pending", "--control", "http://127.0.0.1:1", "--token-file", token)
    assert nobody[0] == 2
    assert "connection refused" in nobody[2]
    missing = cli("", "pending", "--control", "http://127.0.0.1:1", "--token-file", tmp_path / "no")
    assert "No such file" in missing[2]
