"""Large files into the workspace and out of it, piece by piece. Blocking; ask from a thread.

What is being uploaded is a file beside the others, under a name of its own, until it is whole.
"""

import errno
import os
import stat
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from kernelry.beneath import reading, writing
from kernelry.workspace.filepaths import explained, known, status_of, writable

FOLDER = "uploads/.parts"  # of what is not whole yet
KEPT = 86_400  # seconds that a part is kept which nobody goes on with
LOOKED_AT = 1_000  # parts


class Download:
    """A file that is being read; it stays the same file, whatever happens to its name.

    Args:
        root: The workspace.
        path: The file, relative to it.

    Raises:
        InvalidArgumentError: No file can have this path.
        WorkspaceFileNotFoundError: There is none.
        NotAFileError: It is a folder, a link or a device.
    """

    def __init__(self, root: Path, path: str) -> None:
        path = known(root, path)
        self._stack = ExitStack()
        with explained(path):
            file = self._stack.enter_context(reading.opened(root, path))
        self._fd = file.fileno()
        status = os.fstat(self._fd)
        #: bytes
        self.size = status.st_size
        #: differs when the file does
        self.tag = f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"

    def read(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from `offset` on."""
        return os.pread(self._fd, size, offset)

    def close(self) -> None:
        """Give it back."""
        self._stack.close()


def check(root: Path, path: str, *, replace: bool) -> str:
    """Return the path under which a file may be uploaded.

    Raises:
        InvalidArgumentError: No file can have it.
        FileExistsConflictError: There is one, and it is not to be replaced.
        NotAFileError: There is a folder, a link or a device.
    """
    path = writable(known(root, path))
    with explained(path):
        there = status_of(root, path)
        if there is not None and stat.S_ISLNK(there.st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        if there is not None and not stat.S_ISREG(there.st_mode):
            raise reading.NotRegularError(errno.EINVAL, "not a regular file")
        if there is not None and not replace:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
    return path


def received(root: Path, name: str) -> int:
    """Return how many bytes of an upload are there.

    Args:
        root: The workspace.
        name: The upload's own.
    """
    return reading.size(root, f"{FOLDER}/{name}")


def add(root: Path, name: str, data: bytes, at: int) -> None:
    """Write more of an upload.

    Args:
        root: The workspace.
        name: The upload's own.
        data: What comes next.
        at: How many bytes must be there before.

    Raises:
        OSError: It can't be written, or somebody changed what there was.
    """
    part = f"{FOLDER}/{name}"
    if reading.size(root, part) != at:
        raise OSError(errno.ESTALE, "what came before is not there any more")
    if at:
        writing.append(root, part, data)
    else:
        writing.replace(root, part, data)


def discard(root: Path, name: str) -> None:
    """Forget what came of an upload."""
    with suppress(OSError):
        writing.remove(root, f"{FOLDER}/{name}")


def finish(root: Path, name: str, path: str, size: int, *, replace: bool) -> None:
    """Give an upload its name in the workspace.

    Args:
        root: The workspace.
        name: The upload's own.
        path: What it shall be called.
        size: Bytes that it must have.
        replace: Whether a file of that name is replaced.

    Raises:
        FileExistsConflictError: There is such a file meanwhile, and it is not to be replaced.
        NotAFileError: There is a folder, a link or a device.
        FileAccessError: It can't be given its name, or somebody changed it.
    """
    part = f"{FOLDER}/{name}"
    with explained(path):
        if not size:
            writing.replace(root, part, b"")
        if reading.size(root, part) != size:
            raise OSError(errno.ESTALE, "what came is not there any more")
        writing.move(root, part, path, replace=replace)


def remove_old(root: Path) -> None:
    """Remove what came of uploads that nobody goes on with."""
    for name in reading.names(root, FOLDER)[:LOOKED_AT]:
        with suppress(OSError):
            status = reading.status(root, f"{FOLDER}/{name}")
            if status is not None and time.time() - status.st_mtime > KEPT:
                writing.remove(root, f"{FOLDER}/{name}")
