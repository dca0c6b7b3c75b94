-- question: Which sessions begin with this id, or part of one?
-- parameters: prefix (hexadecimal digits with dashes, lower case)
-- columns: session_id
SELECT session_id
FROM sessions
WHERE starts_with(session_id::VARCHAR, $prefix)
ORDER BY session_id
LIMIT 2
