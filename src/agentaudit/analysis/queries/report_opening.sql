-- question: What does a session's first event say of it?
-- parameters: session
-- columns: payload (canonical JSON)
SELECT payload
FROM events
WHERE session_id = $session AND kind = 'session_open'
