-- question: When did the screen of a command's terminal change, in steps of some time?
-- parameters: session, command_no, began_ns, step_ns
-- columns: at_ns (from the beginning, of the last change of a step), last_event_no, size (bytes of
--   output up to there)
SELECT at_ns, last_event_no, sum(bytes) OVER (ORDER BY last_event_no)::BIGINT AS size
FROM (
    SELECT
        max(mono_ns) - $began_ns AS at_ns,
        max(event_no) AS last_event_no,
        sum(stored_len) AS bytes
    FROM events
    WHERE session_id = $session
      AND command_no = $command_no
      AND (side = 'target' AND kind IN ('response', 'content') AND payload IS NOT NULL
          OR kind = 'notice' AND starts_with(text, 'window-change '))
    GROUP BY (mono_ns - $began_ns) // $step_ns
)
ORDER BY last_event_no
