-- question: Which other sessions ran the same statement, or touched the same objects?
-- parameters: session, command_no
-- columns: session_id, user, agent, target, opened_at, same_statement (commands with its fingerprint),
--   same_objects (commands that name one of its objects, on the same target), objects (those),
--   first_at, last_at, first_command, class and text (of the first; 240 characters on one line)
WITH this AS (
    SELECT coalesce(nullif(fingerprint, ''), text) AS statement, target, resources
    FROM commands
    WHERE session_id = $session AND command_no = $command_no
),
alike AS (
    SELECT c.session_id, c.command_no, c.started_at, c.class, c.text,
        coalesce(nullif(c.fingerprint, ''), c.text) = this.statement AS is_same_statement,
        c.target = this.target AND list_has_any(c.resources, this.resources) AS is_same_object,
        list_intersect(c.resources, this.resources) AS objects
    FROM commands AS c, this
    WHERE c.session_id <> $session AND (is_same_statement OR is_same_object)
)
SELECT
    a.session_id,
    any_value(s."user") AS "user",
    any_value(s.agent) AS agent,
    any_value(s.target) AS target,
    any_value(s.opened_at) AS opened_at,
    count(*) FILTER (a.is_same_statement) AS same_statement,
    count(*) FILTER (a.is_same_object) AS same_objects,
    list_sort(list_distinct(flatten(list(a.objects) FILTER (a.is_same_object)))) AS objects,
    min(a.started_at) AS first_at,
    max(a.started_at) AS last_at,
    arg_min(a.command_no, a.command_no) AS first_command,
    arg_min(a.class, a.command_no) AS class,
    regexp_replace(left(arg_min(a.text, a.command_no), 240), '(?:\r\n|[ \t\n])+', ' ', 'g') AS text
FROM alike AS a
JOIN sessions AS s ON s.session_id = a.session_id
GROUP BY a.session_id
ORDER BY same_statement DESC, same_objects DESC, opened_at DESC, a.session_id
