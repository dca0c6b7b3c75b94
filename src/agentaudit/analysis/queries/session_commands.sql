-- question: What was executed in one session, in order?
-- parameters: session
-- columns: those of the view commands
FROM commands
WHERE session_id = $session
ORDER BY command_no
