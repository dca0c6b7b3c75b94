-- question: Which sessions were there, each once, as far as it is known now?
-- parameters: none
-- columns: those of the archive's table `sessions` without its keys: who holds a session's keys can
--   test guesses against what was purged from it
-- Every segment that holds an event of a session has a row of it; the last one counts.
SELECT * EXCLUDE (filename, file_row_number, key_m, key_t, key_p)
FROM every_sessions
QUALIFY row_number() OVER (
    PARTITION BY session_id
    ORDER BY is_final DESC, filename IS NULL DESC, events DESC NULLS LAST, filename DESC
) = 1
