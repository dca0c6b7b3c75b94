-- question: Which sessions match a text, newest first, and what is worth knowing of each?
-- parameters: text (in the user, agent, target, the beginning of the id, or a statement; any case;
--   null for all), live (true for those that are open alone), before (opened before this session,
--   by its id; null for the newest), limit
-- columns: session_id, user, agent, target, protocol, opened_at, closed_at, close_reason, commands,
--   bytes_out, masked; and of their commands: changes (writes, schema, administration that went
--   well), errors, denied, held, risk (all kinds)
WITH matching AS (
    SELECT s.*
    FROM sessions AS s
    WHERE s.protocol <> 'agentaudit'
      AND (NOT $live OR s.closed_at IS NULL)
      AND ($before IS NULL OR (s.opened_at, s.session_id) < (
          SELECT (b.opened_at, b.session_id) FROM sessions AS b WHERE b.session_id = $before))
      AND (
          $text IS NULL
          OR contains(lower(concat_ws(' ', s."user", s.agent, s.target)), lower($text))
          OR starts_with(s.session_id::VARCHAR, lower($text))
          OR s.session_id IN (
              SELECT c.session_id FROM commands AS c WHERE contains(lower(c.text), lower($text)))
      )
    ORDER BY s.opened_at DESC, s.session_id DESC
    LIMIT $limit
),
counted AS (
    SELECT
        c.session_id,
        count(*) FILTER (c.status = 'ok' AND c.class IN ('write', 'schema', 'admin')) AS changes,
        count(*) FILTER (c.status = 'error') AS errors,
        count(*) FILTER (c.status = 'denied') AS denied,
        count(*) FILTER (c.decision = 'hold') AS held,
        list_distinct(flatten(list(coalesce(c.risk, [])))) AS risk
    FROM commands AS c
    WHERE c.session_id IN (SELECT session_id FROM matching)
    GROUP BY c.session_id
)
SELECT
    m.session_id, m."user", m.agent, m.target, m.protocol, m.opened_at, m.closed_at,
    m.close_reason, coalesce(m.commands, 0) AS commands, m.bytes_out, m.masked,
    coalesce(n.changes, 0) AS changes, coalesce(n.errors, 0) AS errors,
    coalesce(n.denied, 0) AS denied, coalesce(n.held, 0) AS held,
    list_sort(coalesce(n.risk, [])) AS risk
FROM matching AS m
LEFT JOIN counted AS n ON n.session_id = m.session_id
ORDER BY m.opened_at DESC, m.session_id DESC
