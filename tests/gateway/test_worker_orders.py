"""What is ordered of a gateway with workers reaches each of their logs."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

import agentaudit as aa
from agentaudit import cli
from agentaudit.archive.verify import verify
from agentaudit.demo.gateways import Gateway
from tests.gateway.test_orders import ANA, BOB, Site
from tests.peers.gateway import GatewayFactory
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import PostgresPeer

NAMES = ["gw1-1", "gw1-2"]
WHY = ("--authority", "court", "--reason", "case 9")


class TwoLogs(Site):
    """A site with two workers: of each user's sessions, one is in each log."""

    def say_twice(self, user: str, what: str) -> None:
        dsn = self.gateway.dsn("orders", self.issuer.token(user))
        connections = [psycopg.connect(dsn, autocommit=True) for _ in NAMES]
        for connection in connections:
            connection.execute(f"SELECT '{what}'")
            connection.close()
        self.gateway.wait_until_idle()

    def told_by_each(self, *words: str, status: int = 0) -> dict[str, Any]:
        lines = self.run(*words, "--json", status=status)[0].splitlines()
        answers = {answer["gateway"]: answer for answer in map(json.loads, lines)}
        assert len(answers) == len(lines)
        return answers

    def require_proven(self) -> None:
        self.gateway.terminate()
        key = self.gateway.verifier_key
        answer = verify(self.gateway.archive, key=key, deep=True, remember=False)
        assert (answer.ok, answer.findings) == (True, [])


@pytest.fixture
def site(
    gateway: GatewayFactory,
    postgres18: PostgresPeer,
    signing_issuer: SigningIssuer,
    capsys: pytest.CaptureFixture[str],
) -> TwoLogs:
    tables = {
        "roles": {"admin": ["audit-admins"]},
        "retention": [{"name": "brief", "keep": "1ms"}],
    }
    target = postgres18.target(retention="brief")
    gw: Gateway = gateway(target, issuer=signing_issuer, tables=tables, workers=2)
    return TwoLogs(gw, signing_issuer, capsys)


def test_a_hold_is_one_in_all_logs_and_keeps_what_matches_in_each(site: TwoLogs) -> None:
    site.say_twice(ANA, "what ana asked")
    site.say_twice(BOB, "what bob asked")
    site.seal()

    out, err = site.run("legal-hold", "set", "--user", ANA, *WHY)
    (hold,) = out.split()
    assert [line for line in err.splitlines() if "holds what matches" in line] == [
        f"{name} holds what matches until this hold is released: 1 sessions now" for name in NAMES
    ]
    listed = site.told_by_each("legal-hold", "list")
    assert {name: answer["hold"] for name, answer in listed.items()} == dict.fromkeys(NAMES, hold)
    # Each log has a key of its own for people.
    assert listed["gw1-1"]["selector"] != listed["gw1-2"]["selector"]

    done = site.told_by_each("retention", "apply")
    assert {name: len(answer["purges"]) for name, answer in done.items()} == dict.fromkeys(NAMES, 1)
    assert site.users() == [ANA, ANA]

    released = site.run("legal-hold", "release", hold, *WHY)[0].splitlines()
    assert released == [f"{name}: released {hold}" for name in NAMES]
    assert site.run("legal-hold", "list", "--json")[0] == ""
    site.require_proven()


def test_a_persons_sessions_are_erased_from_all_logs_and_one_session_from_its_own(
    site: TwoLogs,
) -> None:
    site.say_twice(ANA, "what ana asked")
    site.say_twice(BOB, "what bob asked")
    site.seal()
    mine, theirs = site.token("carl", file="mine"), site.token("dora", file="theirs")
    words = ("--reason", "request 9", "--token-file", mine, "--approver-token-file", theirs)

    would = site.told_by_each("erase", "--user", ANA, "--dry-run")
    assert list(would) == NAMES
    done = site.told_by_each("erase", "--user", ANA, *words)
    assert [answer["others"] for answer in done.values()] == [[], []]
    assert site.users() == [BOB, BOB]
    assert site.holds_bytes("what ana asked") == []

    session, log = (
        aa.load(site.gateway.archive)
        .sql("SELECT session_id, gateway FROM sessions WHERE \"user\" = 'bob-babbage' LIMIT 1")
        .fetchall()[0]
    )
    assert list(site.told_by_each("erase", "--session", str(session), *words)) == [log]
    assert site.users() == [BOB]
    _, err = site.run("erase", "--user", "nobody", *words, status=2)
    assert "no closed session in a log of gw1-1, gw1-2" in err
    site.require_proven()


def test_what_one_log_cannot_do_is_said_and_the_others_do_it(
    site: TwoLogs, capsys: pytest.CaptureFixture[str]
) -> None:
    site.say_twice(ANA, "what ana asked")
    site.gateway.terminate()
    (site.gateway.directory / "keys" / "gw1-2.people").rename(site.gateway.directory / "kept")

    out, err = site.run("legal-hold", "set", "--user", ANA, *WHY, status=2)

    assert "gw1-2: not carried out: people key" in err
    assert "gw1-1 holds what matches" in err
    (listed,) = site.run("legal-hold", "list", "--json")[0].splitlines()
    assert (json.loads(listed)["gateway"], json.loads(listed)["hold"]) == ("gw1-1", out.strip())
    (site.gateway.directory / "kept").rename(site.gateway.directory / "keys" / "gw1-2.people")


def test_the_logs_of_workers_that_are_no_more_are_asked_too(site: TwoLogs) -> None:
    site.say_twice(ANA, "what ana asked")
    site.gateway.terminate()
    text = site.gateway.config.read_text()
    site.gateway.config.write_text(text.replace("workers = 2\n", "workers = 1\n"))
    assert cli.main(["keygen", "--config", str(site.gateway.config)]) == 0
    site.gateway.start()

    done = site.told_by_each("retention", "apply")

    assert {name: len(answer["purges"]) for name, answer in done.items()} == {
        "gw1": 0,
        "gw1-1": 1,
        "gw1-2": 1,
    }
    assert site.users() == []
    site.gateway.terminate()
    key = (site.gateway.directory / "keys" / "gw1.vkey").read_text()
    assert verify(site.gateway.archive, key=key, deep=True, remember=False).ok


def test_readers_are_recorded_in_one_log(site: TwoLogs) -> None:
    case = aa.load(site.gateway.archive)
    assert case.access == "recorded"
    rows = case.sql("SELECT action, object FROM access").fetchall()
    assert rows == [("open", "archive")]
