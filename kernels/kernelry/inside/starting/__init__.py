"""How a process becomes a kernel: afresh, or as a fork of a warm one."""
