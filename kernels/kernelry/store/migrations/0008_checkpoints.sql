-- Saved namespaces; each has a file of its id in checkpoints/.
CREATE TABLE checkpoints (
    id TEXT PRIMARY KEY,
    session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    reason TEXT NOT NULL,            -- "manual", or what it was taken before
    created_at REAL NOT NULL,
    size INTEGER NOT NULL,           -- bytes
    digest TEXT NOT NULL,            -- keyed BLAKE3, hex
    python TEXT NOT NULL,
    blocked REAL NOT NULL,           -- seconds
    variables TEXT NOT NULL,         -- JSON list of names
    skipped TEXT NOT NULL            -- JSON list of objects
) STRICT;

CREATE INDEX checkpoints_by_session ON checkpoints (session_id, created_at);
