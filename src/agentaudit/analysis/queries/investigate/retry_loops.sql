-- question: Where did a session run the same statement again and again, in vain or at all?
-- parameters: session, user, agent, target, since, until (of the start; null for any), times (at
--   least), within_us (from one to the next)
-- columns: session_id, user, agent, target, kind (`retries`: two or more failed; `repeats`: the very
--   same each time; `iterates`: with other constants or parameters), times, failed (not `ok`), variants
--   (of text and parameters), last_status, error_codes, first_at, last_at, first_command, last_command,
--   operation, resources, fingerprint, text (of the first, 240 characters on one line)
-- Other commands may come between: who retries in transactions of its own sends BEGIN and ROLLBACK too.
WITH often AS (
    SELECT session_id, fingerprint
    FROM commands
    WHERE fingerprint <> ''
      AND operation NOT IN ('BEGIN', 'START', 'COMMIT', 'END', 'ROLLBACK', 'ABORT', 'SAVEPOINT', 'RELEASE')
      AND ($session IS NULL OR session_id = $session)
      AND ($user IS NULL OR "user" = $user)
      AND ($agent IS NULL OR agent = $agent)
      AND ($target IS NULL OR target = $target)
      AND ($since IS NULL OR started_at >= $since)
      AND ($until IS NULL OR started_at < $until)
    GROUP BY session_id, fingerprint
    HAVING count(*) >= $times
),
gone AS (
    SELECT c.session_id, c.command_no, c.fingerprint, c."user", c.agent, c.target, c.started_at, c.status,
        c.error_code, c.operation, c.resources, c.text, c.params,
        lag(c.started_at) OVER again AS before
    FROM commands AS c
    SEMI JOIN often AS o ON o.session_id = c.session_id AND o.fingerprint = c.fingerprint
    WHERE ($since IS NULL OR c.started_at >= $since) AND ($until IS NULL OR c.started_at < $until)
    WINDOW again AS (PARTITION BY c.session_id, c.fingerprint ORDER BY c.command_no)
),
runs AS (
    SELECT *, count(*) FILTER (before IS NULL OR epoch_us(started_at) - epoch_us(before) > $within_us)
        OVER (PARTITION BY session_id, fingerprint ORDER BY command_no) AS run
    FROM gone
),
loops AS (
    SELECT
        session_id, any_value("user") AS "user", any_value(agent) AS agent, any_value(target) AS target,
        count(*) AS times,
        count(*) FILTER (status <> 'ok') AS failed,
        count(DISTINCT hash(text, params)) AS variants,
        arg_max(status, command_no) AS last_status,
        list_sort(list(DISTINCT error_code) FILTER (error_code IS NOT NULL)) AS error_codes,
        min(started_at) AS first_at, max(started_at) AS last_at,
        min(command_no) AS first_command, max(command_no) AS last_command,
        arg_min(operation, command_no) AS operation, arg_min(resources, command_no) AS resources,
        fingerprint, arg_min(text, command_no) AS text
    FROM runs
    GROUP BY session_id, fingerprint, run
    HAVING count(*) >= $times
)
SELECT
    session_id, "user", agent, target,
    CASE WHEN failed >= 2 THEN 'retries' WHEN variants = 1 THEN 'repeats' ELSE 'iterates' END AS kind,
    times, failed, variants, last_status, coalesce(error_codes, []) AS error_codes, first_at, last_at,
    first_command, last_command, operation, resources, fingerprint,
    regexp_replace(left(text, 240), '(?:\r\n|[ \t\n])+', ' ', 'g') AS text
FROM loops
ORDER BY failed DESC, times DESC, first_at, session_id, first_command
