-- name: insert_checkpoint
INSERT INTO checkpoints (id, session_id, name, reason, created_at, size, digest, python, blocked,
                         variables, skipped, process, named, execution_id, count, undone)
VALUES (:id, :session_id, :name, :reason, :created_at, :size, :digest, :python, :blocked,
        :variables, :skipped, :process, :named, :execution_id, :count, :undone);

-- name: checkpoint
SELECT * FROM checkpoints WHERE id = :id OR (name = :id AND name != '')
ORDER BY id = :id DESC, session_id = :session_id DESC, created_at DESC LIMIT 1;

-- name: checkpoints
SELECT * FROM checkpoints WHERE :session_id IS NULL OR session_id = :session_id
ORDER BY created_at DESC, rowid DESC;

-- name: surplus_rewinds
SELECT id FROM checkpoints WHERE session_id = :session_id AND reason = 'rewind'
ORDER BY created_at DESC, rowid DESC LIMIT -1 OFFSET :keep;

-- name: checkpoint_before
SELECT * FROM checkpoints WHERE execution_id = :id;

-- name: rewindable
SELECT c.execution_id FROM checkpoints AS c JOIN executions AS e ON e.session_id = c.session_id
WHERE e.id = :id AND c.execution_id != '' ORDER BY c.created_at DESC, c.rowid DESC;

-- name: mark_rolled_back
UPDATE executions SET undone = 'rollback' WHERE id = :id;

-- name: undone
SELECT "index" FROM executions WHERE session_id = :session_id AND "index" <= :count AND undone != '';

-- name: set_undone
-- Those that are undone in a checkpoint, and what ran after it.
UPDATE executions SET undone = CASE
    WHEN "index" > :count OR "index" IN (SELECT value FROM json_each(:undone))
    THEN CASE undone WHEN '' THEN 'rewind' ELSE undone END
    ELSE '' END
WHERE session_id = :session_id AND status NOT IN ('queued');

-- name: live_checkpoints
SELECT id, process FROM checkpoints WHERE process != '';

-- name: surplus_checkpoints
SELECT id FROM checkpoints WHERE session_id = :session_id AND reason NOT IN ('manual', 'branch')
    AND process = ''
ORDER BY created_at DESC, rowid DESC LIMIT -1 OFFSET :keep;

-- name: delete_checkpoint
DELETE FROM checkpoints WHERE id = :id;

-- name: delete_checkpoints
DELETE FROM checkpoints WHERE session_id = :session_id;

-- name: lives
SELECT 1 FROM sessions WHERE id = :id AND NOT deleting;
