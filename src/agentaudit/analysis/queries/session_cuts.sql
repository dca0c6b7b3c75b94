-- question: Of which commands' responses is only the beginning kept, and how much of them?
-- parameters: session, command_no (null for all)
-- columns: command_no, kept, whole (bytes), sha256 (of the whole, as hex; null while it runs)
SELECT
    e.command_no,
    sum(e.stored_len)::BIGINT AS kept,
    sum(e.orig_len)::BIGINT AS whole,
    (
        SELECT list_filter(c.sha256, lambda h: starts_with(h, 'response:'))[-1][10:]
        FROM commands AS c
        WHERE c.session_id = $session AND c.command_no = e.command_no
    ) AS sha256
FROM events AS e
WHERE e.session_id = $session AND e.kind = 'response' AND e.command_no >= 0
  AND ($command_no IS NULL OR e.command_no = $command_no)
GROUP BY e.command_no
HAVING bool_or(e.flags & 8 <> 0)
ORDER BY e.command_no
