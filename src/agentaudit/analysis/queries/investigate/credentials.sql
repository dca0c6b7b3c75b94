-- question: Where were credentials: hidden by a rule, set or used by a statement, or in what was read?
-- parameters: session, user, agent, target, since, until (of the start; null for any), rules (names of
--   masks that look for credentials)
-- columns: seen_at, session_id, command_no (-1 outside any), user, agent, target, why (`masked`: a rule hid
--   it; `statement`: it manages logins or reaches another server with one; `named`: a table or a
--   column is called so), what (rules and kinds that were hidden, or names), places (text, payload,
--   column, parameter), spans, status, rows (returned), text (its first 240 characters on one line)
WITH asked AS (
    SELECT session_id, command_no, "user", agent, target, started_at, status, rows_returned, text,
        CASE WHEN regexp_matches(text, '(?i)passw|secret|token|dblink|user mapping|\[masked:')
            THEN list_filter(risk, lambda entry: entry IN ('manages roles', 'other server')) ELSE [] END AS does,
        list_filter(list_distinct(list_concat(resources, columns)), lambda name: regexp_matches(name,
            '(?i)(^|[._])(passw(or)?d|pwd|pass(phrase|word_?hash|_?hash)|secrets?|tokens?|credentials?'
            || '|(access|api|auth|encryption|integration|private|secret|service|session|signing|ssh)_?keys?'
            || '|pg_(authid|shadow|user_mappings?))([._]|$)')) AS names
    FROM commands
    WHERE ($session IS NULL OR session_id = $session)
      AND ($user IS NULL OR "user" = $user)
      AND ($agent IS NULL OR agent = $agent)
      AND ($target IS NULL OR target = $target)
      AND ($since IS NULL OR started_at >= $since)
      AND ($until IS NULL OR started_at < $until)
      -- Most have neither, and this costs a fifth of what it saves.
      AND (list_has_any(risk, ['manages roles', 'other server']) OR regexp_matches(
          concat(array_to_string(resources, ' '), ' ', array_to_string(columns, ' ')),
          '(?i)pass|pwd|secret|token|credential|key|pg_authid|pg_shadow|pg_user_mapping'))
),
spans AS (
    SELECT session_id, command_no, "user", agent, target, observed_at, unnest(mask_spans) AS span
    FROM events
    WHERE masked > 0
      AND ($session IS NULL OR session_id = $session)
      AND ($user IS NULL OR "user" = $user)
      AND ($agent IS NULL OR agent = $agent)
      AND ($target IS NULL OR target = $target)
),
hidden AS (
    SELECT session_id, command_no, "user", agent, target, min(observed_at) AS seen_at,
        list_sort(list(DISTINCT span.rule)) AS rules, list_sort(list(DISTINCT span.place)) AS places,
        count(*) AS spans
    FROM spans
    WHERE list_contains($rules, span.rule)
    GROUP BY session_id, command_no, "user", agent, target
),
found AS (
    SELECT coalesce(c.started_at, h.seen_at) AS seen_at, h.session_id, h.command_no, h."user", h.agent, h.target,
        'masked' AS why,
        -- A mark in a statement says what was there, and not only whose rule hid it.
        list_sort(list_distinct(list_concat(h.rules,
            regexp_extract_all(coalesce(c.text, ''), '\[masked:([a-z0-9_-]{1,40})\]', 1)))) AS what,
        h.places, h.spans, c.status, c.rows_returned AS rows, c.text
    FROM hidden AS h
    LEFT JOIN commands AS c ON c.session_id = h.session_id AND c.command_no = h.command_no
        AND ($session IS NULL OR c.session_id = $session)
    UNION ALL
    SELECT started_at, session_id, command_no, "user", agent, target,
        unnest(['statement', 'named']) AS why, unnest([does, list_sort(names)]) AS what, [], 0, status, rows_returned, text
    FROM asked
)
SELECT * REPLACE (regexp_replace(left(text, 240), '(?:\r\n|[ \t\n])+', ' ', 'g') AS text)
FROM found
WHERE len(what) > 0
  AND ($since IS NULL OR seen_at >= $since)
  AND ($until IS NULL OR seen_at < $until)
ORDER BY seen_at, session_id, command_no, why
