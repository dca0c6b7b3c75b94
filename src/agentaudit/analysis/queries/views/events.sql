-- question: What passed, byte for byte, in the order in which it was recorded?
-- parameters: none
-- columns: those of the archive's table `events`
SELECT * EXCLUDE (filename, file_row_number)
FROM every_events
