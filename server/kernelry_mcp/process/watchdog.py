"""Tells when the event loop was blocked: all sessions wait then, and nobody else says so.

A thread has the loop answer once a second. It tells where the main thread is when no
answer comes, and afterwards how long that took. It only tells: to be blocked is no reason
to declare anybody dead.
"""

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

PERIOD = 1.0  # seconds between two questions
# An answer that takes so long means a block of up to a second more.
PATIENCE = 1.0


@contextmanager
def watching_loop(period: float = PERIOD, patience: float = PATIENCE) -> Iterator[None]:
    """Log blocks of the running loop that last two seconds or longer."""
    watchdog = Watchdog(asyncio.get_running_loop(), period, patience)
    watchdog.start()
    try:
        yield
    finally:
        watchdog.stop()


class Watchdog(threading.Thread):
    """The thread that asks."""

    def __init__(self, loop: asyncio.AbstractEventLoop, period: float, patience: float) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._loop = loop
        self._loop_thread = threading.get_ident()
        self._period = period
        self._patience = patience
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Ask no more; does not wait for the thread."""
        self._stopped.set()

    def run(self) -> None:
        """Ask until stopped, or until the loop is closed."""
        while not self._stopped.wait(self._period):
            answered = threading.Event()
            asked = time.monotonic()
            try:
                self._loop.call_soon_threadsafe(answered.set)
            except RuntimeError:  # closed
                return
            if answered.wait(self._patience):
                continue
            if time.monotonic() - asked > 2 * self._patience and answered.wait(self._patience):
                # We were late ourselves, and the loop answered as soon as it could: the
                # machine was halted (SIGSTOP, suspend).
                continue
            log.warning("the event loop is blocked, in:\n%s", self._where())
            while not (answered.wait(self._period) or self._stopped.is_set()):
                pass
            log.warning("the event loop was blocked for %.1f s", time.monotonic() - asked)

    def _where(self) -> str:
        frame = sys._current_frames().get(self._loop_thread)
        return "".join(traceback.format_stack(frame)).rstrip() if frame else "no thread"
