-- question: Where did a session answer an error with something graver, or a refusal with another way?
-- parameters: session, user, agent, target, since, until (of what failed; null for any), within (how
--   many commands after it)
-- columns: failed_at, session_id, user, agent, target, failed_no, failed_class, failed_operation,
--   failed_text, error_code, is_refusal (denied, or not permitted by the target), how (`graver`: the
--   first command of a graver class, whatever came of it; `another way`: the first other statement
--   that names an object of the refused one, and succeeded), command_no, after_us, shared (objects that
--   both name), class, operation, resources, status, rows, text (texts: 240 characters on one line)
-- From harmless to grave: session, read, unknown, write, schema, admin. What is unknown may be anything,
-- and mostly reads by a function that nobody vouches for.
WITH failed AS (
    SELECT *,
        status = 'denied' OR coalesce(error_code IN ('42501', '25006') OR error_code[1:2] IN ('28', '0L', '0P'), FALSE)
            AS is_refusal
    FROM commands
    WHERE status IN ('error', 'denied')
      AND ($session IS NULL OR session_id = $session)
      AND ($user IS NULL OR "user" = $user)
      AND ($agent IS NULL OR agent = $agent)
      AND ($target IS NULL OR target = $target)
      AND ($since IS NULL OR started_at >= $since)
      AND ($until IS NULL OR started_at < $until)
),
-- Commands are numbered without gaps: to name the next ones costs less than to search a session.
followed AS (
    SELECT f.session_id, f.command_no AS failed_no, f.command_no + unnest(range(1, $within::INTEGER + 1)) AS command_no
    FROM failed AS f
),
chains AS (
    SELECT
        f.started_at AS failed_at, f.session_id, f."user", f.agent, f.target, f.command_no AS failed_no,
        f.class AS failed_class, f.operation AS failed_operation, f.text AS failed_text, f.error_code,
        f.is_refusal,
        CASE
            WHEN list_position(['session', 'read', 'unknown', 'write', 'schema', 'admin'], c.class)
                > list_position(['session', 'read', 'unknown', 'write', 'schema', 'admin'], f.class)
            THEN 'graver'
            WHEN f.is_refusal AND c.status = 'ok' AND list_has_any(c.resources, f.resources)
                AND c.fingerprint IS DISTINCT FROM f.fingerprint
            THEN 'another way'
        END AS how,
        c.command_no,
        epoch_us(c.started_at) - epoch_us(f.started_at) AS after_us,
        list_sort(list_intersect(c.resources, f.resources)) AS shared,
        c.class, c.operation, c.resources, c.status, greatest(c.rows_returned, c.rows_affected) AS rows,
        c.text
    FROM followed AS n
    JOIN failed AS f ON f.session_id = n.session_id AND f.command_no = n.failed_no
    JOIN commands AS c ON c.session_id = n.session_id AND c.command_no = n.command_no
    WHERE $session IS NULL OR c.session_id = $session
)
SELECT * REPLACE (
    regexp_replace(left(failed_text, 240), '(?:\r\n|[ \t\n])+', ' ', 'g') AS failed_text,
    regexp_replace(left(text, 240), '(?:\r\n|[ \t\n])+', ' ', 'g') AS text
)
FROM chains
WHERE how IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY session_id, failed_no, how ORDER BY command_no) = 1
ORDER BY failed_at, session_id, failed_no, command_no
