-- Checkpoints that are processes: frozen copies of kernels.
ALTER TABLE checkpoints ADD COLUMN process TEXT NOT NULL DEFAULT '';  -- JSON, "": it is a file
ALTER TABLE checkpoints ADD COLUMN named TEXT NOT NULL DEFAULT '[]';  -- JSON list of lines
