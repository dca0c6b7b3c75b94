-- question: Which terminals were there, in what sessions, newest first?
-- parameters: session, user, target, since, until (of what was said on them; null for any)
-- columns: session_id, command_no, user, target
SELECT e.session_id, e.command_no, any_value(s."user") AS user, any_value(s.target) AS target
FROM events AS e
JOIN sessions AS s ON s.session_id = e.session_id
LEFT JOIN commands AS c ON c.session_id = e.session_id AND c.command_no = e.command_no
WHERE e.kind = 'notice' AND e.command_no >= 0 AND starts_with(e.text, 'pty-req ')
  AND ($session IS NULL OR e.session_id = $session)
  AND ($user IS NULL OR s."user" = $user)
  AND ($target IS NULL OR s.target = $target)
  AND ($since IS NULL OR coalesce(c.ended_at, s.closed_at) IS NULL OR coalesce(c.ended_at, s.closed_at) >= $since)
  AND ($until IS NULL OR e.observed_at < $until)
GROUP BY e.session_id, e.command_no
ORDER BY min(e.observed_at) DESC, e.command_no DESC
