-- question: Who read, searched or exported what from this archive?
-- parameters: none
-- columns: those of the archive's table `access`
SELECT * EXCLUDE (filename, file_row_number)
FROM every_access
