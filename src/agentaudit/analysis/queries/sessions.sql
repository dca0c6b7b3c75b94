-- question: Which sessions match, newest first?
-- parameters: user, agent, target, since, until (a session counts if any of it lies in between),
--   class, status, table (a session counts if one of its commands has all of those given);
--   null for any
-- columns: those of the view sessions
SELECT s.*
FROM sessions AS s
WHERE ($user IS NULL OR s."user" = $user)
  AND ($agent IS NULL OR s.agent = $agent)
  AND ($target IS NULL OR s.target = $target)
  AND ($since IS NULL OR s.closed_at IS NULL OR s.closed_at >= $since)
  AND ($until IS NULL OR s.opened_at < $until)
  AND s.protocol <> 'agentaudit'
  AND (
      ($class IS NULL AND $status IS NULL AND $table IS NULL)
      OR s.session_id IN (
          SELECT c.session_id
          FROM commands AS c
          WHERE ($class IS NULL OR c.class = $class)
            AND ($status IS NULL OR c.status = $status)
            AND ($table IS NULL OR len(list_filter(c.resources, lambda name:
                lower(name) = lower($table) OR ends_with(lower(name), '.' || lower($table)))) > 0)
      )
  )
ORDER BY s.opened_at DESC, s.session_id DESC
