-- question: Were the payloads of a session purged, and with them the key that proves them?
-- parameters: session
-- columns: is_purged
SELECT count(*) > 0 AS is_purged
FROM every_sessions
WHERE session_id = $session AND key_p IS NULL
