"""Limits of this process and all that it starts, as the operating system keeps them.

They are entered once, before any code of the user's, and can only be lowered afterwards.
Memory is RLIMIT_DATA: the kernel survives it, with a MemoryError (RLIMIT_AS kills kernels;
measured in reference/security-and-faults.md section 3.4). What they miss the server watches.
Part of the memory is kept back from the user's code, so that a kernel whose variables fill
all the rest can still report that, and run the cell that deletes them.
"""

import contextlib
import resource
from typing import Any

OOM_SCORE = "900"  # when memory is short Linux takes kernels first, never the server
NAMES = {
    "memory": resource.RLIMIT_DATA,
    "file_size": resource.RLIMIT_FSIZE,
    "open_files": resource.RLIMIT_NOFILE,
}


RESERVE = 64 << 20  # bytes that user code may not use; an eighth of a small limit
MARGIN = 16 << 20  # bytes of the reserve that a cell gets when the rest is full


class Memory:
    """The limit of this kernel's memory, and the reserve in it.

    Args:
        limit: Bytes; 0: there is none.
    """

    def __init__(self, limit: int) -> None:
        _, self._hard = resource.getrlimit(resource.RLIMIT_DATA)
        self._is_set = bool(limit) and self._hard != resource.RLIM_INFINITY
        self._soft = self._hard - min(RESERVE, self._hard // 8)

    def keep_reserve(self) -> None:
        """Begin user code; it has a little to go on with even if all is full."""
        if self._is_set:
            soft = min(max(self._soft, data_size() + MARGIN), self._hard)
            resource.setrlimit(resource.RLIMIT_DATA, (soft, self._hard))

    def open_reserve(self) -> None:
        """End user code."""
        if self._is_set:
            resource.setrlimit(resource.RLIMIT_DATA, (self._hard, self._hard))


def data_size() -> int:
    """Return the bytes of this process that count for RLIMIT_DATA."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[5]) * resource.getpagesize()


def enter(limits: dict[str, Any]) -> None:
    """Set the limits; a missing one, or 0, is none.

    Args:
        limits: memory and file_size in bytes, open_files.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(OOM_SCORE)
    for name, number in NAMES.items():
        if wanted := limits.get(name):
            _, hard = resource.getrlimit(number)
            value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(number, (value, value))
