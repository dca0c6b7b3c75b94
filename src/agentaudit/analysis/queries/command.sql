-- question: What is known about one command?
-- parameters: session, command_no
-- columns: those of the view commands
FROM commands
WHERE session_id = $session AND command_no = $command_no
