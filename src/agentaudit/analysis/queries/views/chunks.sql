-- question: What do events keep beyond the 8 KiB of bytes and 64 KiB of text that their rows hold?
-- parameters: none
-- columns: gateway, event_no, offset (in the bytes; below zero: minus that in the text), data
-- A chunk that a segment holds already is stored once; the other rows say where.
SELECT
    -- Event numbers are a gateway's own; a sealed file says whose it is in its path.
    coalesce(regexp_extract(b.filename, '/gw=([a-z0-9-]+)/', 1), b.gateway) AS gateway,
    b.event_no,
    b."offset",
    coalesce(b.data, same.data) AS data
FROM every_blobs AS b
LEFT JOIN every_blobs AS same ON same.filename = b.filename AND same.file_row_number = b.same_as
