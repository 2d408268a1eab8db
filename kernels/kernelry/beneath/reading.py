"""Read regular files below a folder, never waiting and never without a limit; see the package."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from kernelry import bounds
from kernelry.beneath.resolve import LIST, folder, open_below, split

READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC


class NotRegularError(OSError):
    """It is no regular file: a folder, a FIFO, a socket, a device."""


class TooLargeError(OSError):
    """It is larger than its reader takes."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(errno.EFBIG, f"{size} bytes, the limit is {limit}")
        #: its size in bytes
        self.size = size
        #: the most that is read, bytes
        self.limit = limit


@contextmanager
def opened(root: Path, path: str) -> Iterator[BinaryIO]:
    """Open a regular file to be read; its status is `os.fstat` of what this gives.

    Args:
        root: The folder.
        path: The file, relative to it.

    Raises:
        NotRegularError: It is something else.
        OSError: There is none, or a link is on the way (ELOOP, ENOTDIR).
    """
    fd = open_below(root, path, READ)
    with os.fdopen(fd, "rb", buffering=0) as file:
        check_regular(fd)
        yield file


def read(root: Path, path: str, limit: int) -> bytes:
    """Return the whole content of a regular file of at most `limit` bytes.

    Raises:
        TooLargeError: It has more.
        OSError: See `opened`.
    """
    with opened(root, path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise TooLargeError(size, limit)
        data = read_up_to(file, limit + 1)
    if len(data) > limit:  # it grows
        raise TooLargeError(len(data), limit)
    return data


def head(root: Path, path: str, most: int, *, start: int = 0) -> bytes | None:
    """Return up to `most` bytes of a regular file; None if that can't be read.

    Args:
        root: The folder.
        path: The file, relative to it.
        most: Bytes.
        start: Offset of the first, in bytes.
    """
    with suppress(OSError), opened(root, path) as file:
        file.seek(start)
        return read_up_to(file, most)
    return None


def tail(root: Path, path: str, most: int) -> bytes:
    """Return the last `most` bytes of a regular file; nothing if that can't be read."""
    with suppress(OSError), opened(root, path) as file:
        file.seek(max(os.fstat(file.fileno()).st_size - most, 0))
        return read_up_to(file, most)
    return b""


def size(root: Path, path: str) -> int:
    """Return the size of a regular file in bytes; 0 if there is none."""
    with suppress(OSError), opened(root, path) as file:
        return os.fstat(file.fileno()).st_size
    return 0


def names(root: Path, path: str) -> list[str]:
    """Return the names in a folder, not more than are taken; none if it can't be read."""
    with suppress(OSError), folder(root, path, flags=LIST) as fd, os.scandir(fd) as entries:
        return sorted(entry.name for entry in islice(entries, bounds.NAMES))
    return []


def status(root: Path, path: str) -> os.stat_result | None:
    """Return what there is, of a link the link itself; None: nothing."""
    above, name = split(path)
    try:
        with folder(root, above) as fd:
            return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def read_up_to(file: BinaryIO, most: int) -> bytes:
    """Return the next bytes of an unbuffered file, `most` of them if there are as many."""
    pieces: list[bytes] = []
    while most > 0 and (data := file.read(min(most, 1 << 20))):
        pieces.append(data)
        most -= len(data)
    return b"".join(pieces)


def check_regular(fd: int) -> os.stat_result:
    """Return the status of an open file.

    Raises:
        NotRegularError: It is no regular file.
    """
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise NotRegularError(errno.EINVAL, "not a regular file")
    return status
