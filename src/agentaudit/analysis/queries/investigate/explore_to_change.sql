-- question: How much did each session, agent or user look before and beside what it changed?
-- parameters: session, user, agent, target, since, until (of the start; null for any), by (`session`,
--   `agent` or `user`: what a row is)
-- columns: session_id (null but by session), user (null by agent), agent (null by user), sessions,
--   commands, catalogue (reads of the catalogue alone), reads (others), writes, schema, admin, other
--   (`unknown` and `session`), ratio (catalogue and reads to writes, schema and admin; null where
--   nothing was changed), looked_first (reads of either kind before the first change, a session), first_at
-- What failed counts as well: it was tried.
WITH done AS (
    SELECT session_id, command_no, "user", agent, started_at,
        CASE
            WHEN class IN ('read', 'unknown') AND len(resources) > 0 AND len(list_filter(resources,
                lambda name: NOT regexp_matches(name, '^(pg_catalog\.|information_schema\.|pg_)'))) = 0
            THEN 'catalogue'
            ELSE class
        END AS does
    FROM commands
    WHERE ($session IS NULL OR session_id = $session)
      AND ($user IS NULL OR "user" = $user)
      AND ($agent IS NULL OR agent = $agent)
      AND ($target IS NULL OR target = $target)
      AND ($since IS NULL OR started_at >= $since)
      AND ($until IS NULL OR started_at < $until)
),
changes AS (
    SELECT session_id, min(command_no) AS first_change
    FROM done
    WHERE does IN ('write', 'schema', 'admin')
    GROUP BY session_id
)
SELECT
    CASE WHEN $by = 'session' THEN d.session_id END AS session_id,
    CASE WHEN $by <> 'agent' THEN d."user" END AS "user",
    CASE WHEN $by <> 'user' THEN d.agent END AS agent,
    count(DISTINCT d.session_id) AS sessions,
    count(*) AS commands,
    count(*) FILTER (does = 'catalogue') AS catalogue,
    count(*) FILTER (does = 'read') AS reads,
    count(*) FILTER (does = 'write') AS writes,
    count(*) FILTER (does = 'schema') AS schema,
    count(*) FILTER (does = 'admin') AS admin,
    count(*) FILTER (does IN ('unknown', 'session')) AS other,
    round((catalogue + reads) / nullif(writes + schema + admin, 0), 2) AS ratio,
    round(count(*) FILTER (does IN ('catalogue', 'read') AND (h.first_change IS NULL OR d.command_no < h.first_change))
        / count(DISTINCT d.session_id), 2) AS looked_first,
    min(d.started_at) AS first_at
FROM done AS d
LEFT JOIN changes AS h ON h.session_id = d.session_id
GROUP BY 1, 2, 3
ORDER BY ratio NULLS FIRST, commands DESC, first_at
