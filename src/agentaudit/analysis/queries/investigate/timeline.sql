-- question: What happened, in order: sessions, commands, decisions, refusals, and who read the archive?
-- parameters: session, user (of a session, a requester or a reader), agent, target, since, until (of
--   the moment); null for any
-- columns: happened_at, what (`opened`, `closed`, `refused`, `command`, `asked`, `decided`, `access`),
--   session_id, command_no, user, agent, target, class, status (of a command; of a decision its state),
--   rows (returned or changed), text (its first 240 characters on one line), detail
WITH told AS (
    SELECT opened_at AS happened_at, 0 AS place, 'opened' AS what, session_id, NULL::INTEGER AS command_no,
        "user", agent, target, NULL AS class, NULL AS status, NULL::BIGINT AS rows, NULL AS text,
        concat_ws(' ', nullif(client_addr, ''), nullif(client_app, '')) AS detail
    FROM sessions
    WHERE protocol <> 'agentaudit' AND close_reason IS DISTINCT FROM 'refused'
    UNION ALL
    SELECT closed_at, 6, 'closed', session_id, NULL, "user", agent, target, NULL, NULL, NULL, NULL,
        close_reason
    FROM sessions
    WHERE protocol <> 'agentaudit' AND closed_at IS NOT NULL AND close_reason <> 'refused'
    UNION ALL
    SELECT observed_at, 1, 'refused', session_id, NULL, "user", agent, target, NULL, NULL, NULL,
        left(text, 240), NULL
    FROM events
    WHERE kind = 'refused'
    UNION ALL
    SELECT started_at, 2, 'command', session_id, command_no, "user", agent, target, class, status,
        greatest(rows_returned, rows_affected), regexp_replace(left(text, 240), '(?:\r\n|[ \t\n])+', ' ', 'g'),
        concat_ws(' ', error_code, error_text)
    FROM commands
    UNION ALL
    SELECT d.requested_at, 3, 'asked', d.session_id, d.command_no, coalesce(s."user", d.requester),
        s.agent, coalesce(d.target, s.target), NULL, NULL, NULL, d.kind, d.rule
    FROM decisions AS d
    LEFT JOIN sessions AS s ON s.session_id = d.session_id
    UNION ALL
    SELECT d.decided_at, 4, 'decided', d.session_id, d.command_no, coalesce(s."user", d.requester),
        s.agent, coalesce(d.target, s.target), NULL, d.state, NULL, d.kind,
        concat_ws(': ', nullif(array_to_string(d.approvers, ', '), ''),
            nullif(array_to_string(d.reasons, '; '), ''))
    FROM decisions AS d
    LEFT JOIN sessions AS s ON s.session_id = d.session_id
    UNION ALL
    -- Whoever read a session left its id, as text, in the object.
    SELECT recorded_at, 5, 'access', try_cast(substr(object, 9) AS UUID), NULL, actor, NULL, NULL, NULL,
        NULL, NULL, action, concat_ws(' ', object, nullif(detail, ''))
    FROM access
)
SELECT * EXCLUDE (place)
FROM told
WHERE ($session IS NULL OR session_id = $session)
  AND ($user IS NULL OR "user" = $user)
  AND ($agent IS NULL OR agent = $agent)
  AND ($target IS NULL OR target = $target)
  AND ($since IS NULL OR happened_at >= $since)
  AND ($until IS NULL OR happened_at < $until)
ORDER BY happened_at, place, session_id, command_no
