-- name: search
SELECT e.id, e.session_id, e."index", e.generation, e.code, e.status, e.timeout, e.created_at,
       e.started_at, e.ended_at, e.duration, e.error, e.new_files, e.outputs_complete, e.note,
       e.progress, e.memory_before, e.memory_after, e.on_error, e.undone
FROM executions AS e JOIN sessions AS s ON s.id = e.session_id
WHERE NOT s.deleting
  AND (:code = '' OR e.rowid IN (SELECT rowid FROM execution_texts(:code)))
  AND (:error = '' OR e.rowid IN (SELECT rowid FROM execution_texts(:error)))
  AND (:parent = '' OR s.parent_execution_id IN (
      SELECT id FROM executions WHERE rowid IN (SELECT rowid FROM execution_texts(:parent))))
  AND (:output = '[]' OR e.id IN (
      SELECT execution_id FROM results
      WHERE results.rowid > (SELECT max(rowid) FROM results) - :results
        AND NOT EXISTS (SELECT 1 FROM json_each(:output) AS word
                        WHERE instr(results.words, word.value) = 0)))
  AND (:wrote = '' OR e.id IN (SELECT execution_id FROM written WHERE path GLOB :wrote))
  AND (:description = '[]' OR NOT EXISTS (
      SELECT 1 FROM json_each(:description) AS word
      WHERE instr(lower(s.description), word.value) = 0))
  AND (:sessions = '[]'
       OR EXISTS (SELECT 1 FROM json_each(:sessions) WHERE e.session_id GLOB value))
  AND (:statuses = '[]' OR e.status IN (SELECT value FROM json_each(:statuses)))
  AND e.created_at >= :since AND e.created_at < :until
ORDER BY e.created_at DESC, e.rowid DESC LIMIT :limit OFFSET :offset;

-- name: results
SELECT execution_id AS id, line FROM results
WHERE execution_id IN (SELECT value FROM json_each(:ids));

-- name: session_executions
SELECT * FROM executions WHERE session_id = :id ORDER BY "index";

-- name: session_record
SELECT * FROM sessions WHERE id = :id AND NOT deleting;

-- name: matching_sessions
SELECT id FROM sessions WHERE id GLOB :glob AND NOT deleting ORDER BY created_at, id;

-- name: archived_ids
SELECT id FROM sessions WHERE archived_at IS NOT NULL AND id GLOB :pattern;

-- name: unknown_sessions
-- What names no session that there is, or of which there is anything.
SELECT wanted.value FROM json_each(:sessions) AS wanted
WHERE NOT EXISTS (SELECT 1 FROM sessions WHERE id GLOB wanted.value AND NOT deleting)
  AND NOT EXISTS (SELECT 1 FROM events WHERE session_id = wanted.value);

-- name: archived_sessions
SELECT * FROM sessions WHERE archived_at IS NOT NULL ORDER BY archived_at, id;

-- name: archive_session
UPDATE sessions SET id = :archived_id, archived_at = :at, deleting = 0 WHERE id = :id;

-- name: archive_executions
UPDATE executions SET session_id = :archived_id WHERE session_id = :id;

-- name: defer_foreign_keys
PRAGMA defer_foreign_keys = ON;

-- name: execution_by_index
SELECT id FROM executions WHERE session_id = :id AND "index" = :index;
