"""What this kernel tells its server besides outputs, in order with them.

A note is an IOPub message of its own type, which other Jupyter clients ignore. It belongs to
the execution that runs, and is in the journal like any output: a server that comes later
hears it too. Safe to use from any thread.
"""

import os
import threading
import time
from typing import Any

NOTE = "kernelry_note"
NOTE_LIMIT = 10_000  # such notes of one execution; each costs memory here and in the server
LIMITED = frozenset({"published", "context"})  # what code can send as fast as it likes
RESIDENT = 1  # field of /proc/self/statm


class NoteLimitError(RuntimeError):
    """An execution tells its server more than can be kept."""


class Notes:
    """Sends notes of the execution that runs, or ran last."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._count = 0
        self._parent: dict[str, Any] = {}

    def begin(self, parent: dict[str, Any]) -> None:
        """Have all notes from here on belong to the execution whose request is `parent`."""
        with self._lock:
            self._parent, self._count = parent, 0

    def send(self, kind: str, **content: Any) -> None:
        """Send a note.

        Raises:
            NoteLimitError: This execution has sent too many.
            RuntimeError: A process that the kernel forked has no connection of its own.
        """
        if os.getpid() != self._pid:
            msg = "only the kernel itself can do this, not a process that it forked"
            raise RuntimeError(msg)
        with self._lock:
            self._count += kind in LIMITED
            if self._count > NOTE_LIMIT:
                msg = f"one execution may publish {NOTE_LIMIT} events and changes, not more"
                raise NoteLimitError(msg)
            kernel, note = self._kernel, {"kind": kind, "at": time.time(), **content}
            kernel.session.send(kernel.iopub_socket, NOTE, note, self._parent, ident=NOTE.encode())


def resident_memory() -> int:
    """Return the bytes of memory that this process has now; 0 if the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[RESIDENT]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0
