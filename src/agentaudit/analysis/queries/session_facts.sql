-- question: What is known about one session?
-- parameters: session
-- columns: those of the view sessions
FROM sessions
WHERE session_id = $session
