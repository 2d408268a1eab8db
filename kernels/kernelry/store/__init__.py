"""What kernelry keeps: SQLite for records, files for what is large."""

from kernelry.store import rows
from kernelry.store.blobs import Blob, Blobs, DamagedError, chunks_of
from kernelry.store.rows import Row, moment, seconds
from kernelry.store.statements import Statements
from kernelry.store.store import Store

__all__ = [
    "Blob",
    "Blobs",
    "DamagedError",
    "Row",
    "Statements",
    "Store",
    "chunks_of",
    "moment",
    "rows",
    "seconds",
]
