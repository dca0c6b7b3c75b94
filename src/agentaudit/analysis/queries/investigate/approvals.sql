-- question: Who decided what, when, on which text, and how long did it wait?
-- parameters: session, user (who asked), agent, target, since, until (of the request); null for any
-- columns: requested_at, decided_at, waited_us, kind (`hold`, `access`, `purge`), state, user, agent,
--   approvers, reasons, rule, target, session_id, command_no, class, operation, resources,
--   estimated_rows, rows (that it was about in the end), status (of the command), text, grant_until,
--   request_id
-- What still waits is not recorded yet: `agentaudit pending` asks the gateway for it.
SELECT
    d.requested_at,
    d.decided_at,
    epoch_us(d.decided_at) - epoch_us(d.requested_at) AS waited_us,
    d.kind,
    d.state,
    coalesce(s."user", d.requester) AS "user",
    s.agent,
    d.approvers,
    d.reasons,
    d.rule,
    coalesce(d.target, s.target) AS target,
    d.session_id,
    d.command_no,
    c.class,
    c.operation,
    c.resources,
    c.estimated_rows,
    greatest(c.rows_returned, c.rows_affected) AS rows,
    c.status,
    c.text,
    d.grant_until,
    d.request_id
FROM decisions AS d
LEFT JOIN sessions AS s ON s.session_id = d.session_id
LEFT JOIN commands AS c ON c.session_id = d.session_id AND c.command_no = d.command_no
WHERE ($session IS NULL OR d.session_id = $session)
  AND ($user IS NULL OR coalesce(s."user", d.requester) = $user)
  AND ($agent IS NULL OR s.agent = $agent)
  AND ($target IS NULL OR coalesce(d.target, s.target) = $target)
  AND ($since IS NULL OR d.requested_at >= $since)
  AND ($until IS NULL OR d.requested_at < $until)
ORDER BY d.requested_at, d.decided_at, d.request_id
