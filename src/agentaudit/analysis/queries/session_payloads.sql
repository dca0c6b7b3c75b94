-- question: What are the first bytes of the traffic between two events of a session?
-- parameters: session, first, last (event_no, both included)
-- columns: event_no, command_no, side, flags, payload (its first 8 KiB), stored_len; without a side,
--   the row of a command that ended here, and of whose response only the beginning was kept
SELECT event_no, command_no, side, flags, payload, stored_len
FROM events
WHERE session_id = $session AND event_no BETWEEN $first AND $last
  AND (kind IN ('request', 'response', 'content') OR kind = 'command_end' AND flags & 8 <> 0)
  AND payload IS NOT NULL
ORDER BY seq
