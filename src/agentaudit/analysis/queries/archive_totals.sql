-- question: How much is in this archive, of when, and how much of it goes on now?
-- parameters: none
-- columns: sessions, live (open now), commands, users, targets, first and last (when a session was
--   opened)
SELECT
    count(*) AS sessions,
    count(*) FILTER (closed_at IS NULL) AS live,
    coalesce(sum(commands), 0)::BIGINT AS commands,
    count(DISTINCT "user") AS users,
    count(DISTINCT target) AS targets,
    min(opened_at) AS first,
    max(opened_at) AS last
FROM sessions
WHERE protocol <> 'agentaudit'
