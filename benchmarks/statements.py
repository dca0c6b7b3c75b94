"""`python -m benchmarks.statements`: what it costs to say what a statement does.

CPU microseconds of `risk.sql.classify`, for statements of some 200 bytes: the first time, and when
their text is known. The target is 150 for the first time; the tenth is what a busy machine's
neighbours leave alone.
"""

from __future__ import annotations

import sys
import time
from statistics import median, quantiles

from agentaudit.risk import sql

STATEMENTS = {
    "join": "SELECT o.id, o.customer_id, o.total, c.name, c.email FROM orders o JOIN customers c"
    " ON c.id = o.customer_id WHERE o.status = 'open' AND o.created_at > '2026-01-01'"
    " AND c.country = 'CH' ORDER BY o.id LIMIT 50",
    "update": "UPDATE orders SET status = 'closed', closed_at = now(), closed_by = 'agent',"
    " note = 'done by the nightly run' WHERE customer_id = 4711 AND status IN ('open', 'held')"
    " AND created_at < '2026-01-01' RETURNING id",
    "insert": "INSERT INTO order_lines (order_id, product_id, quantity, price, discount, note)"
    " VALUES (1, 2, 3, 4.5, 0, 'first'), (1, 3, 1, 9.99, 0, 'second'), (1, 4, 2, 12.50, 0.1,"
    " 'third') RETURNING order_id, product_id",
    "delete in with": "WITH late AS (SELECT id FROM orders WHERE due < '2026-01-01' AND status ="
    " 'open') DELETE FROM order_lines AS l USING late WHERE l.order_id = late.id"
    " AND l.quantity > 0 AND l.price IS NOT NULL RETURNING l.order_id",
    "report": "SELECT c.country, count(*) AS n, sum(o.total) AS total, avg(o.total) FROM customers"
    " c LEFT JOIN orders o ON o.customer_id = c.id WHERE o.created_at BETWEEN '2026-01-01'"
    " AND '2026-02-01' GROUP BY 1 ORDER BY n DESC",
}
_TIMES = 3000
_KNOWN_TIMES = 20_000


def main() -> int:
    """Print a line a statement; return 0."""
    print(f"{'statement':16}{'bytes':>6}{'median':>9}{'tenth':>9}{'known':>9}   CPU µs")
    for name, text in STATEMENTS.items():
        first = [_first(text) for _ in range(_TIMES)]
        begun = time.process_time_ns()
        for _ in range(_KNOWN_TIMES):
            sql.classify(text)
        known = (time.process_time_ns() - begun) / _KNOWN_TIMES / 1000
        tenth = quantiles(first, n=10)[0]
        print(f"{name:16}{len(text):6}{median(first):9.0f}{tenth:9.0f}{known:9.2f}")
    return 0


def _first(text: str) -> float:
    sql._classify_cached.cache_clear()
    begun = time.process_time_ns()
    sql.classify(text)
    return (time.process_time_ns() - begun) / 1000


if __name__ == "__main__":
    sys.exit(main())
