-- question: Which statements changed rows or definitions, of which objects, and was it kept?
-- parameters: session, user, agent, target, since, until (of the start); null for any
-- columns: target, objects, class, operation, fate (as in the view fates; `failed` where the command
--   itself was not `ok`), user, agent, fingerprint, text (of the first, 240 characters on one line),
--   commands, sessions, rows, first_at, last_at, first_session, first_command
WITH changed AS (
    SELECT session_id, command_no, target, resources, class, operation, status, "user", agent,
        fingerprint, text, started_at, txn_no, txn_status, coalesce(rows_affected, 0) AS rows_affected
    FROM commands
    WHERE (class IN ('write', 'schema') OR rows_affected > 0)
      AND ($session IS NULL OR session_id = $session)
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
    FROM changed
    WHERE txn_no IS NOT NULL AND txn_status IS DISTINCT FROM 'I'
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
)
SELECT
    c.target,
    c.resources AS objects,
    c.class,
    c.operation,
    CASE
        WHEN c.status IN ('error', 'denied', 'cancelled') THEN 'failed'
        WHEN c.txn_no IS NULL THEN NULL
        -- It succeeded, and the server said that no transaction was open behind it.
        WHEN e.is_over IS NULL THEN 'committed'
        WHEN e.is_over AND e.is_undone THEN 'rolled back'
        WHEN e.is_over THEN 'committed'
        WHEN s.closed_at IS NOT NULL THEN 'not committed'
        ELSE 'open'
    END AS fate,
    c."user",
    c.agent,
    c.fingerprint,
    regexp_replace(left(arg_min(c.text, c.started_at), 240), '(?:\r\n|[ \t\n])+', ' ', 'g') AS text,
    count(*) AS commands,
    count(DISTINCT c.session_id) AS sessions,
    sum(c.rows_affected)::BIGINT AS rows,
    min(c.started_at) AS first_at,
    max(c.started_at) AS last_at,
    arg_min(c.session_id, c.started_at) AS first_session,
    arg_min(c.command_no, c.started_at) AS first_command
FROM changed AS c
LEFT JOIN ended AS e ON e.session_id = c.session_id AND e.txn_no = c.txn_no
LEFT JOIN sessions AS s ON s.session_id = e.session_id
GROUP BY ALL
ORDER BY rows DESC, commands DESC, first_at, c.target, objects, c.fingerprint
