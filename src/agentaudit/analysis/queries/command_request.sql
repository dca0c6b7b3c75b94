-- question: Which event began a command, and how long is its text?
-- parameters: session, command_no
-- columns: event_no, text, text_len
SELECT event_no, text, text_len
FROM events
WHERE session_id = $session AND command_no = $command_no AND kind = 'request' AND text IS NOT NULL
ORDER BY seq
LIMIT 1
