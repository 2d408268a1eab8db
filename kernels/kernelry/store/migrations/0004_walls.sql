-- What a session asked for beyond the server's walls, and what its kernel has.
ALTER TABLE sessions ADD COLUMN isolation TEXT NOT NULL DEFAULT '';   -- '': the server's
ALTER TABLE sessions ADD COLUMN network INTEGER;                      -- NULL: the server's
ALTER TABLE kernels ADD COLUMN isolation TEXT NOT NULL DEFAULT 'process';
ALTER TABLE kernels ADD COLUMN network INTEGER NOT NULL DEFAULT 1;
ALTER TABLE sessions ADD COLUMN limits TEXT NOT NULL DEFAULT '{}';    -- JSON object
