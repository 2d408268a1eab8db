"""Files of the workspace: list, read, write and delete them, from the server's side.

Cells write there too, and whatever they leave (links, FIFOs, names that change meanwhile),
nothing outside of the workspace is read or written; see kernelry.beneath. Blocking file I/O;
ask from a thread.
"""

import codecs
import errno
import mimetypes
import os
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from kernelry.beneath import reading, writing
from kernelry.errors import InvalidArgumentError
from kernelry.output import Page, cut
from kernelry.workspace.filepaths import explained, known, status_of, writable

TEXT_BYTES = 64 << 20  # of a file that is read by pages
IMAGE_BYTES = 32 << 20  # of an image that is read to be shown
WRITE_BYTES = 16 << 20  # of what is written at once
PROBE_BYTES = 1 << 16  # of a file, to see whether it is text


class Mode(StrEnum):
    """What to do with a file that exists."""

    #: leave it, and say so
    CREATE = "create"
    #: replace it
    OVERWRITE = "overwrite"
    #: write at its end; make it if it is missing
    APPEND = "append"


@dataclass(frozen=True, slots=True)
class Content:
    """What is in a file: a page of its text, or bytes, or neither if these are too many."""

    #: relative to the workspace
    path: str
    #: MIME type, as its name tells; empty: unknown
    mime_type: str
    #: bytes of the whole file
    size: int
    #: a stretch of its text, offsets in characters; None: it is not text
    page: Page | None = None
    #: all its bytes, if it is not text and small enough
    data: bytes | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """A file after it was written."""

    #: relative to the workspace
    path: str
    #: bytes of the whole file
    size: int
    #: whether it is new
    created: bool


@dataclass(frozen=True, slots=True)
class Deleted:
    """What is gone."""

    #: relative to the workspace
    path: str
    #: "file", "folder", "link" or "other"
    type: str


def read(root: Path, path: str, *, offset: int, limit: int, data_bytes: int) -> Content:
    """Read a file of the workspace.

    Args:
        root: The workspace.
        path: Relative to it.
        offset: Where the page of a text begins, in characters.
        limit: Characters that the page may have.
        data_bytes: Bytes up to which the content of what is no text is given; images up to
            32 MiB always.

    Raises:
        InvalidArgumentError: No file can have this path.
        WorkspaceFileNotFoundError: There is none.
        NotAFileError: It is a folder, a link or a device.
        FileTooLargeError: It is a text of more than 64 MiB, or an image of more than 32.
    """
    path = known(root, path)
    kind = mimetypes.guess_type(path)[0] or ""
    with explained(path), reading.opened(root, path) as file:
        size = os.fstat(file.fileno()).st_size
        if is_image(kind):
            most = max(data_bytes, IMAGE_BYTES)
        elif is_text(reading.read_up_to(file, PROBE_BYTES)):
            if size > TEXT_BYTES:
                raise reading.TooLargeError(size, TEXT_BYTES)
            file.seek(0)
            page = page_of(file, offset, limit)
            return Content(path, kind or "text/plain", size, page=page)
        elif size > data_bytes:
            return Content(path, kind, size)
        else:
            most = data_bytes
        if size > most:
            raise reading.TooLargeError(size, most)
        file.seek(0)
        return Content(path, kind, size, data=reading.read_up_to(file, most))


def read_bytes(root: Path, path: str, limit: int) -> bytes:
    """Return the whole content of a file of at most `limit` bytes; raises as `read` does."""
    path = known(root, path)
    with explained(path):
        return reading.read(root, path, limit)


def write(root: Path, path: str, data: bytes, mode: Mode) -> Written:
    """Write a file of the workspace, whole or not at all; folders that are missing are made.

    Args:
        root: The workspace.
        path: Relative to it.
        data: Up to 16 MiB.
        mode: What to do with a file that exists.

    Raises:
        InvalidArgumentError: The path can't be used for a file, or there is too much data.
        FileExistsConflictError: There is one, and `mode` is CREATE.
        NotAFileError: There is a folder, a link or a device.
        FileAccessError: It can't be written.
    """
    path = writable(known(root, path))
    if len(data) > WRITE_BYTES:
        msg = f"{len(data)} bytes are too many to write at once, the limit is {WRITE_BYTES}"
        raise InvalidArgumentError(f"{msg}; write the rest with append=true")
    with explained(path):
        before = status_of(root, path)
        if before is not None and stat.S_ISLNK(before.st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        if mode is Mode.APPEND and before is not None:
            writing.append(root, path, data)
        elif mode is Mode.OVERWRITE:
            writing.replace(root, path, data)
        else:
            writing.create(root, path, data)
        size = len(data)
        if mode is Mode.APPEND:
            size = reading.size(root, path)
        return Written(path, size, created=before is None)


def delete(root: Path, path: str) -> Deleted:
    """Delete a file, a link (not what it leads to) or an empty folder.

    Raises:
        InvalidArgumentError: No file can have this path.
        WorkspaceFileNotFoundError: There is none.
        NotAFileError: It is a folder that is not empty.
        FileAccessError: It can't be deleted.
    """
    path = known(root, path)
    with explained(path):
        return Deleted(path, kind_of(writing.remove(root, path)))


def is_image(kind: str) -> bool:
    """Say whether a MIME type is that of an image that is not text."""
    return kind.startswith("image/") and kind != "image/svg+xml"


def is_text(start: bytes) -> bool:
    """Say whether a file that begins so is UTF-8 text."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return False
    return b"\0" not in start


def page_of(file: BinaryIO, offset: int, limit: int) -> Page:
    """Return a stretch of a text file, and how long the whole is."""
    text, total = cut(file, offset, offset + limit, TEXT_BYTES)
    return Page(text, min(offset, total), min(offset + len(text), total), total)


def kind_of(status: os.stat_result) -> str:
    """Return what a status is of: file, folder, link or other."""
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}
    return kinds.get(stat.S_IFMT(status.st_mode), "other")


def modified(status: os.stat_result) -> datetime:
    """Return when a file was last written; what is no date is the epoch."""
    try:
        return datetime.fromtimestamp(status.st_mtime, UTC)
    except (OverflowError, ValueError, OSError):
        return datetime.fromtimestamp(0, UTC)
