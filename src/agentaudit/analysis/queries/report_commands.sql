-- question: Which commands of a session matter most to a reader, in order?
-- parameters: session, since, until (of the start; null for any), request (a request's id, or null),
--   limit
-- columns: those of the view commands; asked (how many commands match)
-- Where there are more than limit, those that were refused or held, that failed or changed something
-- come before those that read.
WITH matching AS (
    SELECT
        *,
        row_number() OVER (
            ORDER BY
                request_id IS NOT DISTINCT FROM $request AND $request IS NOT NULL DESC,
                decision <> 'allow' OR status <> 'ok' OR class NOT IN ('read', 'session') DESC,
                command_no
        ) AS place,
        count(*) OVER () AS asked
    FROM commands
    WHERE session_id = $session
      AND ($since IS NULL OR started_at >= $since)
      AND ($until IS NULL OR started_at < $until)
)
SELECT * EXCLUDE (place)
FROM matching
WHERE place <= $limit
ORDER BY command_no
