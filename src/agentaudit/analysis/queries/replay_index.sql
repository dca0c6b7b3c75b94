-- question: When did each command of a session run, and of what kind was it, in a few numbers?
-- parameters: session, offset, limit
-- columns: number, start (microseconds since the session was opened), duration (microseconds, NaN
--   while unknown), txn (-1 for none), cls and status (positions in the lists of replay.js),
--   txn_status (the server's letter as a code, 0 for none)
SELECT
    command_no AS number,
    (epoch_us(c.started_at) - epoch_us(s.opened_at))::DOUBLE AS start,
    coalesce(c.duration_us::DOUBLE, 'NaN'::DOUBLE) AS duration,
    coalesce(c.txn_no, -1) AS txn,
    coalesce(list_position(['read', 'write', 'schema', 'admin', 'session', 'unknown'], c.class), 6)::UTINYINT
        - 1::UTINYINT AS cls,
    coalesce(list_position(['ok', 'error', 'denied', 'cancelled', 'incomplete'], c.status), 5)::UTINYINT
        - 1::UTINYINT AS status,
    coalesce(ascii(c.txn_status), 0)::UTINYINT AS txn_status
FROM commands AS c, (SELECT opened_at FROM sessions WHERE session_id = $session) AS s
WHERE c.session_id = $session
ORDER BY c.command_no
LIMIT $limit OFFSET $offset
