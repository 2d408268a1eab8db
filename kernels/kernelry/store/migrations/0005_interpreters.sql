-- A session may have an interpreter of its own.
ALTER TABLE sessions ADD COLUMN python TEXT NOT NULL DEFAULT '';      -- a path; empty: the server's
