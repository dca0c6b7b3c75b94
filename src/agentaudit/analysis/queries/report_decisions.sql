-- question: Who was asked to decide what, of these sessions, requests and this time?
-- parameters: sessions, requests (ids), since, until (of the decision; null for any), by_time (whether
--   what was decided in that time counts too)
-- columns: those of the view decisions
FROM decisions
WHERE kind <> 'purge' AND (
    list_contains($sessions, session_id)
    OR list_contains($requests, request_id)
    OR ($by_time
        AND ($since IS NULL OR coalesce(decided_at, requested_at) >= $since)
        AND ($until IS NULL OR coalesce(decided_at, requested_at) < $until))
)
ORDER BY coalesce(decided_at, requested_at), request_id
