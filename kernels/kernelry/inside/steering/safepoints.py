"""Safe points: where code lets others pause or stop it.

``kernelry_session.checkpoint()`` in the user's code looks whether somebody asked. A request
comes on the control channel, names its execution (which may only be about to begin), and is there
until it took effect or that execution ends, whatever becomes of the server meanwhile.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from .notes import Notes

PROGRESS_PERIOD = 0.5  # seconds between two notes about progress
PROGRESS_CHARS = 500  # of what code says about its progress
ENDED = 100  # executions that are remembered as ended
PLAIN = frozenset({bool, float, int, str})

Later = Callable[[float, Callable[[], None]], None]


class ExecutionStopped(KeyboardInterrupt):
    """Somebody asked to stop this execution, and it came to a safe point.

    A KeyboardInterrupt, so that ``except Exception`` in a loop does not swallow it.
    """


class SafePoints:
    """What is asked of the execution that runs.

    Args:
        notes: Tells the server.
        later: Calls a function after some seconds, in another thread.
    """

    def __init__(self, notes: Notes, later: Later) -> None:
        #: what somebody asked for and has not happened yet, or holds: action, by, at
        self.pending: dict[str, Any] | None = None
        self._notes = notes
        self._later = later
        self._changed = threading.Condition()
        self._running = ""  # msg_id
        self._ended = deque[str](maxlen=ENDED)
        self._ahead: dict[str, dict[str, Any] | None] = {}  # msg_id -> asked before it began
        self._pid = os.getpid()
        self._visits = deque[Callable[[], None]]()  # what waits for a safe point
        self._held = 0  # threads that wait here
        self._stopped: dict[str, Any] | None = None
        self._progress: Any = None
        self._told: Any = None
        self._told_at = 0.0
        self._is_due = False

    @property
    def is_held(self) -> bool:
        """Say whether something waits at a safe point."""
        return self._held > 0

    @property
    def is_awaited(self) -> bool:
        """Say whether something waits for a safe point."""
        return bool(self._visits)

    def begin(self, msg_id: str) -> None:
        """An execution begins; what was asked of it already holds."""
        with self._changed:
            self._stopped = self._progress = self._told = None
            self._running, self.pending = msg_id, self._ahead.get(msg_id)
            self._ahead = {}
            if self.pending is not None:
                self._tell_of(self.pending)

    def end(self) -> dict[str, Any]:
        """An execution has ended; report what came of it."""
        with self._changed:
            report: dict[str, Any] = {}
            if self._progress is not None:
                report["progress"] = describe(self._progress)
            if self._stopped is not None:
                report["stopped"] = self._stopped
            elif self.pending is not None:
                report["missed"] = self.pending
            self.pending = None
            self._ended.append(self._running)
            self._running = ""
            self._changed.notify_all()  # threads that it left behind
        return report

    def checkpoint(self, progress: Any = None) -> None:
        """Mark a safe point: here the execution may be paused or stopped.

        Costs well under a microsecond while nobody asked for anything.

        Args:
            progress: How far it is: a number from 0 to 1, a pair (done, total), or words.

        Raises:
            ExecutionStopped: Somebody asked to stop the execution.
        """
        if progress is not None:
            # Told later by another thread: no code of the user's may be needed for it then.
            self._progress = progress if is_plain(progress) else describe(progress)
            if not self._is_due:
                self._tell()
        if self._visits and self._running:
            self._receive()
        if self.pending is not None:
            self._obey()

    def invite(self, visit: Callable[[], None]) -> None:
        """Have something done at the next safe point of the main thread, or by `attend`."""
        with self._changed:
            self._visits.append(visit)
            self._changed.notify_all()  # an execution that is held is at a safe point

    def attend(self) -> None:
        """Do what waited for a safe point, if nothing runs; on the main thread."""
        if not self._running:
            self._receive()

    def ask(self, msg_id: str, action: str, by: str, at: float) -> dict[str, Any]:
        """Take a request to the execution `msg_id`: "pause", "resume" or "stop".

        Returns:
            `done` says whether it was taken. If not, `over` says that the execution has ended,
            else `pending` is what stands in its way; None: there is nothing to resume. `held`
            says whether the execution waits at a safe point.
        """
        with self._changed:
            if msg_id in self._ended:
                return {"done": False, "pending": None, "held": False, "over": True}
            has_begun = msg_id == self._running
            before = self.pending if has_begun else self._ahead.get(msg_id)
            held = has_begun and self.is_held
            if action == "resume":
                if before is None or before["action"] != "pause":
                    return {"done": False, "pending": before, "held": held}
                pending = None
            elif before is not None and not (action == "stop" and held):
                return {"done": False, "pending": before, "held": held}
            else:
                pending = {"action": action, "by": by, "at": at}
            if not has_begun:  # the kernel has not come to it yet
                self._ahead = {msg_id: pending}
            else:
                self._tell_of({"action": action, "by": by})  # before it can take effect
                self.pending = pending
                self._changed.notify_all()
            return {"done": True, "pending": before, "held": held}

    def _tell_of(self, request: dict[str, Any]) -> None:
        self._notes.send("requested", action=request["action"], by=request["by"])

    def _receive(self) -> None:
        # Neither another thread is the kernel, nor a process that the code has forked.
        if threading.current_thread() is threading.main_thread() and os.getpid() == self._pid:
            while self._visits:
                self._visits.popleft()()

    def _obey(self) -> None:
        with self._changed:
            while (request := self.pending) is not None:
                if request["action"] == "stop":
                    self._stopped = request
                    raise ExecutionStopped(f"stopped at a safe point, as {request['by']} asked")
                self._hold(request)

    def _hold(self, request: dict[str, Any]) -> None:
        self._held += 1
        if self._held == 1:
            self._notes.send("held", **request)
        try:
            while self.pending is request:
                self._receive()
                self._changed.wait()
        except BaseException:  # interrupted: whoever did that wants it to go on or to end
            if self.pending is request:
                self.pending = None
            raise
        finally:
            self._held -= 1
            if not self._held:
                self._notes.send("released")

    def _tell(self) -> None:
        """Tell the progress now, or when some time has passed since it was told last."""
        wait = self._told_at + PROGRESS_PERIOD - time.monotonic()
        if wait > 0:
            self._is_due = True
            self._later(wait, self._tell_late)
            return
        self._told_at, self._told = time.monotonic(), self._progress
        self._notes.send("progress", progress=describe(self._progress))

    def _tell_late(self) -> None:
        self._is_due = False
        if self._progress is not None and self._progress is not self._told:
            self._told_at, self._told = time.monotonic(), self._progress
            self._notes.send("progress", progress=describe(self._progress))


def is_plain(progress: Any) -> bool:
    """Say whether describing it runs no code but ours and the interpreter's."""
    if type(progress) is tuple:
        return all(type(item) in PLAIN for item in progress)
    return type(progress) in PLAIN


def describe(progress: Any) -> str:
    """Return what code said about its progress, as words."""
    if isinstance(progress, tuple) and len(progress) == 2:
        return f"{progress[0]} of {progress[1]}"[:PROGRESS_CHARS]
    if isinstance(progress, float) and 0 <= progress <= 1:
        return f"{progress:.1%}"
    return str(progress)[:PROGRESS_CHARS]
