-- name: session_status
SELECT status FROM sessions WHERE id = :session_id AND NOT deleting AND archived_at IS NULL;

-- name: artifact_totals
SELECT count(*) AS count, coalesce(sum(size), 0) AS size FROM artifacts
WHERE session_id = :session_id;

-- name: newest_version
SELECT * FROM artifacts WHERE session_id = :session_id AND name = :name
ORDER BY version DESC LIMIT 1;

-- name: artifact_version
SELECT * FROM artifacts WHERE session_id = :session_id AND name = :name AND version = :version;

-- name: save_blob
INSERT INTO blobs (hash, size) VALUES (:hash, :size) ON CONFLICT DO NOTHING;

-- name: blob
SELECT * FROM blobs WHERE hash = :hash;

-- name: blobs
SELECT hash, refs FROM blobs;

-- name: forget_unused_blobs
DELETE FROM blobs WHERE refs = 0 RETURNING hash;

-- name: insert_artifact
INSERT INTO artifacts (id, session_id, execution_id, name, version, previous, type, mime_type,
                       size, tags, metadata, hash, created_at)
VALUES (:id, :session_id, :execution_id, :name, :version, :previous, :type, :mime_type,
        :size, :tags, :metadata, :hash, :created_at);

-- name: artifact
SELECT * FROM artifacts WHERE id = :id;

-- name: artifact_ids
SELECT id FROM artifacts WHERE id >= :start AND id < :start || 'g' ORDER BY id LIMIT :limit;

-- name: captured_names
SELECT name FROM artifacts WHERE execution_id = :id AND execution_id != '';

-- name: note_uncaptured
INSERT INTO uncaptured (execution_id) VALUES (:id) ON CONFLICT DO NOTHING;

-- name: forget_uncaptured
DELETE FROM uncaptured WHERE execution_id = :id;

-- name: uncaptured
SELECT execution_id FROM uncaptured;

-- name: matching_artifacts
SELECT id, name FROM artifacts
WHERE (:session_id = '' OR session_id = :session_id)
  AND (:execution_id = '' OR execution_id = :execution_id)
  AND (:type = '' OR type = :type)
  AND (:since IS NULL OR created_at >= :since)
  AND (:until IS NULL OR created_at <= :until)
  AND (:min_size IS NULL OR size >= :min_size)
  AND (:max_size IS NULL OR size <= :max_size)
  AND NOT EXISTS (SELECT 1 FROM json_each(:tags) AS wanted
                  WHERE wanted.value NOT IN (SELECT value FROM json_each(artifacts.tags)))
ORDER BY created_at DESC, seq DESC;

-- name: delete_artifacts
DELETE FROM artifacts WHERE session_id = :id;

-- name: delete_artifact
DELETE FROM artifacts WHERE id = :id;
