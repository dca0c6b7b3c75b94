"""Four weeks of several agents, in minutes: what the sample archive is made of.

The gateway, its sealer and its control API are the ones that users run, PostgreSQL is real, and so
is each connection. Only the clock is scripted, and the archive says so. Statements, rows and the
times of day are the same in every run; ids, keys and durations are new.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Final

from agentaudit.archive.clocks import ScriptedClock
from agentaudit.demo import agent
from agentaudit.demo.database import Postgres, embedded_postgres
from agentaudit.demo.processes import temporary_folder
from agentaudit.demo.weeks import habits
from agentaudit.demo.weeks.issuer import ScriptedIssuer
from agentaudit.demo.weeks.stage import Script, Stage
from agentaudit.demo.weeks.world import (
    ASSISTANT,
    ASSISTANT_TOO,
    CRM,
    DBA,
    FIRST_DAY,
    HUMAN,
    LAST_DAY,
    ORDERS,
    SECOND_DBA,
    SECURITY,
    SYNC,
    Shop,
    build,
    settings,
)

WEEKS: Final = 4
ROLES: Final = ("orders_rw", "crm_rw", "inspector")

_DAY: Final = timedelta(days=1)
_CHANGES: Final[dict[int, tuple[str, list[habits.Change]]]] = {
    # By days since the first one.
    2: (
        ORDERS,
        [
            ("CREATE INDEX orders_placed_at ON orders (placed_at)", "approve", DBA, "as planned"),
            (
                "ALTER TABLE orders ADD COLUMN channel text",
                "approve",
                DBA,
                "nullable, so no rewrite",
            ),
        ],
    ),
    8: (
        ORDERS,
        [
            (
                "CREATE TABLE parcel_slots (id integer PRIMARY KEY, slot text NOT NULL)",
                "approve",
                SECOND_DBA,
                "reviewed with logistics",
            ),
            (
                "ALTER TABLE customers ALTER COLUMN ssn TYPE varchar(16)",
                "deny",
                SECOND_DBA,
                "rewrites a large table under a lock; do it in the maintenance window",
            ),
        ],
    ),
    14: (
        CRM,
        [
            (
                "CREATE TABLE consents (account_id integer PRIMARY KEY, given_on date NOT NULL)",
                "approve",
                DBA,
                "ticket SALES-88",
            ),
            ("CREATE INDEX notes_account ON notes (account_id)", "approve", DBA, "fine"),
            ("DROP TABLE campaigns", "deny", DBA, "in use by campaign-bot; why?"),
        ],
    ),
    17: (
        ORDERS,
        [
            ("ALTER TABLE orders RENAME COLUMN channel TO sales_channel", "give up", DBA, ""),
            ("DROP INDEX orders_placed_at", "deny", SECOND_DBA, "the nightly report needs it"),
        ],
    ),
    23: (
        ORDERS,
        [
            (
                "CREATE INDEX payments_refunded ON payments (refunded_on)",
                "approve",
                SECOND_DBA,
                "ok after six in the evening only; it is",
            ),
            (
                "ALTER TABLE products ADD COLUMN reviewed_on date",
                "approve",
                SECOND_DBA,
                "asked for by catalog-2's owner",
            ),
        ],
    ),
}


@dataclass(frozen=True, slots=True)
class Weeks:
    """A sealed archive, and who may say so."""

    archive: Path
    verifier_key: str


def record_weeks(directory: Path, *, origin: str, tell: Callable[[str], None]) -> Weeks:
    """Record the weeks into `directory`, seal the archive and stop everything again.

    `tell` is called with a line for each day.

    Raises:
        PeerError: a process did not start or end, or a statement went other than scripted.
    """
    passwords = {role: secrets.token_urlsafe(24) for role in ROLES}
    with temporary_folder("agentaudit-weeks-") as scratch:
        for name, secret in {**passwords, "pseudonyms": secrets.token_hex(32)}.items():
            (scratch / name).touch(mode=0o600)
            (scratch / name).write_text(secret, encoding="utf-8")
        start_us = round((FIRST_DAY + timedelta(hours=1)).timestamp() * 1_000_000)
        clock = ScriptedClock.set_up(scratch / "clock", start_us)
        with (
            Postgres(binaries=embedded_postgres()) as database,
            ScriptedIssuer(clock) as issuer,
        ):
            shop = build(database, passwords)
            given = [settings(week, origin, issuer.url, database, scratch) for week in range(WEEKS)]
            with Stage(directory, given[0], clock, issuer, database) as stage:
                for number in range(7 * WEEKS):
                    day = FIRST_DAY + number * _DAY
                    if number and day.weekday() == 0:
                        # Maintenance: the segment is sealed, and new settings come into force.
                        stage.at(day + timedelta(minutes=50), _restart(stage, given[number // 7]))
                    _arrange(stage, shop, day, number)
                    stage.play()
                    tell(f"{day:%A, %d %B}")
                _last_day(stage, given[-1], LAST_DAY)
                tell(f"{LAST_DAY:%A, %d %B}: what was due is purged")
    return Weeks(archive=stage.archive, verifier_key=stage.verifier_key)


def _restart(stage: Stage, settings: dict[str, object]) -> Script:
    stage.restart(settings)
    yield 0.0


def _arrange(stage: Stage, shop: Shop, day: datetime, number: int) -> None:
    """Put all that happens on `day`, the one with this number, on the stage's list."""
    chance = Random(f"day {number}")  # noqa: S311 - a script, the same in every run
    week, date = number // 7, day.date()
    works = day.weekday() < 5

    def at(hours: float, script: Script) -> None:
        minutes = hours * 60 + chance.uniform(0, 25)
        stage.at(day + timedelta(minutes=minutes), script)

    def open_shop() -> Script:
        shop.open(day)
        yield 0.0

    def nightly() -> Script:
        agent.nightly_report(stage.dsn(agent.REPORTER, ORDERS))
        yield 0.0

    at(2.1, nightly())
    stage.at(day + timedelta(hours=6), open_shop())
    for run in range(1, 3 if works else 2):
        at(4 + 9 * run, habits.sync(stage, date, run))
    if number == 27:
        at(7.2, _incident(stage))
    if not works:
        return
    for run in range(3):
        at(7.6 + 3 * run, habits.tickets(stage, date, run))
    if day.weekday() == 0:
        at(3.5, habits.weekly_export(stage, agent.REPORTER, date))
    # From the third week on it works when nobody does.
    at(9.5 if week < 2 else 21.5, habits.explore(stage, date, week))
    for run in range(chance.randrange(2, 4)):
        at(8 + chance.uniform(0, 9), habits.chat(stage, ASSISTANT, date, run))
    if chance.random() < 0.5:
        at(8 + chance.uniform(0, 9), habits.chat(stage, ASSISTANT_TOO, date, 9))
    if day.weekday() in (1, 3):
        at(10 + chance.uniform(0, 5), habits.sales_chat(stage, ASSISTANT, date))
    if day.weekday() in (0, 2, 4):
        at(11 + chance.uniform(0, 4), habits.campaign(stage, date, day.weekday() // 2))
    if number in _CHANGES:
        target, changes = _CHANGES[number]
        at(18, habits.migrate(stage, target, date, changes))
    _arrange_once(stage, day, number, at)


def _arrange_once(
    stage: Stage, day: datetime, number: int, at: Callable[[float, Script], None]
) -> None:
    """Put what happens but once on the list."""
    date = day.date()
    if number in (1, 9, 18, 24):
        at(12, _refused(stage, f"campaign-bot/{date:%m%d}-orders"))
    if number == 9:
        at(19, habits.backfill(stage, date))
    if number == 10:
        at(15, habits.raise_limits(stage, date, "approve", "agreed with finance on 3 November"))
    if number == 16:
        at(9.2, habits.escalate(stage, date, SECOND_DBA))
        at(11, habits.by_hand(stage, ORDERS, date, _WHO_MAY))
    if number == 17:
        at(10, _hold_sync(stage))
    if number == 18:
        at(
            14.5,
            habits.raise_limits(stage, date, "deny", "the same request as last week: why again?"),
        )
        at(16.5, habits.hidden_statement(stage, date))
    if number == 22:
        at(16, _review(stage))


_WHO_MAY: Final = """\
\\pset pager off
\\dp ledger
SELECT rolname, rolsuper FROM pg_roles WHERE rolcanlogin ORDER BY rolname;
SELECT count(*) FROM ledger;
"""
_WHAT_IS_LEFT: Final = """\
\\pset pager off
SELECT status, count(*) FROM orders GROUP BY status ORDER BY status;
SELECT count(*) FROM tickets WHERE id = 318;
"""


def _refused(stage: Stage, run: str) -> Script:
    stage.refuse(agent.OUTSIDER, ORDERS, run)
    yield 0.0


def _incident(stage: Stage) -> Script:
    """Play the demo's day: refunds, and the agent that believes a ticket."""
    agent.refund_duplicates(stage.dsn(agent.COPILOT, ORDERS), think=stage.let_pass)
    yield 95.0
    agent.be_refused(stage.dsn(agent.OUTSIDER, ORDERS))
    yield 12.0
    agent.answer_tickets(stage.dsn(agent.COPILOT, ORDERS), think=stage.let_pass)


def _hold_sync(stage: Stage) -> Script:
    """Keep what sync-9 did: somebody asks how it came to look for another way in."""
    _set_hold(
        stage,
        {"user": SYNC.user},
        "finance, matter 2026-041",
        "sync-9 tried to write into the ledger; keep what it did",
    )
    yield 0.0


def _review(stage: Stage) -> Script:
    """Keep one morning too many, and let go of it again."""
    held = _set_hold(stage, {"target": CRM}, "privacy office", "request of a customer, unclear yet")
    yield 5400.0
    stage.order(
        {
            "do": "legal_hold_release",
            "hold": held,
            "authority": "privacy office",
            "reason": "it was about another company",
        }
    )


def _set_hold(stage: Stage, selector: dict[str, object], authority: str, reason: str) -> str:
    order = {"do": "legal_hold_set", "selector": selector}
    return str(stage.order(order | {"authority": authority, "reason": reason})["hold"])


def _last_day(stage: Stage, settings: dict[str, object], day: datetime) -> None:
    """Let Monday come: the incident is found, kept, and what is due is purged, and on Tuesday."""

    def nightly() -> Script:
        agent.nightly_report(stage.dsn(agent.REPORTER, ORDERS))
        yield 0.0

    def found() -> Script:
        stage.psql(HUMAN, ORDERS, "psql/1123", _WHAT_IS_LEFT)
        yield 300.0
        control = stage.control(SECURITY)
        control.block("it followed instructions in a ticket", user=agent.COPILOT.user)
        stage.let_settle()
        yield 40.0
        stage.refuse(agent.COPILOT, ORDERS, "copilot-7/run-43")
        yield 200.0
        _set_hold(
            stage,
            {"user": agent.COPILOT.user, "since": _us(day - _DAY), "until": _us(day)},
            "security, incident 2026-007",
            "orders were deleted by an agent; keep all of that day",
        )

    def purge() -> Script:
        stage.order({"do": "retention_apply"})
        yield 600.0

    stage.at(day + timedelta(minutes=50), _restart(stage, settings))
    stage.at(day + timedelta(hours=2, minutes=9), nightly())
    stage.at(day + timedelta(hours=8, minutes=4), found())
    stage.at(day + timedelta(hours=10), purge())
    # A segment is rewritten once a day: what has waited for others in it has its turn.
    stage.at(day + _DAY + timedelta(hours=10, minutes=30), purge())
    stage.play()


def _us(when: datetime) -> int:
    return round(when.timestamp() * 1_000_000)
