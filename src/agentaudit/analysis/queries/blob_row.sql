-- question: What is in one row of a file of blobs, to which another row refers?
-- parameters: filename, row
-- columns: data
SELECT data
FROM every_blobs
WHERE filename = $filename AND file_row_number = $row
