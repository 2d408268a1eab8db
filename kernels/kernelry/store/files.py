"""The files of a database: told apart, moved aside without overwriting, removed."""

import os
from datetime import UTC, datetime
from pathlib import Path

HEADER_BYTES = 100
MAGIC = b"SQLite format 3\0"
Identity = tuple[tuple[int, int] | None, tuple[int, int] | None]
PARTS = ("", "-wal", "-shm")  # the file, its write-ahead log, the log's index


def beside(path: Path, suffix: str) -> Path:
    """Return the path with `suffix` at its end."""
    return path.with_name(path.name + suffix)


def identify(path: Path) -> Identity:
    """Return what tells a database and its log from others at the same path."""
    return _inode(path), _inode(beside(path, "-wal"))


def move_aside(path: Path, why: str) -> Path | None:
    """Rename a database with its log to a name that says why and when.

    Returns:
        The new name; None if there was nothing.

    Raises:
        OSError: It can't be renamed.
    """
    parts = [part for part in PARTS if os.path.lexists(beside(path, part))]
    if not parts:
        return None
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    aside, number = beside(path, f".{why}-{stamp}"), 1
    while any(os.path.lexists(beside(aside, part)) for part in PARTS):
        number += 1
        aside = beside(path, f".{why}-{stamp}-{number}")
    for part in parts:
        beside(path, part).rename(beside(aside, part))
    return aside


def clear(path: Path, ours: Identity) -> Path | None:
    """Make room for a copy of our database at `path`.

    What is left of ours there is removed: read with our log, a foreign database would be
    changed by it. What is not ours is moved aside; returns its new name, None without any.

    Raises:
        OSError: It can't be removed or renamed.
    """
    beside(path, "-shm").unlink(missing_ok=True)
    for part, inode in zip((path, beside(path, "-wal")), ours, strict=True):
        if inode is not None and _inode(part) == inode:
            part.unlink()
    return move_aside(path, "replaced")


def remove(path: Path) -> None:
    """Remove a database with all that belongs to it."""
    for part in (*PARTS, "-journal"):
        beside(path, part).unlink(missing_ok=True)


def has_sound_header(path: Path) -> bool:
    """Say whether a file, if there is one, begins as a database does.

    SQLite itself reports some damage of the header as "read-only".

    Raises:
        OSError: It can't be read.
    """
    try:
        with path.open("rb") as file:
            header = file.read(HEADER_BYTES)
    except FileNotFoundError:
        return True
    return not header or (
        len(header) == HEADER_BYTES and header.startswith(MAGIC) and set(header[18:20]) <= {1, 2}
    )


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116  # before every write; pathlib doubles the time
    except OSError:
        return None
    return status.st_dev, status.st_ino
