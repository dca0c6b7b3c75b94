-- question: What are the bytes of payloads and texts beyond what their events hold inline?
-- parameters: gateway, first, last (event_no, both included)
-- columns: event_no, offset (below zero: bytes of the text), data, same_as, filename
SELECT event_no, "offset", data, same_as, filename
FROM every_blobs
WHERE event_no BETWEEN $first AND $last
  -- Event numbers are a gateway's own; a sealed file says whose it is in its path.
  AND coalesce(contains(filename, '/gw=' || $gateway || '/'), gateway = $gateway)
ORDER BY event_no, abs("offset")
