"""Purges, erasures and legal holds, ordered by an operator, of what a real database was asked."""

from __future__ import annotations

import asyncio
import getpass
import json
import time
from hashlib import file_digest
from pathlib import Path
from typing import Any

import psycopg
import pytest

import agentaudit as aa
from agentaudit import cli
from agentaudit.archive.keys import People, Place, create_key
from agentaudit.archive.recorder import Recorder
from agentaudit.demo.gateways import Gateway
from agentaudit.errors import QuestionError
from agentaudit.gateway.orders import Asker, Orders
from agentaudit.identity import Verifier
from agentaudit.settings.tables import Roles
from tests.archive.recording import new_site, require_sound, rows, start
from tests.peers.gateway import GatewayFactory
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import PostgresPeer

ANA, BOB = "ana-lovelace", "bob-babbage"


class Site:
    """A gateway whose sessions are due as soon as they are sealed, and the command line."""

    def __init__(self, gateway: Gateway, issuer: SigningIssuer, capsys: Any) -> None:
        self.gateway = gateway
        self.issuer = issuer
        self._capsys = capsys

    def say(self, user: str, what: str) -> None:
        dsn = self.gateway.dsn("orders", self.issuer.token(user))
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(f"SELECT '{what}'")

    def seal(self) -> None:
        self.gateway.terminate()
        self.gateway.start()

    def run(self, *words: str, status: int = 0) -> tuple[str, str]:
        """Return both outputs of a verb, which must end with `status`."""
        self._capsys.readouterr()
        ended = cli.main([*words, "--config", str(self.gateway.config)])
        printed = self._capsys.readouterr()
        assert ended == status, printed.err
        return printed.out, printed.err

    def told(self, *words: str, status: int = 0) -> dict[str, Any]:
        (line,) = self.run(*words, "--json", status=status)[0].splitlines()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def users(self) -> list[str]:
        rows = aa.load(self.gateway.archive).sessions(target="orders").project('"user"')
        return sorted(user for (user,) in rows.fetchall())

    def hmac(self, name: str) -> str:
        folder = self.gateway.directory
        origin = "audit-0.test"
        place = Place(
            archive=folder / "archive", gateway="gw1", origin=origin, keys=folder / "keys"
        )
        return People(place).hmac(name)

    def token(self, name: str, *, file: str, **changed: Any) -> str:
        claims = {"aud": "agentaudit-review", "auth_time": int(time.time())} | changed
        groups = claims.pop("groups", ["audit-admins"])
        path = self.gateway.directory / file
        path.write_text(self.issuer.token(name, groups, claims=claims) + "\n")
        return str(path)

    def files(self) -> dict[str, str]:
        """Return the digest of every file, but for what a running gateway goes on writing."""
        found = {}
        for path in self.gateway.archive.rglob("*"):
            relative = path.relative_to(self.gateway.archive).as_posix()
            if path.is_file() and not relative.startswith(("journal/", "log/")):
                with path.open("rb") as file:
                    found[relative] = file_digest(file, "sha256").hexdigest()
        return found

    def holds_bytes(self, text: str) -> list[str]:
        """Return the files that hold `text`, as it is or in a Parquet page."""
        import pyarrow.parquet as pq

        found = []
        for path in self.gateway.archive.rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                if path.suffix == ".parquet":
                    content += str(pq.read_table(path).to_pylist()).encode()
                if text.encode() in content:
                    found.append(path.name)
        return found


@pytest.fixture
def site(
    gateway: GatewayFactory,
    postgres18: PostgresPeer,
    signing_issuer: SigningIssuer,
    capsys: pytest.CaptureFixture[str],
) -> Site:
    tables = {
        "roles": {"admin": ["audit-admins"]},
        "retention": [{"name": "brief", "keep": "1ms"}],
    }
    target = postgres18.target(retention="brief")
    return Site(gateway(target, issuer=signing_issuer, tables=tables), signing_issuer, capsys)


def test_what_is_due_goes_what_is_held_stays_and_both_are_in_the_archive(site: Site) -> None:
    site.say(ANA, "what ana asked")
    site.say(BOB, "what bob asked")
    site.seal()
    hold = site.run(
        "legal-hold", "set", "--user", ANA, "--authority", "district court", "--reason", "case 7"
    )[0].strip()
    listed = site.told("legal-hold", "list")
    assert (listed["gateway"], listed["hold"]) == ("gw1", hold)
    assert listed["selector"] == {"user": site.hmac(ANA)}
    assert listed["actor"] == f"os:{getpass.getuser()}"
    assert (listed["authority"], listed["reason"]) == ("district court", "case 7")
    assert "district court" in site.run("legal-hold", "list")[0]

    before = site.files()
    plan = site.told("retention", "plan")
    assert site.files() == before
    assert plan["gateway"] == "gw1"
    assert plan["totals"]["sessions"]["sessions"] == 1
    assert [held["holds"] for held in plan["held"]] == [[hold]]
    out, err = site.run("retention", "plan")
    assert "gw1: sessions of 1 sessions would go" in out
    assert f"by legal hold {hold}" in out
    assert "nothing was touched" in err

    out, _ = site.run("retention", "apply")
    assert "gw1: purge " in out
    assert site.users() == [ANA]
    assert site.holds_bytes("what bob asked") == []
    assert site.holds_bytes("what ana asked") != []
    assert "nothing was due" in site.run("retention", "apply")[0]

    # Without a running gateway the same is done by a recorder of its own.
    site.gateway.terminate()
    _, err = site.run(
        "legal-hold", "release", hold, "--authority", "district court", "--reason", "withdrawn"
    )
    assert "gw1 does not run: recording for this alone" in err
    assert site.run("legal-hold", "list")[0].splitlines()[1:] == []
    assert site.told("retention", "apply")["purges"] == []
    assert "whose segments were rewritten within a day" in site.run("retention", "plan")[0]

    case = aa.load(site.gateway.archive)
    actions = case.sql("SELECT action FROM access WHERE action <> 'open'").fetchall()
    assert sorted(action for (action,) in actions) == [
        "legal_hold", "purge", "purge", "purge", "release",
    ]  # fmt: skip
    kinds = case.sql("SELECT kind FROM events WHERE kind IN ('purge', 'legal_hold')").fetchall()
    assert sorted(kind for (kind,) in kinds) == ["legal_hold"] * 2 + ["purge"] * 3


def test_a_hold_says_how_many_sessions_it_is_about_now(site: Site) -> None:
    site.say(ANA, "what ana asked")
    site.seal()
    site.say(BOB, "what bob asked")
    ((ana,),) = aa.load(site.gateway.archive).sessions(user=ANA).project("session_id").fetchall()
    why = ("--authority", "court", "--reason", "case 7")
    selectors = [
        (("--user", ANA), 1),
        (("--user", "ana-lovelaec"), 0),
        (("--target", "orders"), 2),
        (("--since", "1h"), 2),
        (("--until", "1h"), 0),
        (("--session", str(ana).upper()), 1),
    ]
    for selector, sessions in selectors:
        assert site.told("legal-hold", "set", *selector, *why)["sessions"] == sessions
    _, err = site.run("legal-hold", "set", "--user", "ana-lovelaec", *why)
    assert "until this hold is released: 0 sessions now" in err


def test_in_a_shared_archive_a_hold_names_the_gateways_in_whose_logs_it_does_not_count(
    site: Site,
) -> None:
    keys = site.gateway.directory / "keys"
    create_key(keys, "gw2", "audit.test")

    async def record() -> None:
        other = await Recorder.start(
            archive=site.gateway.archive, gateway="gw2", origin="audit.test", keys=keys
        )
        await other.stop()

    asyncio.run(record())
    why = ("--authority", "court", "--reason", "case 9")
    hold, err = site.run("legal-hold", "set", "--user", ANA, *why, status=1)
    assert "gw2: not asked" in err
    assert "gw2: not asked" in site.run("legal-hold", "release", hold.strip(), *why, status=1)[1]
    dry = site.run("erase", "--user", ANA, "--dry-run")
    assert "gw2: not asked" in dry[1]


def test_an_erasure_needs_two_people_and_leaves_the_name_of_none(site: Site) -> None:
    site.say(ANA, "what ana asked")
    site.say(BOB, "what bob asked")
    site.seal()
    mine, theirs = site.token("carl", file="mine"), site.token("dora", file="theirs")

    def erase(*words: str, requester: str = mine, approver: str = theirs, status: int = 0) -> Any:
        tokens = ["--token-file", requester, "--approver-token-file", approver]
        return site.run("erase", *words, "--reason", "request 9", *tokens, status=status)

    assert "one of --session and --user" in erase(status=2)[1]
    assert "are needed" in site.run("erase", "--user", ANA, status=2)[1]
    refusals = [
        (site.token("carl", file="a"), "one and the same"),
        (site.token("eve", file="b", groups=["data-agents"]), "in no group that may decide"),
        (site.token("eve", file="c", aud="agentaudit"), "for another audience"),
        (site.token("eve", file="d", auth_time=int(time.time()) - 1000), "15 minutes ago"),
        (site.token("eve", file="e", act={"sub": "carl"}), "one and the same"),
    ]
    for token, said in refusals:
        _, err = erase("--user", ANA, approver=token, status=2)
        assert said in err
    assert site.users() == [ANA, BOB]
    would = site.told("erase", "--user", ANA, "--dry-run")
    assert would["totals"]["sessions"]["sessions"] == 1
    assert site.users() == [ANA, BOB]

    hold = site.told(
        "legal-hold", "set", "--target", "orders", "--authority", "court", "--reason", "case 8"
    )["hold"]
    assert f"under legal hold {hold}" in erase("--user", ANA, status=2)[1]
    site.run("legal-hold", "release", hold, "--authority", "court", "--reason", "over")
    assert "legal hold" in site.run(
        "legal-hold", "release", hold, "--authority", "x", "--reason", "y", status=2
    )[1]  # fmt: skip

    out, _ = erase("--user", ANA)
    assert "sessions of 1 sessions" in out
    assert site.users() == [BOB]
    assert site.holds_bytes("what ana asked") == site.holds_bytes(ANA) == []
    decided = aa.load(site.gateway.archive).sql("FROM decisions").to_arrow_table().to_pylist()
    issuer = site.issuer.issuer
    # The first attempt met the hold: it was decided, and not done.
    for decision in decided:
        assert (decision["kind"], decision["state"]) == ("purge", "approved")
        assert decision["requester"] == site.hmac(f"{issuer} carl")
        assert decision["approvers"] == [site.hmac(f"{issuer} dora")]
        assert decision["reasons"] == ["request 9"]
    assert len(decided) == 2
    assert site.holds_bytes("carl") == site.holds_bytes("dora") == []
    ((bobs,),) = aa.load(site.gateway.archive).sessions(user=BOB).project("session_id").fetchall()
    site.gateway.terminate()
    erase("--session", str(bobs))
    assert site.users() == []


def test_an_order_that_cannot_be_carried_out_says_why(site: Site, tmp_path: Path) -> None:
    nothing = ("--authority", "court", "--reason", "case")
    assert "what is to be held is not said" in site.run("legal-hold", "set", *nothing, status=2)[1]
    said = site.run("legal-hold", "set", "--session", "nonsense", *nothing, status=2)[1]
    assert "session: an id as" in said
    unknown = "01a2048e-a9f5-706c-b9f0-0d3c7f0bd1b7"
    assert "not in force" in site.run("legal-hold", "release", unknown, *nothing, status=2)[1]
    site.gateway.terminate()
    settings = site.gateway.config.read_text()
    site.gateway.config.write_text(settings.replace('"gw1"', '"gw2"'))
    assert "gw2 has recorded nothing here" in site.run("retention", "apply", status=2)[1]
    site.gateway.config.write_text(settings)


# --- what an order may say, without a database


@pytest.mark.parametrize(
    ("selector", "said"),
    [
        ({"target": "\ud800"}, "target: no valid UTF-8, a text expected"),
        ({"user": "ana\udcff"}, "user: no valid UTF-8, a text expected"),
        (
            {"since": -315_619_200_000_000},
            "since: 1960-01-01T00:00:00Z, a time from 1970 to 9999 expected",
        ),
        ({"since": "1960-01-01"}, "since: microseconds since 1970 expected"),
        (
            {"since": 1_767_312_000_000_000, "until": 1_767_225_600_000_000},
            "since 2026-01-02T00:00:00Z: after until 2026-01-01T00:00:00Z, so it is about nothing",
        ),
    ],
)
async def test_what_no_hold_can_be_about_is_refused_before_it_is_recorded(
    tmp_path: Path, selector: dict[str, Any], said: str
) -> None:
    recorded = new_site(tmp_path / "site")
    recorder = await start(recorded)
    assert await refused(recorder, selector) == said
    await recorder.stop()
    require_sound(recorded)
    assert [row["kind"] for row in rows(recorded, "events")] == ["session_open", "session_close"]


async def test_an_id_may_be_in_capitals_and_an_access_may_quote_anything(tmp_path: Path) -> None:
    recorded = new_site(tmp_path / "site")
    recorder = await start(recorded)
    orders, root = Orders(recorder, _nobody), Asker("root", True)
    session = "01a2048e-a9f5-706c-b9f0-0d3c7f0bd1b7"
    why = {"authority": "court", "reason": "case"}
    order = {"do": "legal_hold_set", "selector": {"session": session.upper()}, **why}
    answer = await orders.carry_out(root, order)
    assert answer["selector"] == {"session": session}
    released = answer["hold"].upper()
    await orders.carry_out(root, {"do": "legal_hold_release", "hold": released, **why})
    quoted = {"do": "access", "action": "search", "object": "\ud800"}
    await orders.carry_out(root, quoted)
    await recorder.stop()
    require_sound(recorded)
    assert [row["object"] for row in rows(recorded, "access")][-1] == "\ufffd"


@pytest.mark.parametrize("option", ["--user", "--target", "--authority", "--reason"])
def test_an_argument_that_is_no_text_is_refused_by_its_name(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {"--target": "orders", "--authority": "court", "--reason": "case"}
    given = [part for pair in (words | {option: "\udcff"}).items() for part in pair]
    with pytest.raises(SystemExit) as ended:
        cli.main(["legal-hold", "set", *given])
    assert ended.value.code == 2
    assert f"argument {option}: b'\\xff': UTF-8 expected" in capsys.readouterr().err


async def refused(recorder: Recorder, selector: dict[str, Any], text: str = "case") -> str:
    """Return why a hold on `selector` is refused."""
    order = {"do": "legal_hold_set", "selector": selector, "authority": text, "reason": text}
    with pytest.raises(QuestionError) as caught:
        await Orders(recorder, _nobody).carry_out(Asker("root", True), order)
    return str(caught.value)


def _nobody() -> tuple[Roles, Verifier]:
    raise AssertionError("no token is asked for")


async def test_an_order_that_no_row_of_events_holds_is_refused_before_it_is_recorded(
    tmp_path: Path,
) -> None:
    recorded = new_site(tmp_path / "site")
    recorder = await start(recorded)
    control = "\x01" * 600

    said = await refused(recorder, {"target": control}, control)

    assert said == "the order: 10,908 bytes as it is recorded, at most 8,192 expected"
    await recorder.stop()
    require_sound(recorded)
    assert [row["kind"] for row in rows(recorded, "events")] == ["session_open", "session_close"]
