-- question: What did people say of sessions and commands, taken back or not?
-- parameters: none
-- columns: id, written_at, author, kind (`note`, `tag`, `star`), session_id, command_no (null: of the
--   session), text, retracted_at, retracted_by, retracted_why (null while it stands), line (in the file)
-- They lie beside the archive: of a session that was purged they stay.
SELECT * REPLACE (id::UUID AS id, session_id::UUID AS session_id)
FROM every_annotations
