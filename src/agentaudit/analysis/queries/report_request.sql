-- question: Which sessions does a request for approval or for access concern?
-- parameters: request (its id)
-- columns: session_id
SELECT session_id FROM decisions WHERE request_id = $request AND session_id IS NOT NULL
UNION
SELECT session_id FROM commands WHERE request_id = $request
UNION
SELECT session_id FROM sessions WHERE window_id = $request
ORDER BY session_id
