"""The door at which a kernel is asked to fork itself, and the fork.

The server connects to a socket beside those of the channels, and hands in what the copy shall
have: descriptors of its launch file, its ready pipe, its lifeline, and the sockets at which it
listens. The fork is made on the main thread, in a callback of its event loop, while no cell runs.
"""

import contextlib
import io
import json
import os
import socket
import threading
import warnings
from typing import Any

from tornado.ioloop import IOLoop

from ..processes import kill
from . import hazards
from .becoming import Branched, Opened

PACKET_BYTES = 1 << 16
DESCRIPTORS = 16  # taken with one request
ASKED = 5.0  # seconds that whoever connects has to say what it wants


class Branching:
    """Takes requests for copies of one kernel.

    Args:
        app: The kernel's application, about to start.
        listener: Descriptor of the socket at which it is asked.
        opened: What the kernel has opened itself.
    """

    def __init__(self, app: Any, listener: int, opened: Opened) -> None:
        self._app = app
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
        connection, _ = self._listener.accept()
        fds: list[int] = []
        try:
            connection.settimeout(ASKED)
            data, fds, _, _ = socket.recv_fds(connection, PACKET_BYTES, DESCRIPTORS)
            for fd in fds:  # no program that a thread starts meanwhile shall have them
                os.set_inheritable(fd, False)
            request = json.loads(data)
        except (OSError, ValueError):
            close(connection, fds)
            return
        self._loop.call_soon_threadsafe(self._answer, connection, request, fds)

    def _answer(self, connection: socket.socket, request: Any, fds: list[int]) -> None:
        """Fork, and say what came of it; on the main thread."""
        try:
            with warnings.catch_warnings():
                # Of other threads a copy has none, which is what is looked at.
                warnings.simplefilter("ignore", DeprecationWarning)
                answer: dict[str, Any] = self._fork(connection, request, fds)
        except Exception as error:  # whatever it is, the asker must hear of it
            answer = {"error": f"{type(error).__name__}: {error}"}
        try:
            connection.send(json.dumps(answer).encode())
        except OSError:
            if pid := answer.get("pid"):  # nobody will ever know of it
                kill(pid)
                os.waitpid(pid, 0)
        close(connection, fds)

    def _fork(self, connection: socket.socket, request: Any, fds: list[int]) -> dict[str, Any]:
        kernel = self._app.kernel
        if kernel.helper.running is not None:
            return {"error": "it runs code"}
        if getattr(kernel, "debugger", None) is not None:
            return {"against": ["a debugger is attached"], "named": []}
        own = {*self._opened.all(), *fds, connection.fileno()}
        found = hazards.look(self._threads, own, self._wires, self._loop)
        if found.against:
            return {"against": found.against, "named": found.named}
        flush_files(kernel.shell.user_ns)
        pid = os.fork()
        if pid == 0:
            os.setsid()  # first: so it is ended alone
            raise Branched(request, fds, connection)
        return {"pid": pid, "against": [], "named": found.named}


def flush_files(namespace: dict[str, Any]) -> None:
    """Write what open files of a namespace have in memory, which both would write else."""
    for value in list(namespace.values()):
        if isinstance(value, io.IOBase) and type(value).__module__ == "_io":
            with contextlib.suppress(OSError, ValueError):  # a full disk, one that is closed
                value.flush()


def close(connection: socket.socket, fds: list[int]) -> None:
    """Close a connection and what came over it."""
    connection.close()
    for fd in fds:
        os.close(fd)
