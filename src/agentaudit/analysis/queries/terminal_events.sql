-- question: What was said on a command's channel between two events, in order?
-- parameters: session, command_no, first, last (event_no, both included)
-- columns: event_no, mono_ns, kind, side, status, flags, text (of a notice, and of what is for the
--   command itself), payload (its first 8 KiB), stored_len, mask_spans
SELECT event_no, mono_ns, kind, side, status, flags, text, payload, stored_len, mask_spans
FROM events
WHERE session_id = $session AND command_no = $command_no AND event_no BETWEEN $first AND $last
  AND (kind IN ('request', 'response', 'content') AND payload IS NOT NULL OR kind = 'notice')
ORDER BY seq
