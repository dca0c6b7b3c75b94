-- question: Who read, searched or exported what, in a time, or of these sessions?
-- parameters: objects (as `session <id>`; null for any), since, until (null for any)
-- columns: those of the view access
FROM access
WHERE ($objects IS NULL OR list_contains($objects, object))
  AND ($since IS NULL OR recorded_at >= $since)
  AND ($until IS NULL OR recorded_at < $until)
ORDER BY recorded_at, actor, action, object
