-- question: Where does this text occur: in what was said, with which parameters, in what was answered?
-- parameters: text (any case; % and _ are plain characters), bytes (the same as UTF-8), user,
--   target, since, until; null for any
-- columns: observed_at, session_id, command_no, event_no, user, target, place (request, response,
--   notice, refused: the readable text of such an event; params; result: bytes of an answer), text
--   (what was found in; null for results and for what is long)
WITH found AS (
    SELECT observed_at, session_id, command_no, event_no, "user", target, kind AS place, text
    FROM events
    WHERE kind IN ('request', 'response', 'notice', 'refused')
      AND contains(lower(text), lower($text))
    UNION ALL
    SELECT started_at, session_id, command_no, first_event_no, "user", target, 'params',
        array_to_string(params, ', ')
    FROM commands
    WHERE contains(lower(array_to_string(params, chr(10))), lower($text))
    UNION ALL
    -- DuckDB writes bytes beyond ASCII as \xNN, in both, so what is not text compares as well.
    SELECT observed_at, session_id, command_no, event_no, "user", target, 'result', NULL
    FROM events
    WHERE kind IN ('response', 'content') AND text IS NULL
      AND contains(lower(payload::VARCHAR), lower($bytes::BLOB::VARCHAR))
    UNION ALL
    -- What an event keeps beyond 8 KiB of bytes is one chunk; together they are searched whole.
    SELECT e.observed_at, e.session_id, e.command_no, e.event_no, e."user", e.target,
        if(b."offset" < 0, e.kind, 'result'), NULL
    FROM chunks AS b
    JOIN events AS e ON e.gateway = b.gateway AND e.event_no = b.event_no
    WHERE if(b."offset" < 0, TRUE, e.kind IN ('response', 'content') AND e.text IS NULL)
      AND contains(
          lower(if(b."offset" < 0, b.data, e.payload || b.data)::VARCHAR),
          lower($bytes::BLOB::VARCHAR))
)
SELECT DISTINCT ON (session_id, event_no, place) *
FROM found
WHERE ($user IS NULL OR "user" = $user)
  AND ($target IS NULL OR target = $target)
  AND ($since IS NULL OR observed_at >= $since)
  AND ($until IS NULL OR observed_at < $until)
ORDER BY observed_at DESC, event_no DESC
