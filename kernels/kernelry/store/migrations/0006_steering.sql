-- Sessions with parents, contexts and ends; executions that tell how far they are.
ALTER TABLE sessions ADD COLUMN parent_session_id TEXT NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN parent_execution_id TEXT NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN context TEXT NOT NULL DEFAULT '{}';   -- JSON object
ALTER TABLE sessions ADD COLUMN stdin INTEGER NOT NULL DEFAULT 0;     -- may ask
ALTER TABLE sessions ADD COLUMN reason TEXT NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN ended_at REAL;
ALTER TABLE executions ADD COLUMN progress TEXT NOT NULL DEFAULT '';
ALTER TABLE executions ADD COLUMN memory_before INTEGER NOT NULL DEFAULT 0;  -- bytes
ALTER TABLE executions ADD COLUMN memory_after INTEGER NOT NULL DEFAULT 0;

-- What a kernel said has the id of its message: heard again from the journal it is the same.
ALTER TABLE events ADD COLUMN key TEXT;
CREATE UNIQUE INDEX events_by_key ON events (key) WHERE key IS NOT NULL;
CREATE INDEX events_by_execution ON events (execution_id) WHERE execution_id != '';
CREATE INDEX events_by_session ON events (session_id, seq);
