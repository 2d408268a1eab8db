"""What carrel keeps: SQLite for records, files for what is large."""

from carrel.store.store import Store

__all__ = ["Store"]
