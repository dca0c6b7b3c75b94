-- question: Which policies were in force while something was recorded?
-- parameters: none
-- columns: policy_digest (SHA-256 of the document, as hex)
SELECT DISTINCT policy_digest
FROM sessions
WHERE policy_digest <> ''
ORDER BY policy_digest
