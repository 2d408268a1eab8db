"""What is in a folder of the workspace, found without following a link."""

import fnmatch
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from kernelry.beneath import LIST, folder
from kernelry.workspace import files
from kernelry.workspace.filepaths import explained, known

SCANNED = 20_000  # entries that are looked at for one listing


@dataclass(frozen=True, slots=True)
class Entry:
    """Something in a folder."""

    #: relative to the workspace; what is not UTF-8 in it is written as \\xNN
    path: str
    #: "file", "folder", "link" or "other"
    type: str
    #: bytes
    size: int
    #: when it was last written, UTC
    modified: datetime


@dataclass(frozen=True, slots=True)
class Listing:
    """The entries that match, by path."""

    #: the folder, relative to the workspace
    path: str
    #: all of them
    entries: list[Entry]
    #: whether all there is was looked at
    complete: bool


def list_folder(root: Path, path: str, *, pattern: str = "", recursive: bool = False) -> Listing:
    """Return what is in a folder of the workspace.

    Args:
        root: The workspace.
        path: The folder, relative to it; ".": the workspace itself.
        pattern: Glob that names must match; empty: all do.
        recursive: Whether to look into folders, too.

    Raises:
        InvalidArgumentError: No folder can have this path.
        WorkspaceFileNotFoundError: There is none.
        NotAFileError: It is no folder, or a link.
    """
    path = known(root, path)
    waiting = [path]
    found: list[Entry] = []
    room = SCANNED
    with explained(path), folder(root, path, flags=LIST):
        pass  # those below may vanish meanwhile, this one must be there
    while waiting and room > 0:
        above = waiting.pop()
        for name, status in scan(root, above, room):
            room -= 1
            kind = files.kind_of(status)
            below = name if above == "." else f"{above}/{name}"
            if recursive and kind == "folder":
                waiting.append(below)
            if not pattern or fnmatch.fnmatchcase(name, pattern):
                entry = Entry(encodable(below), kind, status.st_size, files.modified(status))
                found.append(entry)
    found.sort(key=lambda entry: entry.path)
    return Listing(path, found, complete=not waiting and room > 0)


def scan(root: Path, path: str, most: int) -> Iterator[tuple[str, os.stat_result]]:
    """Yield up to `most` names in a folder and what they are; nothing if it can't be read."""
    with suppress(OSError), folder(root, path, flags=LIST) as fd, os.scandir(fd) as entries:
        for entry in entries:
            if most <= 0:
                return
            most -= 1
            with suppress(OSError):  # it vanished
                yield entry.name, entry.stat(follow_symlinks=False)


def encodable(path: str) -> str:
    """Return a path as text that can become UTF-8."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
