-- question: How many commands did one session execute so far?
-- parameters: session
-- columns: commands, last (the highest command_no, null for none)
SELECT count(*) AS commands, max(command_no) AS last
FROM commands
WHERE session_id = $session
