-- question: Which event of a session has the whole statement of each command?
-- parameters: session
-- columns: command_no, seq, sha256 (of the text, as hex; null where its row has only the beginning)
SELECT
    command_no,
    min(seq) AS seq,
    arg_min(
        CASE WHEN octet_length(encode(text)) = text_len THEN sha256(encode(text)) END, seq
    ) AS sha256
FROM events
WHERE session_id = $session AND kind = 'request' AND command_no >= 0 AND text IS NOT NULL
GROUP BY command_no
HAVING count(*) = 1
