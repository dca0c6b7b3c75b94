-- question: What are the first bytes of the traffic between two events of a session?
-- parameters: session, first, last (event_no, both included)
-- columns: event_no, command_no, side, flags, payload (its first 8 KiB), stored_len
SELECT event_no, command_no, side, flags, payload, stored_len
FROM events
WHERE session_id = $session AND event_no BETWEEN $first AND $last
  AND kind IN ('request', 'response', 'content') AND payload IS NOT NULL
ORDER BY seq
