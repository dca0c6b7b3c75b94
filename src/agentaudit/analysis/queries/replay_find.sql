-- question: Which commands of a session hold this text, in what was said, its parameters, objects,
--   columns or error?
-- parameters: session, text (any case; % and _ are plain characters)
-- columns: number
SELECT command_no AS number
FROM commands
WHERE session_id = $session
  AND contains(
      lower(concat_ws(chr(10), text, operation, error_code, error_text, array_to_string(params, chr(10)),
          array_to_string(resources, chr(10)), array_to_string(columns, chr(10)))),
      lower($text))
ORDER BY command_no
