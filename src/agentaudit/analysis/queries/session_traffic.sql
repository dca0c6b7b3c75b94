-- question: Which events of a session carry bytes of its traffic, and how many does each keep?
-- parameters: session
-- columns: event_no, stored_len; as in session_payloads
SELECT event_no, stored_len
FROM events
WHERE session_id = $session
  AND (kind IN ('request', 'response', 'content') OR kind = 'command_end' AND flags & 8 <> 0)
  AND payload IS NOT NULL
ORDER BY seq
