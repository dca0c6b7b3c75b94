-- question: Who was asked to decide what, and how did they decide?
-- parameters: none
-- columns: those of the archive's table `decisions`
SELECT * EXCLUDE (filename, file_row_number)
FROM every_decisions
