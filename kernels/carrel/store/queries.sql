-- name: insert_session
INSERT INTO sessions (id, description, tags, metadata, status, created_at, last_activity_at,
                      generation, execution_count, directory)
VALUES (:id, :description, :tags, :metadata, :status, :created_at, :last_activity_at,
        :generation, :execution_count, :directory);

-- name: update_session
UPDATE sessions
SET description = :description, tags = :tags, metadata = :metadata, status = :status,
    last_activity_at = :last_activity_at, generation = :generation,
    execution_count = :execution_count
WHERE id = :id;

-- name: delete_session
DELETE FROM sessions WHERE id = :id;

-- name: sessions
SELECT * FROM sessions ORDER BY created_at, id;

-- name: insert_execution
INSERT INTO executions (id, session_id, "index", generation, code, status, timeout, created_at,
                        started_at)
VALUES (:id, :session_id, :index, :generation, :code, :status, :timeout, :created_at,
        :started_at);

-- name: start_execution
UPDATE executions SET status = :status, started_at = :started_at, generation = :generation
WHERE id = :id;

-- name: touch_session
UPDATE sessions SET execution_count = :execution_count, last_activity_at = :last_activity_at
WHERE id = :id;

-- name: finish_execution
UPDATE executions
SET status = :status, ended_at = :ended_at, duration = :duration, error = :error,
    new_files = :new_files, outputs_complete = :outputs_complete, note = :note
WHERE id = :id;

-- name: delete_outputs
DELETE FROM outputs WHERE execution_id = :id;

-- name: insert_output
INSERT INTO outputs (execution_id, position, body) VALUES (:id, :position, :body);

-- name: execution
SELECT * FROM executions WHERE id = :id;

-- name: outputs
SELECT body FROM outputs WHERE execution_id = :id ORDER BY position;

-- name: open_executions
SELECT * FROM executions WHERE ended_at IS NULL;

-- name: insert_event
INSERT INTO events (at, type, session_id, execution_id, data)
VALUES (:at, :type, :session_id, :execution_id, :data);
