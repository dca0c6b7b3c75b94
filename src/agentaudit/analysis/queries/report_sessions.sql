-- question: Which of these sessions are there, oldest first?
-- parameters: sessions (their ids)
-- columns: those of the view sessions
FROM sessions
WHERE list_contains($sessions, session_id) AND protocol <> 'agentaudit'
ORDER BY opened_at, session_id
