"""The door at which a kernel is asked to fork itself, and the fork.

The server connects to a socket beside those of the channels, and hands in what the copy shall
have: descriptors of its launch file, its ready pipe, its lifeline, and the sockets at which it
listens. The fork is made on the main thread, in a callback of its event loop, while no cell runs.
"""

import contextlib
import functools
import io
import json
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn

from tornado.ioloop import IOLoop

from ..processes import kill
from ..walls import guard
from . import hazards
from .becoming import Branched, Opened

PACKET_BYTES = 1 << 16
DESCRIPTORS = 16  # taken with one request
PAUSE = 0.1  # seconds until it is tried again
SAFE_POINT = "safe_point"  # where a request asks to be served while code runs
HALF_RUN = "the execution that runs, which is not gone on with in it"
ASKED = 5.0  # seconds that whoever connects has to say what it wants


class Asked(NamedTuple):
    """A request for a copy of this process."""

    #: to whoever asks
    connection: socket.socket
    #: what is wanted
    request: dict[str, Any]
    #: what the copy shall have
    fds: list[int]

    @property
    def is_gone(self) -> bool:
        """Say whether whoever asked does not wait any more."""
        try:
            return not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        """Close the connection and what came over it."""
        self.connection.close()
        for fd in self.fds:
            os.close(fd)


class Requests:
    """Those that are not served yet: they come in the control thread, and wait for the main one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Asked] = []

    def add(self, asked: Asked) -> None:
        """Keep one, and none any more of those that have asked and went."""
        with self._lock:
            for other in [one for one in self._waiting if one.is_gone]:
                self._waiting.remove(other)
                other.close()
            self._waiting.append(asked)

    def claim(self, asked: Asked) -> bool:
        """Say whether one is to be served, now."""
        with self._lock:
            if asked not in self._waiting:
                return False
            self._waiting.remove(asked)
            if asked.is_gone:
                asked.close()
                return False
            return True

    @property
    def files(self) -> set[int]:
        """The descriptors of all that wait."""
        return {fd for one in self._waiting for fd in (*one.fds, one.connection.fileno())}

    def forget(self) -> None:
        """Close all of them, in a copy: they are its origin's."""
        for one in self._waiting:  # another thread may have had the lock, which is nobody's here
            one.close()
        self._waiting.clear()


class Branching:
    """Takes requests for copies of one kernel.

    Args:
        app: The kernel's application, about to start.
        launch: What kernel it is.
        listener: Descriptor of the socket at which it is asked.
        opened: What the kernel has opened itself.
        go_on: Makes a copy, in which code of the user's is half-run, a kernel; never returns.
    """

    def __init__(
        self,
        app: Any,
        launch: dict[str, Any],
        listener: int,
        opened: Opened,
        go_on: Callable[[Branched, Opened], NoReturn],
    ) -> None:
        self._go_on = go_on
        self._requests = Requests()
        self._app = app
        self._launch = launch
        self._listener = socket.socket(fileno=listener)
        self._opened = opened
        self._threads = set(threading.enumerate())
        # Whatever they are called: a thread of ZeroMQ that has just begun has no name yet.
        self._wires = len(list(hazards.native_threads()))
        self._loop = IOLoop.current().asyncio_loop  # type: ignore[attr-defined]
        control = app.kernel.control_thread.io_loop
        control.add_callback(control.add_handler, listener, self._accept, IOLoop.READ)

    def _accept(self, listener: int, events: int) -> None:
        """Take a request; in the control thread."""
        if (asked := take(self._listener)) is None:
            return
        self._requests.add(asked)
        if asked.request.get("at") == SAFE_POINT:
            points = self._app.kernel.safe_points
            points.invite(functools.partial(self._visit, asked))
            self._loop.call_soon_threadsafe(points.attend)
        else:
            self._loop.call_soon_threadsafe(self._serve, asked)

    def _serve(self, asked: Asked) -> None:
        """Fork between two cells; the copy leaves this by `Branched`."""
        if self._requests.claim(asked):
            answer(asked, self._fork)

    def _visit(self, asked: Asked) -> None:
        """Fork where code lets us: the copy goes on from here, and never back into that code."""
        if self._app.kernel.helper.running is None:
            self._serve(asked)
            return
        try:
            with interrupts_later():
                self._serve(asked)
            return
        except Branched as branched:
            copy = branched
        # Outside of the handler: a cell's exception must not have ours as its context.
        self._go_on(copy, self._opened)

    def _fork(self, asked: Asked) -> dict[str, Any]:
        """Fork, if nothing stands against it; on the main thread."""
        kernel = self._app.kernel
        runs = kernel.helper.running
        if runs and asked.request.get("at") != SAFE_POINT:
            return {"error": "it runs code"}
        if getattr(kernel, "debugger", None) is not None:
            return {"against": ["a debugger is attached"], "named": []}
        if against := stands_against(asked.request, self._launch):
            return {"against": [against], "named": []}
        found = self._look(asked)
        if any(line.endswith(hazards.SOCKETS) for line in found.named):
            found = self._look(asked)  # a connection of ours may have been made between two looks
        if asked.request.get("frozen"):  # what comes of it opens files anew
            found.named = [line for line in found.named if not line.startswith(hazards.FILES)]
        if found.against:
            return {"against": found.against, "named": found.named}
        if runs:
            found.named.insert(0, HALF_RUN)
        flush_files(kernel.shell.user_ns)
        with warnings.catch_warnings():
            # Of other threads a copy has none, which is what was looked at.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = fork(asked, self._requests)
        return {"pid": pid, "against": [], "named": found.named, "inside": runs[0] if runs else ""}

    def _look(self, asked: Asked) -> hazards.Found:
        """Return what stands against a copy, and what it would lack or share."""
        opened = hazards.targets()
        own = {*self._opened.all(opened), *asked.fds, asked.connection.fileno()}
        own |= self._requests.files
        return hazards.look(self._threads, own, self._wires, self._loop, opened)


def stands_against(request: dict[str, Any], launch: dict[str, Any]) -> str:
    """Say why a copy can't be another session's; empty: nothing stands against that.

    Args:
        request: What is asked for.
        launch: What the kernel was launched with.
    """
    moves = request["directory"] != launch["directory"]
    if moves and not guard.can_narrow(launch["walls"]):
        return "its walls can't be narrowed here, which takes Linux 6.12 with Landlock"
    return ""


def take(listener: socket.socket) -> Asked | None:
    """Return the next request; None: whoever connected says nothing that can be read."""
    try:
        connection, _ = listener.accept()
    except OSError:  # no descriptor is left, and whoever asks still does
        time.sleep(PAUSE)
        return None
    fds: list[int] = []
    try:
        connection.settimeout(ASKED)
        data, fds, _, _ = socket.recv_fds(connection, PACKET_BYTES, DESCRIPTORS)
        for fd in fds:  # no program that a thread starts meanwhile shall have them
            os.set_inheritable(fd, False)
        connection.settimeout(None)
        return Asked(connection, json.loads(data), fds)
    except (OSError, ValueError):
        Asked(connection, {}, fds).close()
        return None


def answer(asked: Asked, fork: Callable[[Asked], dict[str, Any]]) -> None:
    """Fork, and say what came of it; what is forked leaves this by `Branched`."""
    interrupted: BaseException | None = None
    try:
        told: dict[str, Any] = fork(asked)
    except Branched:
        raise
    except BaseException as error:  # whatever it is, the asker must hear of it
        told = {"error": f"{type(error).__name__}: {error}"}
        interrupted = None if isinstance(error, Exception) else error
    try:
        asked.connection.send(json.dumps(told).encode())
    except OSError:
        if pid := told.get("pid"):  # nobody will ever know of it
            kill(pid)
            os.waitpid(pid, 0)
    asked.close()
    if interrupted is not None:
        raise interrupted


@contextlib.contextmanager
def interrupts_later() -> Iterator[None]:
    """Have code that runs hear of interrupts only afterwards; on the main thread."""
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if heard:
        signal.raise_signal(signal.SIGINT)


def fork(asked: Asked, others: Requests | None = None) -> int:
    """Fork this process for a request; return the copy's pid, and raise `Branched` in it.

    Args:
        asked: The request.
        others: Those that are to be served later, by this process.
    """
    copy = Branched(asked.request, asked.fds, asked.connection)
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()  # first: so it is ended alone
            if others is not None:
                others.forget()
        finally:
            raise copy
    return pid


def flush_files(namespace: dict[str, Any]) -> None:
    """Write what open files of a namespace have in memory, which both would write else."""
    for value in list(namespace.values()):
        if isinstance(value, io.IOBase) and type(value).__module__ == "_io":
            with contextlib.suppress(OSError, ValueError):  # a full disk, one that is closed
                value.flush()
