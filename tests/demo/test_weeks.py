"""What the sample is made with: one scripted time for all who are on, and sessions that overlap."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from agentaudit import load
from agentaudit.archive.clocks import ScriptedClock
from agentaudit.archive.verify import verify
from agentaudit.demo.database import Postgres, embedded_postgres
from agentaudit.demo.weeks import ROLES, habits, world
from agentaudit.demo.weeks.issuer import AUDIENCE, REVIEW_AUDIENCE, ScriptedIssuer
from agentaudit.demo.weeks.stage import Script, Stage
from agentaudit.errors import IdentityError
from agentaudit.identity import Verifier
from agentaudit.settings.tables import Issuer

FIRST_US = round(world.FIRST_DAY.timestamp() * 1_000_000)


@pytest.fixture
def clock(tmp_path: Path) -> ScriptedClock:
    return ScriptedClock.set_up(tmp_path / "clock", FIRST_US)


@pytest.fixture
def issuer(clock: ScriptedClock) -> Iterator[ScriptedIssuer]:
    with ScriptedIssuer(clock) as issuer:
        yield issuer


async def test_tokens_are_valid_by_the_scripted_clock_and_by_no_other(
    clock: ScriptedClock, issuer: ScriptedIssuer
) -> None:
    settings = [Issuer(url=issuer.url, audience=[AUDIENCE])]
    scripted = Verifier(settings, wall_clock=lambda: clock.now_us() / 1e6)
    real = Verifier(settings)
    try:
        token = issuer.token("ana", ["data-agents"], agent="bot-1")
        actor = await scripted.actor(token)
        assert (actor.user, actor.agent, actor.groups) == ("ana", "bot-1", ("data-agents",))
        with pytest.raises(IdentityError, match="has expired"):
            await real.actor(token)
        review = issuer.review_token("dora", ["dba"])
        decider = await scripted.actor(review, audience=REVIEW_AUDIENCE, login_age_s=900)
        assert decider.user == "dora"
        clock.move(1000 * 1_000_000)
        with pytest.raises(IdentityError):
            await scripted.actor(review, audience=REVIEW_AUDIENCE, login_age_s=900)
    finally:
        scripted.close()
        real.close()


@pytest.mark.full
@pytest.mark.timeout(300)
def test_gateway_sealer_and_control_api_go_by_the_scripted_clock(
    clock: ScriptedClock, issuer: ScriptedIssuer, tmp_path: Path
) -> None:
    passwords = {role: secrets.token_urlsafe(12) for role in ROLES}
    for name, secret in (passwords | {"pseudonyms": secrets.token_hex(32)}).items():
        (tmp_path / name).write_text(secret)
    began_s = time.monotonic()
    order: list[str] = []

    def chat() -> Script:
        order.append("chat begins")
        yield from habits.chat(stage, world.ASSISTANT, world.FIRST_DAY.date(), 0)
        order.append("chat ends")

    def migrate() -> Script:
        change = ("ALTER TABLE orders ADD COLUMN x text", "approve", world.DBA, "as planned")
        yield from habits.migrate(stage, world.ORDERS, world.FIRST_DAY.date(), [change])
        order.append("migration ends")

    with Postgres(binaries=embedded_postgres()) as database:
        world.build(database, passwords)
        given = world.settings(0, "audit.test", issuer.url, database, tmp_path)
        with Stage(tmp_path / "gateway", given, clock, issuer, database) as stage:
            stage.at(world.FIRST_DAY + timedelta(hours=9), migrate())
            stage.at(world.FIRST_DAY + timedelta(hours=9, seconds=30), chat())
            stage.play()

    assert order[0] == "chat begins", "it begins while the migration waits for a decision"
    found = verify(stage.archive, key=stage.verifier_key, deep=True, remember=False)
    assert found.ok is True
    assert found.scripted_clocks == ["gw1"]
    case = load(stage.archive)
    ((requested_at, decided_at),) = case.sql(
        "SELECT requested_at, decided_at FROM decisions"
    ).fetchall()
    assert requested_at.date() == decided_at.date() == world.FIRST_DAY.date()
    assert decided_at - requested_at > timedelta(seconds=60)
    spans = case.sql(
        "SELECT max(closed_at) - min(opened_at) FROM sessions WHERE protocol <> 'agentaudit'"
    ).fetchall()
    assert spans[0][0] > timedelta(seconds=60)
    assert time.monotonic() - began_s < 200
