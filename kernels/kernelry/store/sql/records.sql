-- name: save_session
INSERT INTO sessions (id, description, tags, metadata, status, created_at, last_activity_at,
                      generation, execution_count, directory, fresh, isolation, network,
                      limits, python, parent_session_id, parent_execution_id, context, stdin,
                      template, startup, rewind, reason, ended_at)
VALUES (:id, :description, :tags, :metadata, :status, :created_at, :last_activity_at,
        :generation, :execution_count, :directory, :fresh, :isolation, :network,
        :limits, :python, :parent_session_id, :parent_execution_id, :context, :stdin,
        :template, :startup, :rewind, :reason, :ended_at)
ON CONFLICT (id) DO UPDATE
SET description = excluded.description, tags = excluded.tags, metadata = excluded.metadata,
    status = excluded.status, last_activity_at = excluded.last_activity_at,
    generation = excluded.generation, execution_count = excluded.execution_count,
    fresh = excluded.fresh, context = excluded.context, reason = excluded.reason,
    ended_at = excluded.ended_at;

-- name: update_session
UPDATE sessions
SET description = :description, tags = :tags, metadata = :metadata, status = :status,
    last_activity_at = :last_activity_at, context = :context, reason = :reason,
    ended_at = :ended_at
WHERE id = :id;

-- name: begin_deletion
UPDATE sessions SET deleting = 1 WHERE id = :id;

-- name: deletions
SELECT * FROM sessions WHERE deleting;

-- name: save_kernel
INSERT OR REPLACE INTO kernels (session_id, pid, started, boot, path, key, client_id, start,
                                isolation, network)
VALUES (:session_id, :pid, :started, :boot, :path, :key, :client_id, :start,
        :isolation, :network);

-- name: forget_kernel
DELETE FROM kernels WHERE session_id = :id;

-- name: kernels
SELECT * FROM kernels;

-- name: delete_session
DELETE FROM sessions WHERE id = :id;

-- name: sessions
SELECT * FROM sessions WHERE NOT deleting AND archived_at IS NULL ORDER BY created_at, id;

-- name: insert_execution
INSERT INTO executions (id, session_id, "index", generation, code, status, timeout, created_at,
                        started_at, on_error)
VALUES (:id, :session_id, :index, :generation, :code, :status, :timeout, :created_at,
        :started_at, :on_error)
ON CONFLICT (id) DO NOTHING;

-- name: start_execution
UPDATE executions SET status = :status, started_at = :started_at, generation = :generation
WHERE id = :id;

-- name: touch_session
UPDATE sessions SET execution_count = :execution_count, last_activity_at = :last_activity_at
WHERE id = :id;

-- name: finish_execution
UPDATE executions
SET status = :status, ended_at = :ended_at, duration = :duration, error = :error,
    new_files = :new_files, outputs_complete = :outputs_complete, note = :note,
    progress = :progress, memory_before = :memory_before, memory_after = :memory_after
WHERE id = :id;

-- name: delete_outputs
DELETE FROM outputs WHERE execution_id = :id;

-- name: forget_result
DELETE FROM results WHERE execution_id = :id;

-- name: insert_result
INSERT INTO results (execution_id, line, words) VALUES (:id, :line, :words);

-- name: forget_written
DELETE FROM written WHERE execution_id = :id;

-- name: insert_written
INSERT OR IGNORE INTO written (path, execution_id) VALUES (:path, :id);

-- name: insert_output
INSERT INTO outputs (execution_id, position, body) VALUES (:id, :position, :body);

-- name: execution
SELECT * FROM executions WHERE id = :id;

-- name: outputs
SELECT body FROM outputs WHERE execution_id = :id ORDER BY position;

-- name: open_executions
SELECT * FROM executions WHERE ended_at IS NULL ORDER BY session_id, "index";

-- name: newest_execution
SELECT id FROM executions WHERE session_id = :id ORDER BY "index" DESC LIMIT 1;

-- name: execution_ids
SELECT id FROM executions WHERE session_id = :id;
