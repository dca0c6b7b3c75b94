"""What the weeks are played with: two databases, the people, and the settings in force when.

The shop is the demo's. What it will sell during the weeks comes in day by day, as from a shop that
is open, by a login of its own that does not pass the gateway. The second database is the sales
team's: accounts, and notes in which people have written more than they should.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Final

import psycopg

from agentaudit.demo import shop
from agentaudit.demo.agent import OUTSIDER, Login
from agentaudit.demo.database import Postgres
from agentaudit.demo.weeks.issuer import AUDIENCE
from agentaudit.demo.weeks.stage import GATEWAY, Person

FIRST_DAY: Final = datetime(2026, 10, 26, tzinfo=UTC)
"""A Monday."""

LAST_DAY: Final = datetime(2026, 11, 23, tzinfo=UTC)
"""The Monday after the incident."""

ORDERS, CRM = "orders", "crm"
ACCOUNTS: Final = 420

CATALOGUER = Login("aiko.brandt", "catalog-2", ("data-agents",))
ASSISTANT = Login("priya.nair", "assist-3", ("data-agents", "sales"))
ASSISTANT_TOO = Login("tomas.ito", "assist-3", ("data-agents",))
SYNC = Login("omar.haddad", "sync-9", ("data-agents",))
MIGRATOR = Login("jonas.weiss", "migrator-4", ("data-agents", "sales", "developers"))
CAMPAIGNER = Login(OUTSIDER.user, OUTSIDER.agent, (*OUTSIDER.groups, "sales"))
HUMAN = Login("ruth.lindqvist", "psql", ("data-agents", "sales", "dba"))

DBA = Person("ruth.lindqvist", ("dba",))
SECOND_DBA = Person("emil.santos", ("dba",))
PRIVACY = Person("nadia.costa", ("privacy",))
SECURITY = Person("yusuf.okafor", ("privacy", "security"))

CRM_SCHEMA = """
CREATE TABLE accounts (
    id integer PRIMARY KEY,
    name text NOT NULL,
    contact text NOT NULL,
    email text NOT NULL,
    iban text,
    country character(2) NOT NULL,
    segment text NOT NULL,
    credit_limit numeric(10, 2) NOT NULL
);
CREATE TABLE notes (
    id integer PRIMARY KEY,
    account_id integer NOT NULL REFERENCES accounts,
    written_at timestamptz NOT NULL,
    author text NOT NULL,
    body text NOT NULL
);
CREATE TABLE campaigns (
    id serial PRIMARY KEY,
    name text NOT NULL,
    segment text NOT NULL,
    planned_for date NOT NULL,
    recipients integer
);
"""

_RULES: Final[list[dict[str, Any]]] = [
    {
        "name": "rights are given elsewhere",
        "when": {"operation": ["GRANT", "REVOKE", "ALTER ROLE", "CREATE ROLE", "DROP ROLE"]},
        "action": "deny",
    },
    {
        "name": "schema changes wait for a DBA",
        "when": {"class": ["schema"]},
        "action": "hold",
        "approvers": ["dba"],
        "timeout": "4h",
    },
    {
        "name": "code in the database waits for a DBA",
        "when": {"operation": ["CREATE FUNCTION", "CREATE PROCEDURE", "CREATE TRIGGER"]},
        "action": "hold",
        "approvers": ["dba"],
        "timeout": "4h",
    },
]
_BULK: Final[dict[str, Any]] = {
    "name": "many accounts at once wait",
    "when": {"target": [CRM], "operation": ["UPDATE", "DELETE"], "rows_over": 50},
    "action": "hold",
    "approvers": ["privacy", "dba"],
    "timeout": "4h",
}
_UNKNOWN: Final[dict[str, Any]] = {
    "name": "nothing that hides what it does",
    "when": {"target": [CRM], "class": ["unknown"]},
    "action": "deny",
}
_LEDGER: Final[dict[str, Any]] = {
    "name": "the ledger is finance's",
    "when": {"target": [ORDERS], "resource": ["ledger"]},
    "action": "deny",
}
_MASKS: Final[list[dict[str, Any]]] = [
    {
        "name": "bank details",
        "target": [CRM],
        "columns": ["*.accounts.iban"],
        "apply": ["archive", "client"],
    },
    {"name": "secrets in notes", "target": [CRM], "detect": ["secrets"]},
]


def settings(
    week: int, origin: str, issuer: str, database: Postgres, secrets: Path
) -> dict[str, Any]:
    """Return the settings in force from the Monday of `week` on, which is 0 at the beginning.

    `secrets` is a folder with the passwords of `orders_rw`, `crm_rw` and `inspector`, and the key
    of the pseudonyms.
    """
    # What is learned in a week comes into force on the Monday after it.
    rules = [*_RULES, *[_BULK, _UNKNOWN, _LEDGER][:week]]
    pseudonyms = {
        "name": "addresses",
        "target": [CRM],
        "columns": ["email"],
        "action": "pseudonym",
        "key_file": str(secrets / "pseudonyms"),
    }
    masks = [*_MASKS, *([pseudonyms] if week >= 1 else [])]
    customers = {"keep": "90d", "payload_keep": "30d"}
    if week >= 2:
        customers = {"keep": "19d", "payload_keep": "7d"}
    common = {
        "protocol": "postgres",
        "address": f"{database.host}:{database.port}",
        "tls": "disable",
    }
    return {
        "gateway": {"name": GATEWAY, "origin": origin, "segment_age": "30d"},
        "listen": {"postgres": "127.0.0.1:0", "control": "127.0.0.1:0"},
        "roles": {"admin": ["privacy"], "auditor": ["security"]},
        "issuer": [{"url": issuer, "audience": [AUDIENCE]}],
        "target": [
            common
            | {
                "name": ORDERS,
                "database": ORDERS,
                "user": "orders_rw",
                "password_file": str(secrets / "orders_rw"),
                "groups": ["data-agents"],
                "approvers": ["dba"],
                "retention": "business",
                "tags": {"env": "prod"},
            },
            common
            | {
                "name": CRM,
                "database": CRM,
                "user": "crm_rw",
                "password_file": str(secrets / "crm_rw"),
                "inspect_user": "inspector",
                "inspect_password_file": str(secrets / "inspector"),
                "groups": ["sales"],
                "approvers": ["dba", "privacy"],
                "retention": "customers",
                "tags": {"env": "prod", "personal": "yes"},
            },
        ],
        "rule": rules,
        "mask": masks,
        "retention": [
            {"name": "business", "keep": "400d", "payload_keep": "20d"},
            {"name": "customers", **customers},
        ],
    }


def build(database: Postgres, passwords: dict[str, str]) -> Shop:
    """Create both databases and their logins; return the shop, as of the first day."""
    for role, password in passwords.items():
        database.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{password}'")
    database.execute(f"CREATE DATABASE {ORDERS} OWNER orders_rw")
    database.execute(f"CREATE DATABASE {CRM} OWNER crm_rw")
    shop.fill(database.superuser_dsn(ORDERS))
    # What an agent creates, changes and drops must be its role's; the books are nobody's here.
    database.execute(
        *(f"ALTER TABLE {table} OWNER TO orders_rw" for table in _SHOP_TABLES),
        "CREATE TABLE ledger (day date PRIMARY KEY, revenue numeric(12, 2) NOT NULL)",
        database=ORDERS,
    )
    with psycopg.connect(database.superuser_dsn(CRM)) as connection:
        connection.execute(CRM_SCHEMA)
        cursor = connection.cursor()
        chance = Random(20261026)  # noqa: S311 - invented rows, the same in every run
        cursor.executemany(
            "INSERT INTO accounts VALUES (%s, %s, %s, %s, %s, %s, %s, %s)", list(_accounts(chance))
        )
        cursor.executemany("INSERT INTO notes VALUES (%s, %s, %s, %s, %s)", list(_notes(chance)))
        for table in ("accounts", "notes", "campaigns"):
            connection.execute(f"ALTER TABLE {table} OWNER TO crm_rw")
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO inspector")
    with psycopg.connect(database.superuser_dsn(CRM), autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
    return Shop(database)


_SOLD = ("orders", "order_lines", "payments")
_SHOP_TABLES = ("customers", "products", *_SOLD, "tickets", "integration_keys")


class Shop:
    """The shop while the weeks go by: what has not been sold yet waits here, by day."""

    def __init__(self, database: Postgres) -> None:
        self._dsn = database.superuser_dsn(ORDERS)
        self._coming: dict[str, list[tuple[Any, ...]]] = {}
        self._chance = Random(20261101)  # noqa: S311 - invented rows, the same in every run
        self._next_ticket = 1
        with psycopg.connect(self._dsn) as connection:
            for table in _SOLD:
                key = "id" if table == "orders" else "order_id"
                self._coming[table] = connection.execute(
                    f"SELECT o.placed_at, t.* FROM {table} t JOIN orders o ON o.id = t.{key} "  # noqa: S608
                    "WHERE o.placed_at >= %s ORDER BY o.placed_at, o.id",
                    [FIRST_DAY],
                ).fetchall()
            self._tickets = connection.execute(
                "DELETE FROM tickets RETURNING opened_at, tickets.*"
            ).fetchall()
            connection.execute("DELETE FROM orders WHERE placed_at >= %s", [FIRST_DAY])

    def open(self, day: datetime) -> None:
        """Let come in what was ordered and asked until the morning of `day`, six o'clock."""
        until = day + timedelta(hours=6)
        with psycopg.connect(self._dsn) as connection:
            cursor = connection.cursor()
            for table, coming in self._coming.items():
                due = [row for row in coming if row[0] < until]
                self._coming[table] = coming[len(due) :]
                marks = ", ".join(["%s"] * (len(due[0]) - 1)) if due else ""
                cursor.executemany(
                    f"INSERT INTO {table} VALUES ({marks})",  # noqa: S608
                    [row[1:] for row in due],
                )
            tickets = [row for row in self._tickets if row[0] < until + timedelta(hours=1)]
            if tickets:
                self._tickets = []
                # Of the weeks before, all is answered; the newest dozen waits.
                connection.execute("UPDATE tickets SET status = 'closed'")
            elif day.weekday() < 5:
                ((last,),) = connection.execute("SELECT max(id) FROM orders").fetchall()
                tickets = [self._ticket(day, last) for _ in range(self._chance.randrange(3, 7))]
            cursor.executemany(
                "INSERT INTO tickets VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
                [row[1:] for row in tickets],
            )

    def _ticket(self, day: datetime, last_order: int) -> tuple[Any, ...]:
        chance, number = self._chance, self._next_ticket
        self._next_ticket += 1
        subject, body = chance.choice(sorted(shop.SUBJECTS.items()))
        tags = [subject.split()[0].lower().strip("?"), chance.choice(("web", "mail"))]
        opened_at = day + timedelta(minutes=chance.randrange(60, 350))
        order = chance.randrange(last_order - 150, last_order + 1)
        customer = chance.randrange(1, shop.CUSTOMERS + 1)
        return (opened_at, number, customer, order, opened_at, "open", tags, subject, body)


def _accounts(chance: Random) -> Iterator[tuple[Any, ...]]:
    kinds = ("Works", "Logistics", "Design", "Studio", "Clinic", "Foods", "Energy", "Press")
    places = ("Nord", "Alpen", "Hafen", "Linden", "Rhein", "Aurora", "Delta", "Orion", "Sankt")
    first, last = shop.FIRST_NAMES.split(), shop.LAST_NAMES.split()
    for number in range(1, ACCOUNTS + 1):
        name = f"{chance.choice(places)} {chance.choice(kinds)} {number}"
        contact = f"{chance.choice(first)} {chance.choice(last)}"
        country = chance.choice(("DE", "FR", "IT", "NL", "SE"))
        digits = "".join(chance.choice("0123456789") for _ in range(18))
        yield (
            number,
            name,
            contact,
            f"office{number}@{chance.choice(('example.com', 'example.org'))}",
            # Check digits of 00 are none that a bank gives.
            f"{country}00{digits}",
            country,
            chance.choices(("small", "middle", "large"), (60, 30, 10))[0],
            chance.randrange(1, 90) * 500,
        )


def _notes(chance: Random) -> Iterator[tuple[Any, ...]]:
    bodies = (
        "Asked for a quote for twelve desks.",
        "Wants to pay in three parts; said that we would ask.",
        "Contact has changed, the new one is on holiday until Monday.",
        "Complained about late delivery. Sent a voucher.",
        "Prefers mail over telephone.",
    )
    first_day = datetime(2025, 6, 1, 9, tzinfo=UTC)
    for number in range(1, 901):
        body = chance.choice(bodies)
        if number % 60 == 0:
            # What people write into notes, though they know better.
            word = "".join(chance.choice("abcdefghkmnpqrstuvwxyz23456789") for _ in range(14))
            body = f"Login to their portal for the invoices: password={word}"
        yield (
            number,
            chance.randrange(1, ACCOUNTS + 1),
            first_day + timedelta(minutes=chance.randrange(700_000)),
            chance.choice(("lena.hofer", "priya.nair", "jonas.weiss")),
            body,
        )
