-- A session's private directory is that of its first kernel, which may have been warm.
ALTER TABLE sessions ADD COLUMN directory TEXT NOT NULL DEFAULT '';
