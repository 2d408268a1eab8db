"""Threads that compute let the event loop have its turn soon.

Python's threads take turns, and one that computes keeps the interpreter for 5 ms while others
want it (``sys.setswitchinterval``). Each system call of the event loop lets go of it, and waits
that long to have it back, many times in an execution. `scripts/bench --only promptness` measures a
cell beside reads of large outputs.
"""

import sys
import threading

SWITCH = 0.0001  # seconds; shorter ones cost those that compute more than they give the loop
USUAL = 0.1  # seconds; who wants more (a server that ends at once) has a reason


class Yielding:
    """The interpreter's setting for that, while any service of this process wants it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted = 0
        self._before = 0.0

    def begin(self) -> None:
        """Have it so from now on, until each that began has ended."""
        with self._lock:
            self._wanted += 1
            if self._wanted == 1 and SWITCH < (before := sys.getswitchinterval()) <= USUAL:
                self._before = before
                sys.setswitchinterval(SWITCH)

    def end(self) -> None:
        """Have it as it was before."""
        with self._lock:
            self._wanted -= 1
            if not self._wanted and self._before:
                if sys.getswitchinterval() <= USUAL:
                    sys.setswitchinterval(self._before)
                self._before = 0.0


#: that of this process
yielding = Yielding()
