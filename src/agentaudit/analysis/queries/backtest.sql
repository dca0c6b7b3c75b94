-- question: What did each command do, and what was decided about it, oldest first?
-- parameters: none
-- columns: of the view commands, the groups of the session's user, and how many rows it was about
SELECT c.started_at, c.session_id, c.command_no, c."user", c.agent, c.target, c.protocol,
    c.class, c.operation, c.resources, c.risk, c.text, c.status, c.decision, c.rule, s.groups,
    CASE WHEN c.status = 'ok' THEN greatest(coalesce(c.rows_returned, 0), coalesce(c.rows_affected, 0))
    ELSE c.estimated_rows END AS about_rows
FROM commands AS c
JOIN sessions AS s USING (session_id)
ORDER BY c.started_at, c.session_id, c.command_no
