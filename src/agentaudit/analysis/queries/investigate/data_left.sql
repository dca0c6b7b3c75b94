-- question: Which data left, how much of it, and where to?
-- parameters: session, user, agent, target, since, until (of the start); null for any
-- columns: way (`client`, `program`, `server file`, `other server`), user, agent, client (its address
--   without the port), client_app, target, objects, columns, commands, sessions, rows, bytes (of the
--   answers on the wire; null where they went another way), masked (spans), first_at, last_at,
--   largest_session, largest_command (the one with the most rows)
-- What an agent was answered left to its client. What a command wrote to a program, a file of the
-- server or another server left too, and no answer says how much: that it succeeded is all there is.
WITH gone AS (
    SELECT 'client' AS way, session_id, command_no, resources, columns, started_at, masked,
        coalesce(rows_returned, 0) AS rows, bytes_out AS bytes
    FROM commands
    WHERE ($session IS NULL OR session_id = $session)
      AND ($user IS NULL OR "user" = $user)
      AND ($agent IS NULL OR agent = $agent)
      AND ($target IS NULL OR target = $target)
      AND ($since IS NULL OR started_at >= $since)
      AND ($until IS NULL OR started_at < $until)
      -- A COPY that was cancelled has sent what it has, and its count never came.
      AND (rows_returned > 0 OR (status IN ('cancelled', 'incomplete') AND len(columns) > 0))
    UNION ALL
    SELECT unnest(list_filter(['program', 'server file', 'other server'], lambda way:
            list_contains(risk, CASE way WHEN 'program' THEN 'runs program' ELSE way END))),
        session_id, command_no, resources, columns, started_at, masked, coalesce(rows_affected, 0), NULL
    FROM commands
    WHERE ($session IS NULL OR session_id = $session)
      AND ($user IS NULL OR "user" = $user)
      AND ($agent IS NULL OR agent = $agent)
      AND ($target IS NULL OR target = $target)
      AND ($since IS NULL OR started_at >= $since)
      AND ($until IS NULL OR started_at < $until)
      AND list_has_any(risk, ['runs program', 'server file', 'other server'])
      AND status NOT IN ('denied', 'error')
),
-- First by session: lists and a session's own texts would cost as much again for each command.
by_session AS (
    SELECT way, session_id, array_to_string(resources, chr(0)) AS objects_key, array_to_string(columns, chr(0)) AS columns_key,
        any_value(resources) AS resources, any_value(columns) AS columns,
        count(*) AS commands, sum(rows)::BIGINT AS rows, sum(bytes)::BIGINT AS bytes,
        coalesce(sum(masked), 0)::BIGINT AS masked, min(started_at) AS first_at, max(started_at) AS last_at,
        arg_max(command_no, rows) AS largest_command, max(rows) AS largest_rows
    FROM gone
    GROUP BY way, session_id, objects_key, columns_key
)
SELECT
    g.way,
    s."user",
    s.agent,
    regexp_replace(s.client_addr, ':[0-9]+$', '') AS client,
    s.client_app,
    s.target,
    any_value(g.resources) AS objects,
    any_value(g.columns) AS columns,
    sum(g.commands)::BIGINT AS commands,
    count(DISTINCT g.session_id) AS sessions,
    sum(g.rows)::BIGINT AS rows,
    sum(g.bytes)::BIGINT AS bytes,
    sum(g.masked)::BIGINT AS masked,
    min(g.first_at) AS first_at,
    max(g.last_at) AS last_at,
    arg_max(g.session_id, g.largest_rows) AS largest_session,
    arg_max(g.largest_command, g.largest_rows) AS largest_command
FROM by_session AS g
JOIN sessions AS s ON s.session_id = g.session_id
GROUP BY g.way, s."user", s.agent, client, s.client_app, s.target, g.objects_key, g.columns_key
ORDER BY rows DESC, bytes DESC NULLS LAST, first_at, s.target, g.objects_key, g.columns_key
