-- question: What was executed in one session between two commands, in order?
-- parameters: session, first, last (command_no, both included)
-- columns: those of the view commands
FROM commands
WHERE session_id = $session AND command_no BETWEEN $first AND $last
ORDER BY command_no
