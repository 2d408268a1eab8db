-- What executions put out and wrote, to be found by it.
CREATE TABLE results (
    execution_id TEXT PRIMARY KEY REFERENCES executions (id) ON DELETE CASCADE,
    line TEXT NOT NULL,              -- the last that it put out
    words TEXT NOT NULL              -- the ends of all, in lower case
) STRICT;

CREATE TABLE written (
    path TEXT NOT NULL,              -- below the workspace
    execution_id TEXT NOT NULL REFERENCES executions (id) ON DELETE CASCADE,
    PRIMARY KEY (path, execution_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX written_by_execution ON written (execution_id);

INSERT INTO results (execution_id, line, words)
SELECT id, substr(text, -500), lower(substr(text, 1, 2000)) FROM (
    SELECT e.id AS id, (
        SELECT group_concat(coalesce(json_extract(o.body, '$.text'),
                                     json_extract(o.body, '$.data."text/plain"'), ''), char(10))
        FROM outputs AS o WHERE o.execution_id = e.id AND json_valid(o.body)
    ) AS text FROM executions AS e
) WHERE text != '';

INSERT OR IGNORE INTO written (path, execution_id)
SELECT file.value, e.id FROM executions AS e, json_each(e.new_files) AS file
WHERE json_valid(e.new_files);
