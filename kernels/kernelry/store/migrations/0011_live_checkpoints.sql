-- Checkpoints that are processes: frozen copies of kernels. What they undo when they are restored.
ALTER TABLE checkpoints ADD COLUMN process TEXT NOT NULL DEFAULT '';  -- JSON, "": it is a file
ALTER TABLE checkpoints ADD COLUMN named TEXT NOT NULL DEFAULT '[]';  -- JSON list of lines
ALTER TABLE checkpoints ADD COLUMN execution_id TEXT NOT NULL DEFAULT '';  -- made before it
ALTER TABLE checkpoints ADD COLUMN count INTEGER NOT NULL DEFAULT 0;  -- executions until then
ALTER TABLE checkpoints ADD COLUMN undone TEXT NOT NULL DEFAULT '[]';  -- JSON list of numbers
ALTER TABLE executions ADD COLUMN on_error TEXT NOT NULL DEFAULT 'keep';
ALTER TABLE executions ADD COLUMN undone TEXT NOT NULL DEFAULT '';    -- why; "": it is not
ALTER TABLE sessions ADD COLUMN rewind INTEGER;                       -- NULL: as the server has it
