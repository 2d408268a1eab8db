-- Sessions, their executions, what those emitted, and the log of what happened.
CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    description TEXT NOT NULL,
    tags TEXT NOT NULL,              -- JSON list
    metadata TEXT NOT NULL,          -- JSON object
    status TEXT NOT NULL,
    created_at REAL NOT NULL,        -- seconds since the epoch, UTC, as all *_at
    last_activity_at REAL NOT NULL,
    generation INTEGER NOT NULL,
    execution_count INTEGER NOT NULL
) STRICT;

CREATE TABLE executions (
    id TEXT PRIMARY KEY,             -- also the msg_id of its execute_request
    session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    "index" INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    code TEXT NOT NULL,
    status TEXT NOT NULL,
    timeout REAL,                    -- seconds
    created_at REAL NOT NULL,
    started_at REAL,
    ended_at REAL,
    duration REAL NOT NULL DEFAULT 0,
    error TEXT,                      -- JSON object
    new_files TEXT NOT NULL DEFAULT '[]',
    outputs_complete INTEGER NOT NULL DEFAULT 1,
    note TEXT NOT NULL DEFAULT ''
) STRICT;

CREATE INDEX executions_by_session ON executions (session_id, "index");
CREATE INDEX executions_open ON executions (status) WHERE ended_at IS NULL;

CREATE TABLE outputs (
    execution_id TEXT NOT NULL REFERENCES executions (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    body TEXT NOT NULL,              -- JSON, as nbformat writes an output
    PRIMARY KEY (execution_id, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    type TEXT NOT NULL,              -- "session.created", "execution.ended", ...
    session_id TEXT NOT NULL,
    execution_id TEXT NOT NULL DEFAULT '',
    data TEXT NOT NULL DEFAULT '{}'
) STRICT;
