"""The FIFO by which kernels know that somebody lives who could end them.

Kernels are killed by Linux when nobody holds its other end any more (kernelry/inside/starting/
entering.py); the server holds it, and the fork servers do.
"""

import os
from contextlib import suppress
from pathlib import Path


class Lifelines:
    """Holds the FIFO of one service, and those that were at its path before it was removed.

    Args:
        path: Where it is; None: kernels here do without.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._held: list[int] = []
        self.hold()

    def hold(self) -> None:
        """Hold it, and make it if it is not there: somebody may have cleaned up."""
        # Those made before it was removed stay open: there are kernels that hold on to them.
        if self._path is not None and not any(is_at(fd, self._path) for fd in self._held):
            self._held.append(hold_lifeline(self._path))

    def close(self) -> None:
        """Let go: what nobody else holds on to ends."""
        for fd in self._held:
            os.close(fd)
        self._held.clear()


def hold_lifeline(path: Path) -> int:
    """Open the FIFO by which kernels know that somebody could end them; make it if need be."""
    with suppress(FileExistsError):
        os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)


def is_at(fd: int, path: Path) -> bool:
    """Say whether a descriptor is of the file at `path`."""
    with suppress(OSError):
        return os.path.samestat(os.fstat(fd), path.stat())
    return False
