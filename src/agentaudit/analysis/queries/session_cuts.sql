-- question: Of which commands' responses is not everything kept, and how much of them?
-- parameters: session, command_no (null for all)
-- columns: command_no, kept, whole (bytes), sha256 (of the whole, as hex; null unless only its
--   beginning was recorded, and while it runs), is_purged
SELECT
    e.command_no,
    sum(if(e.payload IS NULL, 0, e.stored_len))::BIGINT AS kept,
    sum(e.orig_len)::BIGINT AS whole,
    (
        SELECT list_filter(c.sha256, lambda h: starts_with(h, 'response:'))[-1][10:]
        FROM commands AS c
        WHERE c.session_id = $session AND c.command_no = e.command_no
    ) AS sha256,
    -- What was purged has left its commitment; what was never kept has none.
    bool_or(e.payload IS NULL AND e.payload_commit IS NOT NULL) AS is_purged
FROM events AS e
WHERE e.session_id = $session AND e.kind = 'response' AND e.command_no >= 0
  AND ($command_no IS NULL OR e.command_no = $command_no)
GROUP BY e.command_no
HAVING bool_or(e.flags & 8 <> 0) OR is_purged
ORDER BY e.command_no
