-- question: What became of each command of one session?
-- parameters: session
-- columns: command_no, fate (as in the view fates)
SELECT command_no, fate
FROM fates
WHERE session_id = $session
ORDER BY command_no
