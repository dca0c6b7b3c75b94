-- question: What was hidden in one session, by which rule and where?
-- parameters: session
-- columns: rule, place, spans
SELECT span.rule AS rule, span.place AS place, count(*) AS spans
FROM (SELECT unnest(mask_spans) AS span FROM events WHERE session_id = $session AND masked > 0)
GROUP BY ALL
ORDER BY rule, place
