-- question: How many sessions and commands does the archive have?
-- parameters: none
-- columns: sessions, commands, spans (masked), live (sessions that are still open)
SELECT
    count(*) AS sessions,
    (SELECT count(*) FROM commands) AS commands,
    coalesce(sum(masked), 0)::BIGINT AS spans,
    count(*) FILTER (closed_at IS NULL) AS live
FROM sessions
WHERE protocol <> 'agentaudit'
