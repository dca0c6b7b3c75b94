-- question: What passed in one session, in order?
-- parameters: session
-- columns: those of the view events
FROM events
WHERE session_id = $session
ORDER BY seq
