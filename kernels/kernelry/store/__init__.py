"""What kernelry keeps: SQLite for records, files for what is large."""

from kernelry.store.store import Store

__all__ = ["Store"]
