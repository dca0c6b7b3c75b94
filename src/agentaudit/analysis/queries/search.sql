-- question: Where does this text occur: in what was said, with which parameters, in what was answered?
-- parameters: text (any case; % and _ are plain characters), bytes (the same as UTF-8), user,
--   target, since, until; null for any
-- columns: observed_at, session_id, command_no, event_no, user, target, place (request, response,
--   notice, refused: the readable text of such an event; params; result: bytes of a result, of
--   which the first 8 KiB of each event are searched), text (what was found in; null for results)
WITH spoken AS (
    SELECT observed_at, session_id, command_no, event_no, "user", target, kind AS place, text
    FROM events
    WHERE kind IN ('request', 'response', 'notice', 'refused')
      AND contains(lower(text), lower($text))
),
bound AS (
    SELECT started_at, session_id, command_no, first_event_no, "user", target, 'params',
        array_to_string(params, ', ')
    FROM commands
    WHERE contains(lower(array_to_string(params, chr(10))), lower($text))
),
answered AS (
    SELECT observed_at, session_id, command_no, event_no, "user", target, 'result', NULL
    FROM events
    WHERE kind IN ('response', 'content') AND text IS NULL
      -- DuckDB writes bytes beyond ASCII as \xNN, in both, so what is not text compares as well.
      AND contains(lower(payload::VARCHAR), lower($bytes::BLOB::VARCHAR))
)
FROM (FROM spoken UNION ALL FROM bound UNION ALL FROM answered)
WHERE ($user IS NULL OR "user" = $user)
  AND ($target IS NULL OR target = $target)
  AND ($since IS NULL OR observed_at >= $since)
  AND ($until IS NULL OR observed_at < $until)
ORDER BY observed_at DESC, event_no DESC
