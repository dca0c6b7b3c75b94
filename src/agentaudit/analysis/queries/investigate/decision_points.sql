-- question: At which points did people decide something, or might have, and what did the agent do next?
-- parameters: session, user (of the session, or who asked), agent, target, since, until (of the
--   decision); null for any
-- columns: decided_at, what (`hold approved`, `hold denied`, `hold expired`, `hold cancelled`, `access …`,
--   `purge …`, `session ended`, `session revoked`, `legal_hold`, `release`), people (who decided; none
--   where nobody did), reasons, session_id, command_no, user, agent, target, text (what it was about,
--   240 characters on one line), next_no, next_class, next_text (the command after it)
WITH points AS (
    SELECT d.decided_at AS decided_at, concat(d.kind, ' ', d.state) AS what, d.approvers AS people, d.reasons,
        d.session_id, d.command_no, coalesce(s."user", d.requester) AS "user", s.agent,
        coalesce(d.target, s.target) AS target, d.rule AS text
    FROM decisions AS d
    LEFT JOIN sessions AS s ON s.session_id = d.session_id
    UNION ALL
    SELECT closed_at, concat('session ', close_reason), [], [], session_id, NULL, "user", agent, target, NULL
    FROM sessions
    WHERE close_reason IN ('ended', 'revoked')
    UNION ALL
    SELECT recorded_at, action, [actor], list_filter([detail], lambda text: text <> ''), NULL, NULL, NULL,
        NULL, NULL, object
    FROM access
    WHERE action IN ('legal_hold', 'release', 'purge')
)
SELECT
    p.* EXCLUDE (text),
    regexp_replace(left(coalesce(c.text, p.text), 240), '(?:\r\n|[ \t\n])+', ' ', 'g') AS text,
    n.command_no AS next_no,
    n.class AS next_class,
    regexp_replace(left(n.text, 240), '(?:\r\n|[ \t\n])+', ' ', 'g') AS next_text
FROM points AS p
LEFT JOIN commands AS c ON c.session_id = p.session_id AND c.command_no = p.command_no
LEFT JOIN commands AS n ON n.session_id = p.session_id AND n.command_no = p.command_no + 1
WHERE ($session IS NULL OR p.session_id = $session)
  AND ($user IS NULL OR p."user" = $user)
  AND ($agent IS NULL OR p.agent = $agent)
  AND ($target IS NULL OR p.target = $target)
  AND ($since IS NULL OR p.decided_at >= $since)
  AND ($until IS NULL OR p.decided_at < $until)
ORDER BY p.decided_at, p.session_id, p.command_no
