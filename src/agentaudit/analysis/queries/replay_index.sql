-- question: When did each command of a session run, and of what kind was it, in a few numbers?
-- parameters: session, offset, limit
-- columns: number, start (microseconds since the session was opened), duration (microseconds, NaN
--   while unknown), txn (-1 for none), cls, status and fate (positions in the lists of replay/commands.ts),
--   txn_status (the server's letter as a code, 0 for none)
SELECT
    c.command_no AS number,
    (epoch_us(c.started_at) - epoch_us(s.opened_at))::DOUBLE AS start,
    coalesce(c.duration_us::DOUBLE, 'NaN'::DOUBLE) AS duration,
    coalesce(c.txn_no, -1) AS txn,
    (coalesce(list_position(
        ['read', 'write', 'schema', 'admin', 'session', 'unknown'], c.class), 6) - 1)::UTINYINT AS cls,
    (coalesce(list_position(
        ['ok', 'error', 'denied', 'cancelled', 'incomplete'], c.status), 5) - 1)::UTINYINT AS status,
    coalesce(ascii(c.txn_status), 0)::UTINYINT AS txn_status,
    (coalesce(list_position(
        ['', 'committed', 'rolled back', 'not committed', 'open'], f.fate), 1) - 1)::UTINYINT AS fate
FROM commands AS c
JOIN sessions AS s ON s.session_id = c.session_id
LEFT JOIN (FROM fates WHERE session_id = $session) AS f ON f.command_no = c.command_no
WHERE c.session_id = $session
ORDER BY c.command_no
LIMIT $limit OFFSET $offset
