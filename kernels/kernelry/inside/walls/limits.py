"""Limits of this process and all that it starts, as the operating system keeps them.

They are entered once, before any code of the user's, and can only be lowered afterwards.
Memory is RLIMIT_DATA: the kernel survives it, with a MemoryError (RLIMIT_AS kills kernels;
measured in reference/security-and-faults.md section 3.4). What they miss the server watches.
Beside the limit is a reserve that the user's code does not get, so that a kernel whose variables
fill all the rest can still report that, and run the cell that deletes them.
"""

import contextlib
import resource
from typing import Any

OOM_MORE = 100  # than the server: when memory is short Linux takes who uses most, but it last
NAMES = {
    "memory": resource.RLIMIT_DATA,
    "file_size": resource.RLIMIT_FSIZE,
    "open_files": resource.RLIMIT_NOFILE,
}


RESERVE = 64 << 20  # bytes beyond the limit that user code may not use; an eighth of a small one
MARGIN = 16 << 20  # bytes of the reserve that a cell gets when the rest is full
STARTING = 512 << 20  # bytes beyond the limit until a kernel stands, which counts what it has then
ASKED_CHARS = 200  # of what a MemoryError says of how much was asked for
UNITS = ("bytes", "KB", "MB", "GB", "TB")


class Memory:
    """The limit of this kernel's memory, and the reserve beside it.

    What counts is what the user's code adds to what the kernel had before any of it ran.

    Args:
        limit: Bytes; 0: there is none.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._before = -1  # bytes that the kernel had itself; -1: no code of the user's ran yet
        _, self._hard = resource.getrlimit(resource.RLIMIT_DATA)
        self._is_set = bool(limit) and self._hard != resource.RLIM_INFINITY

    def keep_reserve(self) -> None:
        """Begin user code; it has a little to go on with even if all is full."""
        if not self._is_set:
            return
        if self._before < 0:
            self._before = data_size()
            reserve = min(RESERVE, self._limit // 8)
            self._hard = min(self._hard, self._before + self._limit + reserve)
        soft = max(self._before + self._limit, data_size() + MARGIN)
        resource.setrlimit(resource.RLIMIT_DATA, (min(soft, self._hard), self._hard))

    def open_reserve(self) -> None:
        """End user code."""
        if self._is_set:
            resource.setrlimit(resource.RLIMIT_DATA, (self._hard, self._hard))

    def explain(self, error: MemoryError) -> str:
        """Say which limit a lack of memory met; empty: none of ours."""
        kind = type(error)
        if not self._is_set or self._before < 0:
            return ""
        used = max(data_size() - self._before, 0)
        # Of a class of the user's own str() is code of the user's, which is over.
        said = str(error) if kind is MemoryError or kind.__module__.startswith("numpy.") else ""
        asked = f" ({said[:ASKED_CHARS]})" if said else ""
        return (
            f"This session may use {quantity(self._limit)} of memory (its limit) and uses "
            f"{quantity(used)}; more was asked for than is left{asked}. Delete what is not needed "
            "(del NAME), or work in parts."
        )


def quantity(size: int) -> str:
    """Return a number of bytes as people write it."""
    value, unit = float(size), 0
    while value >= 1000 and unit < len(UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.{min(unit, 1)}f} {UNITS[unit]}"


def data_size() -> int:
    """Return the bytes of this process that count for RLIMIT_DATA."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[5]) * resource.getpagesize()


def enter(limits: dict[str, Any], *, starting: int = 0) -> None:
    """Set the limits; a missing one, or 0, is none.

    Args:
        limits: memory and file_size in bytes, open_files.
        starting: Bytes of memory beyond the limit, until `Memory` knows better.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "r+") as file:
        inherited = int(file.read())
        file.seek(0)
        file.write(str(min(inherited + OOM_MORE, 1000)))
    for name, number in NAMES.items():
        if wanted := limits.get(name):
            wanted += starting if name == "memory" else 0
            _, hard = resource.getrlimit(number)
            value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(number, (value, value))
