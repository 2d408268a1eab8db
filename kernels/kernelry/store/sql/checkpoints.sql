-- name: insert_checkpoint
INSERT INTO checkpoints (id, session_id, name, reason, created_at, size, digest, python, blocked,
                         variables, skipped, process, named)
VALUES (:id, :session_id, :name, :reason, :created_at, :size, :digest, :python, :blocked,
        :variables, :skipped, :process, :named);

-- name: checkpoint
SELECT * FROM checkpoints WHERE id = :id OR (name = :id AND name != '')
ORDER BY id = :id DESC, session_id = :session_id DESC, created_at DESC LIMIT 1;

-- name: checkpoints
SELECT * FROM checkpoints WHERE :session_id IS NULL OR session_id = :session_id
ORDER BY created_at DESC, rowid DESC;

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
