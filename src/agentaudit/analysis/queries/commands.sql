-- question: Which commands match, newest first?
-- parameters: session, user, agent, target, class, status, operation, table (with or without its
--   schema), since, until (of the start); null for any
-- columns: those of the view commands
SELECT c.*
FROM commands AS c
WHERE ($session IS NULL OR c.session_id = $session)
  AND ($user IS NULL OR c."user" = $user)
  AND ($agent IS NULL OR c.agent = $agent)
  AND ($target IS NULL OR c.target = $target)
  AND ($class IS NULL OR c.class = $class)
  AND ($status IS NULL OR c.status = $status)
  AND ($operation IS NULL OR c.operation = upper($operation))
  AND ($since IS NULL OR c.started_at >= $since)
  AND ($until IS NULL OR c.started_at < $until)
  AND ($table IS NULL OR len(list_filter(c.resources, lambda name:
      lower(name) = lower($table) OR ends_with(lower(name), '.' || lower($table)))) > 0)
ORDER BY c.started_at DESC, c.session_id DESC, c.command_no DESC
