-- Artifacts, and how many of them refer to each content. A content that none refers to keeps its
-- row until its file is removed.
CREATE TABLE blobs (
    hash TEXT PRIMARY KEY,           -- BLAKE3 of the content
    size INTEGER NOT NULL,           -- bytes
    refs INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE INDEX blobs_unused ON blobs (refs) WHERE refs = 0;

CREATE TABLE artifacts (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    execution_id TEXT NOT NULL,      -- '': somebody stored it
    name TEXT NOT NULL,
    version INTEGER NOT NULL,        -- from 1, by name and session
    previous TEXT NOT NULL,          -- id of the version before; '': there was none
    type TEXT NOT NULL,
    mime_type TEXT NOT NULL,
    size INTEGER NOT NULL,
    tags TEXT NOT NULL,              -- JSON list
    metadata TEXT NOT NULL,          -- JSON object
    hash TEXT NOT NULL REFERENCES blobs (hash),
    created_at REAL NOT NULL,
    UNIQUE (session_id, name, version)
) STRICT;

CREATE INDEX artifacts_by_session ON artifacts (session_id, created_at);
CREATE INDEX artifacts_by_hash ON artifacts (hash);
CREATE INDEX artifacts_by_execution ON artifacts (execution_id) WHERE execution_id != '';

-- Executions whose output is to become artifacts.
CREATE TABLE uncaptured (
    execution_id TEXT PRIMARY KEY REFERENCES executions (id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- Triggers, so that no transaction can forget it, a session's deletion included.
CREATE TRIGGER artifact_stored AFTER INSERT ON artifacts BEGIN
    UPDATE blobs SET refs = refs + 1 WHERE hash = NEW.hash;
END;
CREATE TRIGGER artifact_deleted AFTER DELETE ON artifacts BEGIN
    UPDATE blobs SET refs = refs - 1 WHERE hash = OLD.hash;
END;
