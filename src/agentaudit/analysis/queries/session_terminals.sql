-- question: Which commands of a session were given a terminal, and what kind of one?
-- parameters: session
-- columns: command_no, text (the request `pty-req`, as docs/formats/archive.md has it: type, columns,
--   rows and more)
SELECT command_no, text
FROM events
WHERE session_id = $session AND command_no >= 0 AND kind = 'notice' AND starts_with(text, 'pty-req ')
QUALIFY row_number() OVER (PARTITION BY command_no ORDER BY seq) = 1
ORDER BY command_no
