-- question: From when to when did anything pass on a command's channel?
-- parameters: session, command_no
-- columns: first_event_no, began_at, began_ns, ended_ns (both of the monotonic clock)
SELECT
    min(event_no) AS first_event_no,
    min(observed_at) AS began_at,
    min(mono_ns) AS began_ns,
    max(mono_ns) AS ended_ns
FROM events
WHERE session_id = $session AND command_no = $command_no
HAVING count(*) > 0
