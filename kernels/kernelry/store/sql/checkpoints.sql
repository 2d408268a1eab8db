-- name: insert_checkpoint
INSERT INTO checkpoints (id, session_id, name, reason, created_at, size, digest, python, blocked,
                         variables, skipped)
VALUES (:id, :session_id, :name, :reason, :created_at, :size, :digest, :python, :blocked,
        :variables, :skipped);

-- name: checkpoint
SELECT * FROM checkpoints WHERE id = :id OR (name = :id AND name != '')
ORDER BY id = :id DESC, session_id = :session_id DESC, created_at DESC LIMIT 1;

-- name: checkpoints
SELECT * FROM checkpoints WHERE :session_id IS NULL OR session_id = :session_id
ORDER BY created_at DESC, rowid DESC;

-- name: surplus_checkpoints
SELECT id FROM checkpoints WHERE session_id = :session_id AND reason NOT IN ('manual', 'branch')
ORDER BY created_at DESC, rowid DESC LIMIT -1 OFFSET :keep;

-- name: delete_checkpoint
DELETE FROM checkpoints WHERE id = :id;

-- name: delete_checkpoints
DELETE FROM checkpoints WHERE session_id = :session_id;

-- name: lives
SELECT 1 FROM sessions WHERE id = :id AND NOT deleting;
