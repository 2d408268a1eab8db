"""Stop what a cell runs, so that no further statement of it runs.

A signal alone does not: what waits for another program absorbs it (``!``, ``os.system``), tasks
of asyncio each take their turn first, and code between two statements goes on. So whoever stops
an execution says first which one, on the control channel, and then sends SIGINT. From then on no
statement of that cell begins, and the code that runs gets KeyboardInterrupt as soon as it runs
Python: SIGINT only ends what it waits for. Code that awaits is in the event loop's hands, where
an exception would end more than the cell: its tasks are cancelled by the signal, and only what
has not felt that after a moment gets the exception too.

Whether the code was reached is told with the reply: nobody is told that something was stopped
which ran to its end.
"""

import asyncio
import ctypes
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

FEEL_DELAY = 0.1  # seconds a signal has to be felt in
OWN_SIGNAL = 0.5  # seconds in which the signal comes that belongs to what was thrown
LOOKS = 1000  # turns of a loop, each of which looks for an exception set from outside


class Stopping:
    """What stops the cell that runs.

    Args:
        call_later: Calls a function after some seconds, in the control thread.
    """

    def __init__(self, call_later: Callable[[float, Callable[[], None]], None]) -> None:
        self._call_later = call_later
        self._lock = threading.Lock()
        self._main = threading.main_thread().ident or 0
        self._running = ""
        self._asked = ""
        self._felt = 0
        self._thrown = False
        self._thrown_at = 0.0
        self._awaits = False
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def is_asked(self) -> bool:
        """Say whether the cell that runs here was asked to stop: no further statement begins."""
        is_here = threading.get_ident() == self._main  # other clients' cells run in other threads
        return is_here and bool(self._asked) and self._asked == self._running

    @property
    def was_felt(self) -> bool:
        """Say whether an interrupt has reached the code of the cell."""
        return self._felt > 0

    def begin(self, msg_id: str) -> None:
        """Take note that a cell begins; from now on SIGINT stops it."""
        self._tasks = tasks()
        with self._lock:
            self._felt = 0
            self._running = msg_id
        signal.signal(signal.SIGINT, self.on_signal)

    def end(self) -> None:
        """Take note that the cell is over; no exception of ours comes after this."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with self._lock:
            self._running = ""
        self._take_thrown()

    def ask(self, msg_id: str) -> dict[str, Any]:
        """Have no further statement of a cell begin; called in the control thread.

        One that is only about to begin is stopped before its first.
        """
        with self._lock:
            self._asked = msg_id
            if self._running != msg_id:
                return {"running": False}
            felt = self._felt
            if not self._awaits:
                self._throw()
                return {"running": True}
        self._call_later(FEEL_DELAY, lambda: self._insist(msg_id, felt))
        return {"running": True}

    def stop_here(self) -> None:
        """Raise KeyboardInterrupt, between two statements of a cell that was asked to stop."""
        self._felt += 1
        raise KeyboardInterrupt("stopped before the next statement")

    def on_signal(self, signum: int, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt in the user's code, once for each stop."""
        if not self._running:
            return
        if self._take_thrown() and time.monotonic() - self._thrown_at < OWN_SIGNAL:
            return  # it has come already, on its own: this is its signal
        self._felt += 1
        raise KeyboardInterrupt

    @contextmanager
    def awaiting(self, loop: asyncio.AbstractEventLoop, future: Any) -> Iterator[None]:
        """Stop a cell that awaits, with the tasks that it has made, on SIGINT.

        Stock schedules the cancellation behind all tasks that are ready, and without waking the
        event loop (ipython/ipykernel#881).
        """

        def cancel(signum: int, frame: FrameType | None) -> None:
            self._felt += 1
            current = asyncio.current_task(loop)
            mine = tasks() - self._tasks - {current}
            for task in mine:
                task.cancel()
            future.cancel()
            loop.call_soon_threadsafe(lambda: None)
            if current is future:
                raise KeyboardInterrupt
            if current is not None and current not in self._tasks:
                raise asyncio.CancelledError

        before = signal.signal(signal.SIGINT, cancel)
        self._awaits = True
        try:
            yield
        finally:
            self._awaits = False
            signal.signal(signal.SIGINT, before)

    def _insist(self, msg_id: str, felt: int) -> None:
        """Raise in the main thread if the signal has not reached the code."""
        with self._lock:
            if self._running == msg_id and self._felt == felt:
                self._throw()

    def _throw(self) -> None:
        """Have the main thread raise KeyboardInterrupt when it runs Python next."""
        self._thrown, self._thrown_at = True, time.monotonic()
        thread, error = ctypes.c_ulong(self._main), ctypes.py_object(KeyboardInterrupt)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, error)

    def _take_thrown(self) -> bool:
        """Take what was thrown and is still to come; return whether it had come before.

        It is not taken back with a NULL: CPython up to 3.11 then looks for it at each call for
        ever, and never gets past the call of a function that is traced (``breakpoint()``).
        """
        thrown, self._thrown = self._thrown, False
        if not thrown:
            return False
        try:
            for _ in range(LOOKS):
                pass
        except KeyboardInterrupt:
            return False
        self._felt += 1
        return True


def tasks() -> set[asyncio.Task[Any]]:
    """Return the tasks of the loop that runs in this thread; none if there is no loop."""
    try:
        return asyncio.all_tasks()
    except RuntimeError:
        return set()
