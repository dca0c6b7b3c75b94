-- question: Which events of a command's channel say something, and how many bytes does each keep?
-- parameters: session, command_no, after (an event_no, not included)
-- columns: event_no, stored_len; as in terminal_events
SELECT event_no, stored_len
FROM events
WHERE session_id = $session AND command_no = $command_no AND event_no > $after
  AND (kind IN ('request', 'response', 'content') AND payload IS NOT NULL OR kind = 'notice')
ORDER BY seq
