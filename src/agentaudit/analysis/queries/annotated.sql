-- question: Which annotations match, oldest first?
-- parameters: session, command_no, kind, author (null for any), retracted (whether those too that were
--   taken back)
-- columns: those of the view annotations
FROM annotations
WHERE ($session IS NULL OR session_id = $session)
  AND ($command_no IS NULL OR command_no = $command_no)
  AND ($kind IS NULL OR kind = $kind)
  AND ($author IS NULL OR author = $author)
  AND ($retracted OR retracted_at IS NULL)
ORDER BY line
