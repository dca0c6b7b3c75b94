-- question: Which objects were touched, in which way, by whom, and how many rows of them?
-- parameters: session, user, agent, target, since, until (of the start); null for any
-- columns: target, object (null: of commands beyond reads that name none), class, user, agent,
--   commands, failed (not `ok`), sessions, rows_read, rows_changed (in what was committed, or may be
--   yet), rows_undone (in transactions that were not), first_at, last_at
-- A command that names several objects counts in each of them: no row says which rows are whose.
WITH asked AS (
    SELECT session_id, command_no, target, class, "user", agent, status, resources, started_at,
        rows_returned, rows_affected, txn_no, txn_status
    FROM commands
    WHERE ($session IS NULL OR session_id = $session)
      AND ($user IS NULL OR "user" = $user)
      AND ($agent IS NULL OR agent = $agent)
      AND ($target IS NULL OR target = $target)
      AND ($since IS NULL OR started_at >= $since)
      AND ($until IS NULL OR started_at < $until)
),
-- What follows is the view fates, of the transactions alone whose end another command tells: the view
-- would look at all that was ever recorded.
unsettled AS (
    SELECT DISTINCT session_id
    FROM asked
    WHERE txn_no IS NOT NULL AND txn_status IS DISTINCT FROM 'I' AND rows_affected > 0
),
told AS (
    SELECT
        c.session_id, c.command_no, c.txn_no, c.operation, c.status,
        lag(coalesce(c.txn_status, CASE WHEN c.status = 'ok' THEN 'T' END) IGNORE NULLS) OVER (
            PARTITION BY c.session_id, c.txn_no ORDER BY c.command_no
        ) AS before,
        c.txn_status IS NOT DISTINCT FROM 'I'
        OR c.txn_no < max(c.txn_no) OVER (PARTITION BY c.session_id) AS is_over
    FROM commands AS c
    SEMI JOIN unsettled AS u ON u.session_id = c.session_id
    WHERE c.txn_no IS NOT NULL AND ($session IS NULL OR c.session_id = $session)
),
ended AS (
    SELECT session_id, txn_no,
        bool_or(is_over) AS is_over,
        arg_max(
            operation IN ('ROLLBACK', 'ABORT') OR status <> 'ok' OR before IS NOT DISTINCT FROM 'E',
            command_no
        ) AS is_undone
    FROM told
    GROUP BY session_id, txn_no
),
touched AS (
    SELECT a.* EXCLUDE (resources),
        CASE WHEN e.is_over THEN e.is_undone ELSE e.is_over IS NOT NULL AND s.closed_at IS NOT NULL END AS is_undone,
        unnest(CASE WHEN len(a.resources) > 0 THEN list_distinct(a.resources)
            WHEN a.class NOT IN ('read', 'session') THEN [NULL] END) AS object
    FROM asked AS a
    LEFT JOIN ended AS e ON a.rows_affected > 0 AND e.session_id = a.session_id AND e.txn_no = a.txn_no
    LEFT JOIN sessions AS s ON s.session_id = e.session_id
)
SELECT
    target,
    object,
    class,
    "user",
    agent,
    count(*) AS commands,
    count(*) FILTER (status <> 'ok') AS failed,
    count(DISTINCT session_id) AS sessions,
    coalesce(sum(rows_returned), 0)::BIGINT AS rows_read,
    coalesce(sum(rows_affected) FILTER (NOT is_undone), 0)::BIGINT AS rows_changed,
    coalesce(sum(rows_affected) FILTER (is_undone), 0)::BIGINT AS rows_undone,
    min(started_at) AS first_at,
    max(started_at) AS last_at
FROM touched
GROUP BY target, object, class, "user", agent
ORDER BY rows_changed + rows_undone DESC, rows_read DESC, commands DESC, target, object, class, "user", agent
