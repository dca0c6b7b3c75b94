-- question: Which steps of a session had its agent never, or hardly ever, taken before, in order?
-- parameters: session, by (`agent` or `user`: whose earlier sessions are compared with), hardly (in at
--   most how many of them)
-- columns: command_no and started_at (of the first time), times (in this session), why (`objects`: this operation on these objects was hardly seen;
--   `statement`: that was, and this statement was not), statement_sessions, objects_sessions (earlier
--   sessions that have it), baseline_sessions (all of them: with none, everything deviates), class,
--   operation, resources, status, rows (returned or changed), text
WITH here AS (
    SELECT session_id, opened_at, "user", agent
    FROM sessions
    WHERE session_id = $session
),
earlier AS (
    SELECT s.session_id
    FROM sessions AS s, here
    WHERE s.session_id <> here.session_id AND s.opened_at < here.opened_at AND s.commands > 0
      AND CASE WHEN $by = 'user' OR here.agent = '' THEN s."user" = here."user" ELSE s.agent = here.agent END
),
steps AS (
    SELECT *, coalesce(nullif(fingerprint, ''), text) AS statement,
        count(*) OVER (PARTITION BY coalesce(nullif(fingerprint, ''), text)) AS times,
        concat_ws(chr(10), target, operation, array_to_string(list_sort(resources), chr(10))) AS shape
    FROM commands
    WHERE session_id = $session
      AND operation NOT IN ('BEGIN', 'START', 'COMMIT', 'END', 'ROLLBACK', 'ABORT', 'SAVEPOINT', 'RELEASE')
    QUALIFY row_number() OVER (PARTITION BY statement ORDER BY command_no) = 1
),
past AS (
    SELECT c.session_id, coalesce(nullif(c.fingerprint, ''), c.text) AS statement,
        concat_ws(chr(10), c.target, c.operation, array_to_string(list_sort(c.resources), chr(10))) AS shape
    FROM commands AS c
    WHERE c.session_id IN (SELECT session_id FROM earlier)
),
statements AS (
    SELECT statement, count(DISTINCT session_id) AS sessions
    FROM past
    WHERE statement IN (SELECT statement FROM steps)
    GROUP BY statement
),
shapes AS (
    SELECT shape, count(DISTINCT session_id) AS sessions
    FROM past
    WHERE shape IN (SELECT shape FROM steps)
    GROUP BY shape
)
SELECT
    t.command_no,
    t.started_at,
    t.times,
    CASE WHEN coalesce(o.sessions, 0) <= $hardly THEN 'objects' ELSE 'statement' END AS why,
    coalesce(m.sessions, 0) AS statement_sessions,
    coalesce(o.sessions, 0) AS objects_sessions,
    (SELECT count(*) FROM earlier) AS baseline_sessions,
    t.class,
    t.operation,
    t.resources,
    t.status,
    greatest(t.rows_returned, t.rows_affected) AS rows,
    t.text
FROM steps AS t
LEFT JOIN statements AS m ON m.statement = t.statement
LEFT JOIN shapes AS o ON o.shape = t.shape
WHERE coalesce(m.sessions, 0) <= $hardly
ORDER BY t.command_no
