-- question: What was executed, once a row, with its outcome?
-- parameters: none
-- columns: those of the archive's table `commands`
SELECT * EXCLUDE (filename, file_row_number)
FROM every_commands
