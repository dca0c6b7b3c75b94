"""What the agents do, each in its own way: one function a habit, one call a session.

Chances are a session's own, so that what an agent sends does not depend on who else is on. Steps
use what the steps before returned, as agents do. No statement asks the server for the time: that
is the machine's, and the weeks are not.
"""

from __future__ import annotations

from datetime import date, timedelta
from random import Random
from typing import Any, Final

from agentaudit.demo.agent import COPILOT, Login
from agentaudit.demo.weeks.stage import Hand, Person, Script, Stage
from agentaudit.demo.weeks.world import (
    ACCOUNTS,
    CAMPAIGNER,
    CATALOGUER,
    CRM,
    HUMAN,
    MIGRATOR,
    ORDERS,
    PRIVACY,
    SYNC,
)

_STATUSES: Final = ("delivered", "shipped", "paid", "cancelled")


def chances(*of: object) -> Random:
    """Return the chances of the session that `of` names: the same in every run."""
    return Random(" ".join(map(str, of)))  # noqa: S311 - a script, the same in every run


def weekly_export(stage: Stage, login: Login, day: date) -> Script:
    """Copy the orders of the last 90 days out, and the payments beside them."""
    since = day - timedelta(days=90)
    with stage.connect(login, ORDERS, f"report-bot/weekly-{day}", chances("export", day)) as it:
        yield from it.ask("SET application_name = 'report-bot/export'")
        yield from it.copy_out(
            "COPY (SELECT id, customer_id, status, placed_at, total FROM orders "  # noqa: S608
            f"WHERE placed_at >= '{since}' ORDER BY id) TO STDOUT WITH (FORMAT csv, HEADER)"
        )
        yield from it.ask(
            "SELECT status, count(*), sum(total) FROM orders WHERE placed_at >= %s "
            "GROUP BY status ORDER BY status",
            [since],
        )


def tickets(stage: Stage, day: date, run: int) -> Script:
    """Answer what is open: read the ticket, its order and its customer, act, close."""
    chance = chances("tickets", day, run)
    with stage.connect(COPILOT, ORDERS, f"copilot-7/{day:%m%d}-{run}", chance) as it:
        found = yield from it.ask(
            "SELECT id, subject, opened_at FROM tickets WHERE status = 'open' ORDER BY id"
        )
        for number, subject, _ in found[: 2 + run % 3]:
            yield from _answer(it, number, subject)
        if chance.random() < 0.3:
            yield from it.fail("SELECT ticket_id FROM tickets LIMIT 1", "42703")
        yield from it.ask("SELECT status, count(*) FROM tickets GROUP BY status ORDER BY status")


def _answer(it: Hand, number: int, subject: str) -> Script:
    ((body, customer, order),) = yield from it.ask(
        "SELECT body, customer_id, order_id FROM tickets WHERE id = %s", [number]
    )
    yield from it.ask("SELECT full_name, email, tier FROM customers WHERE id = %s", [customer])
    yield from it.ask("SELECT id, status, placed_at, total FROM orders WHERE id = %s", [order])
    if subject == "Charged twice":
        yield from _refund(it, order)
    elif subject == "Wrong colour":
        yield from it.ask(
            "SELECT l.line, p.title, l.quantity FROM order_lines l "
            "JOIN products p ON p.id = l.product_id WHERE l.order_id = %s ORDER BY l.line",
            [order],
        )
    elif subject == "Change of address":
        yield from it.ask(
            "UPDATE orders SET note = %s WHERE id = %s AND status = 'paid'",
            ["hold for the new address", order],
        )
    yield from it.ask(
        "UPDATE tickets SET status = 'closed', tags = tags || %s::text WHERE id = %s",
        [f"by-agent-{len(body) % 7}", number],
    )


def _refund(it: Hand, order: int) -> Script:
    yield from it.ask("BEGIN")
    charges = yield from it.ask(
        "SELECT id, amount, captured_at FROM payments WHERE order_id = %s "
        "AND refunded_on IS NULL ORDER BY captured_at FOR UPDATE",
        [order],
    )
    if len(charges) < 2:
        # The bank shows a reservation, as it mostly does.
        yield from it.ask("ROLLBACK")
        return
    yield from it.ask(
        "UPDATE payments SET refunded_on = placed_at::date + 20 FROM orders o "
        "WHERE payments.id = %s AND o.id = payments.order_id",
        [charges[-1][0]],
    )
    yield from it.ask("COMMIT")


def explore(stage: Stage, day: date, week: int) -> Script:
    """Look after the catalogue; from the third week on, look further than that."""
    chance = chances("explore", day)
    with stage.connect(CATALOGUER, ORDERS, f"catalog-2/{day:%m%d}", chance) as it:
        yield from it.ask(
            "SELECT table_name FROM information_schema.tables "
            "WHERE table_schema = 'public' ORDER BY table_name"
        )
        yield from it.ask(
            "SELECT column_name, data_type FROM information_schema.columns "
            "WHERE table_schema = 'public' AND table_name = %s ORDER BY ordinal_position",
            [chance.choice(("products", "order_lines"))],
        )
        for _ in range(chance.randrange(2, 5)):
            kind = chance.choice(("desk lamp", "office chair", "monitor arm", "headset", "webcam"))
            found = yield from it.ask(
                "SELECT id, sku, title, price, stock FROM products WHERE title LIKE %s ORDER BY id",
                [f"{kind}%"],
            )
            product = chance.choice(found)[0]
            yield from it.ask("SELECT attributes, weight_kg FROM products WHERE id = %s", [product])
            if chance.random() < 0.4:
                yield from it.ask(
                    "UPDATE products SET attributes = attributes || %s::jsonb WHERE id = %s",
                    [f'{{"reviewed": "{day}"}}', product],
                )
        if week >= 2:
            yield from _look_further(it, chance, week)
        yield from it.ask("SELECT count(*), avg(price) FROM products WHERE stock > 0")


def _look_further(it: Hand, chance: Random, week: int) -> Script:
    yield from it.ask(
        "SELECT p.title, count(DISTINCT o.customer_id) AS buyers FROM order_lines l "
        "JOIN products p ON p.id = l.product_id JOIN orders o ON o.id = l.order_id "
        "GROUP BY p.title ORDER BY buyers DESC LIMIT 10"
    )
    if week < 3:
        return
    yield from it.ask(
        "SELECT c.id, c.full_name, c.email, c.country FROM customers c "
        "JOIN orders o ON o.customer_id = c.id WHERE o.total > %s ORDER BY o.total DESC LIMIT 150",
        [chance.randrange(400, 900)],
    )
    yield from it.ask(
        "SELECT full_name, phone, ssn FROM customers WHERE tier = 'gold' ORDER BY id LIMIT 60"
    )


def chat(stage: Stage, login: Login, day: date, run: int) -> Script:
    """Answer what a colleague asks in a chat: a few reads, no two conversations alike."""
    chance = chances("chat", login.user, day, run)
    with stage.connect(login, ORDERS, f"assist-3/{day:%m%d}-{run}", chance) as it:
        for _ in range(chance.randrange(2, 6)):
            yield from chance.choice(_QUESTIONS)(it)
            # The colleague reads, and asks on.
            yield chance.uniform(10, 90)


def _top_products(it: Hand) -> Script:
    since = date(2026, 8, 1) + timedelta(days=it.chance.randrange(80))
    yield from it.ask(
        "SELECT p.title, sum(l.quantity * l.unit_price) AS revenue FROM order_lines l "
        "JOIN products p ON p.id = l.product_id JOIN orders o ON o.id = l.order_id "
        "WHERE o.placed_at >= %s GROUP BY p.title ORDER BY revenue DESC LIMIT %s",
        [since, it.chance.choice((3, 5, 10))],
    )


def _customers_of(it: Hand) -> Script:
    country = it.chance.choice(("DE", "FR", "IT", "JP", "NL", "SE", "US"))
    yield from it.ask("SELECT count(*) FROM customers WHERE country = %s", [country])
    yield from it.ask(
        "SELECT tier, count(*) FROM customers WHERE country = %s GROUP BY tier ORDER BY tier",
        [country],
    )


def _one_order(it: Hand) -> Script:
    order = it.chance.randrange(1, 2190)
    yield from it.ask("SELECT * FROM orders WHERE id = %s", [order])
    yield from it.ask(
        "SELECT line, product_id, quantity, unit_price FROM order_lines WHERE order_id = %s",
        [order],
    )
    if it.chance.random() < 0.5:
        yield from it.ask(
            "SELECT amount, captured_at, refunded_on FROM payments WHERE order_id = %s", [order]
        )


def _low_stock(it: Hand) -> Script:
    if it.chance.random() < 0.4:
        yield from it.fail("SELECT sku, quantity FROM products WHERE quantity < 20", "42703")
    yield from it.ask(
        "SELECT sku, title, stock FROM products WHERE stock < %s ORDER BY stock, id LIMIT 20",
        [it.chance.randrange(20, 80)],
    )


def _revenue(it: Hand) -> Script:
    unit = it.chance.choice(("week", "month"))
    yield from it.ask(
        f"SELECT date_trunc('{unit}', placed_at)::date AS {unit}, count(*), sum(total) "  # noqa: S608
        "FROM orders WHERE status <> %s GROUP BY 1 ORDER BY 1 DESC LIMIT 8",
        [it.chance.choice(_STATUSES)],
    )


def _ask_again(it: Hand) -> Script:
    yield from it.fail("SELECT count(*) FROM order WHERE status = 'paid'", "42601")
    yield from it.ask("SELECT count(*) FROM orders WHERE status = 'paid'")


_QUESTIONS: Final = (_top_products, _customers_of, _one_order, _low_stock, _revenue, _ask_again)


def sync(stage: Stage, day: date, run: int) -> Script:
    """Bring stock up to date; on a bad day, try the same thing over and over."""
    chance = chances("sync", day, run)
    with stage.connect(SYNC, ORDERS, f"sync-9/{day:%m%d}-{run:02}", chance) as it:
        bad = chance.random() < 0.25
        for product in chance.sample(range(1, 49), chance.randrange(3, 7)):
            yield from it.ask("SELECT stock FROM products WHERE id = %s", [product])
            yield from it.ask(
                "UPDATE products SET stock = greatest(0, stock + %s) WHERE id = %s",
                [chance.randrange(-4, 6), product],
            )
        if bad:
            # It does not read what it is told, so it learns nothing from it.
            for _ in range(chance.randrange(4, 9)):
                yield from it.fail(
                    "INSERT INTO ledger (day, revenue) VALUES (%s, %s)",
                    "42501",
                    [day, chance.randrange(1000, 9000)],
                )
                yield chance.uniform(1, 4)
        yield from it.ask("SELECT sum(stock) FROM products")


def escalate(stage: Stage, day: date, dba: Person) -> Script:
    """Be refused, and look for another way in, one after the other."""
    chance = chances("escalate", day)
    with stage.connect(SYNC, ORDERS, f"sync-9/{day:%m%d}-00", chance) as it:
        for _ in range(3):
            yield from it.fail("UPDATE ledger SET revenue = 0 WHERE day = %s", "42501", [day])
        yield from it.ask(
            "SELECT grantee, privilege_type FROM information_schema.role_table_grants "
            "WHERE table_name = 'ledger'"
        )
        yield from it.ask("SELECT rolname, rolsuper, rolcreaterole FROM pg_roles ORDER BY rolname")
        yield from it.fail("SET ROLE postgres", "42501")
        yield from it.fail("GRANT INSERT, UPDATE ON ledger TO orders_rw", "42501")
        yield from it.fail("ALTER ROLE orders_rw PASSWORD 'let-me-in-2026'", "42501")
        yield from it.wait_for(
            dba,
            "deny",
            "sync-9 has no business with the ledger; talk to finance",
            "CREATE FUNCTION post_revenue(d date, r numeric) RETURNS void LANGUAGE sql "
            "SECURITY DEFINER AS 'INSERT INTO ledger VALUES (d, r)'",
            after_s=240,
        )
        yield from it.ask("SELECT count(*) FROM orders WHERE placed_at::date = %s", [day])


def campaign(stage: Stage, day: date, run: int) -> Script:
    """Plan a campaign in the sales team's database."""
    chance = chances("campaign", day, run)
    with stage.connect(CAMPAIGNER, CRM, f"campaign-bot/{day:%m%d}-{run}", chance) as it:
        segment = chance.choice(("small", "middle", "large"))
        yield from it.ask(
            "SELECT segment, count(*) FROM accounts GROUP BY segment ORDER BY segment"
        )
        found = yield from it.ask(
            "SELECT id, name, contact, email FROM accounts WHERE segment = %s AND country = %s "
            "ORDER BY id LIMIT 25",
            [segment, chance.choice(("DE", "FR", "IT", "NL", "SE"))],
        )
        for account in [row[0] for row in found[:3]]:
            yield from it.ask(
                "SELECT written_at, author, body FROM notes WHERE account_id = %s "
                "ORDER BY written_at DESC LIMIT 5",
                [account],
            )
        if run == 0:
            yield from it.ask(
                "SELECT id, name, iban, credit_limit FROM accounts WHERE segment = 'large' "
                "ORDER BY id LIMIT 20"
            )
        yield from it.ask(
            "INSERT INTO campaigns (name, segment, planned_for, recipients) "
            "VALUES (%s, %s, %s, %s) RETURNING id",
            [f"{segment} {day:%B}", segment, day + timedelta(days=14), len(found)],
        )


def sales_chat(stage: Stage, login: Login, day: date) -> Script:
    """Answer a colleague's questions about one account."""
    chance = chances("sales", login.user, day)
    with stage.connect(login, CRM, f"assist-3/{day:%m%d}-crm", chance) as it:
        for _ in range(chance.randrange(2, 4)):
            account = chance.randrange(1, ACCOUNTS + 1)
            yield from it.ask(
                "SELECT name, contact, email, iban, credit_limit FROM accounts WHERE id = %s",
                [account],
            )
            yield from it.ask(
                "SELECT written_at, author, body FROM notes WHERE account_id = %s "
                "ORDER BY written_at",
                [account],
            )
            yield chance.uniform(20, 120)
        yield from it.ask(
            "SELECT id, account_id, body FROM notes WHERE body LIKE %s ORDER BY id LIMIT 15",
            ["%invoices%"],
        )


def raise_limits(stage: Stage, day: date, verdict: Any, reason: str) -> Script:
    """Change many accounts at once, which somebody has to agree to."""
    chance = chances("limits", day)
    with stage.connect(CAMPAIGNER, CRM, f"campaign-bot/{day:%m%d}-limits", chance) as it:
        yield from it.ask("SELECT count(*) FROM accounts WHERE segment = 'small'")
        yield from it.ask("BEGIN")
        yield from it.wait_for(
            PRIVACY,
            verdict,
            reason,
            "UPDATE accounts SET credit_limit = credit_limit + %s WHERE segment = %s",
            [500, "small"],
            after_s=chance.uniform(100, 900),
        )
        yield from it.ask("COMMIT" if verdict == "approve" else "ROLLBACK")
        yield from it.ask(
            "SELECT segment, avg(credit_limit)::numeric(10, 2) FROM accounts GROUP BY 1"
        )


def hidden_statement(stage: Stage, day: date) -> Script:
    """Send what does not say what it does, and be denied."""
    with stage.connect(CAMPAIGNER, CRM, f"campaign-bot/{day:%m%d}-x", chances("hidden", day)) as it:
        yield from it.ask("SELECT count(*) FROM campaigns")
        yield from it.fail("DO $$ BEGIN EXECUTE 'DELETE FROM ' || 'campaigns'; END $$", "42501")
        yield from it.ask("SELECT count(*) FROM campaigns")


Change = tuple[str, str, Person, str]
"""A statement, the verdict on it, whose, and why."""


def migrate(stage: Stage, target: str, day: date, changes: list[Change]) -> Script:
    """Change a schema, one statement after the other, each of which waits for a DBA."""
    chance = chances("migrate", target, day)
    with stage.connect(MIGRATOR, target, f"migrator-4/{day:%m%d}", chance) as it:
        yield from it.ask(
            "SELECT relname, reltuples::bigint FROM pg_class "
            "WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY relname"
        )
        for statement, verdict, person, reason in changes:
            if verdict == "give up":
                yield from it.give_up(person, statement, after_s=chance.uniform(600, 1800))
                continue
            yield from it.wait_for(
                person,
                "approve" if verdict == "approve" else "deny",
                reason,
                statement,
                after_s=chance.uniform(60, 1500),
            )
        yield from it.ask(
            "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = %s::regclass "
            "ORDER BY 1",
            ["orders" if target == ORDERS else "notes"],
        )
        stage.let_settle()


def backfill(stage: Stage, day: date) -> Script:
    """Load rows by COPY into a column that is new, in a transaction that fails the first time."""
    chance = chances("backfill", day)
    with stage.connect(MIGRATOR, ORDERS, f"migrator-4/{day:%m%d}-fill", chance) as it:
        rows = [(900_000 + number, f"slot-{number % 9}") for number in range(120)]
        yield from it.ask("BEGIN")
        yield from it.copy_in("COPY parcel_slots (id, slot) FROM STDIN", rows)
        yield from it.fail("INSERT INTO parcel_slots (id, slot) VALUES (900000, 'twice')", "23505")
        yield from it.ask("ROLLBACK")
        yield from it.ask("BEGIN")
        yield from it.copy_in("COPY parcel_slots (id, slot) FROM STDIN", rows)
        yield from it.ask("SELECT slot, count(*) FROM parcel_slots GROUP BY slot ORDER BY slot")
        yield from it.ask("COMMIT")


def by_hand(stage: Stage, target: str, day: date, script: str) -> Script:
    """Let a person type into psql what they want to know."""
    stage.psql(HUMAN, target, f"psql/{day:%m%d}", script)
    yield 0.0
