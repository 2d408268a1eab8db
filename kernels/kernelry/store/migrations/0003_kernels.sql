-- What the next server needs to take over the kernel of a session, and what it must finish.
CREATE TABLE kernels (
    session_id TEXT PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
    pid INTEGER NOT NULL,
    started INTEGER NOT NULL,        -- ticks since the boot
    boot TEXT NOT NULL,
    path TEXT NOT NULL,
    key TEXT NOT NULL,
    client_id TEXT NOT NULL,
    start TEXT NOT NULL              -- "fork" or "spawn"
) STRICT;

ALTER TABLE sessions ADD COLUMN fresh INTEGER NOT NULL DEFAULT 0;     -- its kernels are no forks
ALTER TABLE sessions ADD COLUMN deleting INTEGER NOT NULL DEFAULT 0;  -- its end has begun
