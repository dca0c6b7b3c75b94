-- question: What do these commands of a session look like in a list?
-- parameters: session, numbers (command numbers)
-- columns: command_no, operation, text (its first 240 characters on one line), error_code,
--   rows_returned, rows_affected
SELECT
    command_no,
    operation,
    regexp_replace(left(text, 240), '(?:\r\n|[ \t\n])+', ' ', 'g') AS text,
    error_code,
    rows_returned,
    rows_affected
FROM commands
WHERE session_id = $session AND list_contains($numbers, command_no)
ORDER BY command_no
