-- Search in what was run and what it raised, and the records of sessions that are gone.
ALTER TABLE sessions ADD COLUMN archived_at REAL;    -- when it was deleted and its history kept

-- What a session's template gave it.
ALTER TABLE sessions ADD COLUMN template TEXT NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN startup TEXT NOT NULL DEFAULT '';    -- each kernel runs it first

-- Contentless: the text is in `executions`, by rowid (nothing here ever runs VACUUM).
CREATE VIRTUAL TABLE execution_texts USING fts5 (
    code, error, content = '', tokenize = "unicode61 tokenchars '_'"
);

CREATE TRIGGER execution_texts_insert AFTER INSERT ON executions BEGIN
    INSERT INTO execution_texts (rowid, code, error) VALUES (new.rowid, new.code, CASE WHEN json_valid(new.error) THEN
        json_extract(new.error, '$.type') || ' ' || json_extract(new.error, '$.message')
            || ' ' || json_extract(new.error, '$.traceback') ELSE '' END);
END;

CREATE TRIGGER execution_texts_update AFTER UPDATE OF error ON executions
WHEN old.error IS NOT new.error BEGIN
    INSERT INTO execution_texts (execution_texts, rowid, code, error)
    VALUES ('delete', old.rowid, old.code, CASE WHEN json_valid(old.error) THEN
        json_extract(old.error, '$.type') || ' ' || json_extract(old.error, '$.message')
            || ' ' || json_extract(old.error, '$.traceback') ELSE '' END);
    INSERT INTO execution_texts (rowid, code, error) VALUES (new.rowid, new.code, CASE WHEN json_valid(new.error) THEN
        json_extract(new.error, '$.type') || ' ' || json_extract(new.error, '$.message')
            || ' ' || json_extract(new.error, '$.traceback') ELSE '' END);
END;

CREATE TRIGGER execution_texts_delete AFTER DELETE ON executions BEGIN
    INSERT INTO execution_texts (execution_texts, rowid, code, error)
    VALUES ('delete', old.rowid, old.code, CASE WHEN json_valid(old.error) THEN
        json_extract(old.error, '$.type') || ' ' || json_extract(old.error, '$.message')
            || ' ' || json_extract(old.error, '$.traceback') ELSE '' END);
END;

INSERT INTO execution_texts (rowid, code, error)
SELECT rowid, code, CASE WHEN json_valid(error) THEN
        json_extract(error, '$.type') || ' ' || json_extract(error, '$.message')
            || ' ' || json_extract(error, '$.traceback') ELSE '' END
FROM executions;

CREATE INDEX executions_by_time ON executions (created_at);
CREATE INDEX sessions_by_parent ON sessions (parent_execution_id)
WHERE parent_execution_id != '';
