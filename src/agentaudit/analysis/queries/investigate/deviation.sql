-- question: How unlike the other sessions of its agent is each session?
-- parameters: session, user, agent, target, since, until (of its opening; null for any), by (`agent`
--   or `user`: whose other sessions are compared with)
-- columns: session_id, opened_at, user, agent, target, commands, baseline_sessions, unlike (0 to 1: the
--   mean of the shares of its statements and objects that are new, and of how far its volume is above
--   the usual; null without others), statements, new_statements, objects, new_objects (no other
--   session names them), rows_read, usual_rows_read, rows_changed, usual_rows_changed, bytes_out,
--   usual_bytes_out (usual: the mean of the others)
WITH every AS (
    SELECT session_id, opened_at, "user", agent, target,
        -- Who says no agent is compared with their own sessions, not with all who say none.
        CASE WHEN $by = 'user' OR agent = '' THEN concat('user ', "user") ELSE concat('agent ', agent) END AS who
    FROM sessions
    WHERE protocol <> 'agentaudit' AND commands > 0
),
chosen AS (
    SELECT session_id, who
    FROM every
    WHERE ($session IS NULL OR session_id = $session)
      AND ($user IS NULL OR "user" = $user)
      AND ($agent IS NULL OR agent = $agent)
      AND ($target IS NULL OR target = $target)
      AND ($since IS NULL OR opened_at >= $since)
      AND ($until IS NULL OR opened_at < $until)
),
compared AS (
    FROM every
    WHERE who IN (SELECT who FROM chosen)
),
done AS (
    SELECT w.who, c.session_id, c.target, c.resources, c.rows_returned, c.rows_affected, c.bytes_out,
        CASE WHEN c.operation NOT IN
            ('BEGIN', 'START', 'COMMIT', 'END', 'ROLLBACK', 'ABORT', 'SAVEPOINT', 'RELEASE')
            THEN coalesce(nullif(c.fingerprint, ''), c.text) END AS statement
    FROM commands AS c
    JOIN compared AS w ON w.session_id = c.session_id
),
volumes AS (
    SELECT session_id, any_value(who) AS who, count(*) AS commands,
        coalesce(sum(rows_returned), 0)::BIGINT AS rows_read,
        coalesce(sum(rows_affected), 0)::BIGINT AS rows_changed,
        coalesce(sum(bytes_out), 0)::BIGINT AS bytes_out
    FROM done
    GROUP BY session_id
),
statements AS (
    SELECT session_id, count(*) AS statements, count(*) FILTER (sessions = 1) AS new_statements
    FROM (
        SELECT session_id, count(*) OVER (PARTITION BY who, statement) AS sessions
        FROM (SELECT DISTINCT who, session_id, statement FROM done WHERE statement IS NOT NULL)
    )
    GROUP BY session_id
),
objects AS (
    SELECT session_id, count(*) AS objects, list_sort(list(object) FILTER (sessions = 1)) AS new_objects
    FROM (
        SELECT session_id, object, count(*) OVER (PARTITION BY who, target, object) AS sessions
        FROM (SELECT DISTINCT who, session_id, target, unnest(resources) AS object FROM done)
    )
    GROUP BY session_id
),
usual AS (
    SELECT *,
        count(*) OVER mates - 1 AS baseline_sessions,
        (sum(rows_read) OVER mates - rows_read) / nullif(count(*) OVER mates - 1, 0) AS usual_rows_read,
        (sum(rows_changed) OVER mates - rows_changed) / nullif(count(*) OVER mates - 1, 0) AS usual_rows_changed,
        (sum(bytes_out) OVER mates - bytes_out) / nullif(count(*) OVER mates - 1, 0) AS usual_bytes_out
    FROM volumes
    WINDOW mates AS (PARTITION BY who)
)
SELECT
    u.session_id,
    e.opened_at,
    e."user",
    e.agent,
    e.target,
    u.commands,
    u.baseline_sessions,
    CASE WHEN u.baseline_sessions > 0 THEN round((
        coalesce(m.new_statements / m.statements, 0)
        + coalesce(len(o.new_objects) / o.objects, 0)
        + 1 - 1 / greatest(1, (u.rows_read + 1) / (u.usual_rows_read + 1),
            (u.rows_changed + 1) / (u.usual_rows_changed + 1), (u.bytes_out + 1) / (u.usual_bytes_out + 1))
    ) / 3, 3) END AS unlike,
    coalesce(m.statements, 0) AS statements,
    coalesce(m.new_statements, 0) AS new_statements,
    coalesce(o.objects, 0) AS objects,
    coalesce(o.new_objects, []) AS new_objects,
    u.rows_read,
    u.usual_rows_read,
    u.rows_changed,
    u.usual_rows_changed,
    u.bytes_out,
    u.usual_bytes_out
FROM usual AS u
JOIN every AS e ON e.session_id = u.session_id
LEFT JOIN statements AS m ON m.session_id = u.session_id
LEFT JOIN objects AS o ON o.session_id = u.session_id
WHERE u.session_id IN (SELECT session_id FROM chosen)
ORDER BY unlike DESC NULLS LAST, e.opened_at DESC, u.session_id
