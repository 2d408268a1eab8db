-- name: insert_event
INSERT OR IGNORE INTO events (at, type, session_id, execution_id, data, key)
VALUES (:at, :type, :session_id, :execution_id, :data, :key);

-- name: event_keys
SELECT key FROM events WHERE execution_id = :execution_id AND key IS NOT NULL;

-- name: newest_seq
SELECT coalesce(max(seq), 0) AS seq FROM events;

-- name: events
SELECT seq, at, type, session_id, execution_id, data FROM events
WHERE seq > :since
  AND (:topics = '[]' OR EXISTS (SELECT 1 FROM json_each(:topics) AS topic WHERE events.type GLOB topic.value))
  AND (:sessions = '[]'
       OR EXISTS (SELECT 1 FROM json_each(:sessions) WHERE session_id GLOB value))
ORDER BY seq LIMIT :limit;

-- name: latest_events
SELECT * FROM (
    SELECT seq, at, type, session_id, execution_id, data FROM events
    WHERE session_id = :session_id ORDER BY seq DESC LIMIT :limit
) ORDER BY seq;
