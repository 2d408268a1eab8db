"""Checkpoints in the kernel: save the namespace in a forked child, put one back.

Both are asked for on the shell channel, so that they come between two cells. The child has a
copy of the namespace as it was at the fork and writes it while the kernel goes on; only the
fork itself holds the kernel up. What became of it, it says on a pipe, at which the control
thread listens: ``saved`` of `Checkpoints` (an operation of helper.py) answers when it is known.
"""

import asyncio
import contextlib
import gc
import io
import json
import os
import signal
import sys
import time
import warnings
from typing import Any, BinaryIO

from ..processes import OWN_FILE
from ..steering import answering
from .restoring import read_snapshot
from .snapshot import (
    SnapshotError,
    load_cloudpickle,
    reason_of,
    user_names,
    write_snapshot,
)
from .surroundings import generators

NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | OWN_FILE
KEPT_OUTCOMES = 16  # of savings that nobody has asked about
READ_BYTES = 1 << 16
ABANDONED = "nobody waits for it any more"


class Saving:
    """A child that writes, as the control thread sees it."""

    def __init__(self, pid: int, fd: int, loop: Any) -> None:
        self.pid = pid
        self._fd = fd
        self._loop = loop
        self._said = b""
        self._waiting: list[asyncio.Future[dict[str, Any]]] = []
        self._outcome: dict[str, Any] | None = None

    def listen(self) -> None:
        """Begin; called in the control thread."""
        self._loop.add_reader(self._fd, self._hear)

    async def outcome(self) -> dict[str, Any]:
        """Return what the child said, when it has."""
        if self._outcome is None:
            self._waiting.append(self._loop.create_future())
            return await self._waiting[-1]
        return self._outcome

    def kill(self) -> None:
        """End the child; it is not reaped yet, so the pid is its own."""
        if self._outcome is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def _hear(self) -> None:
        data = os.read(self._fd, READ_BYTES)
        self._said += data
        if data and not data.endswith(b"\n"):
            return
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        status = 0
        with contextlib.suppress(ChildProcessError):  # a cell waits for all its children
            _, status = os.waitpid(self.pid, 0)
        self._outcome = outcome_of(self._said, status)
        for future in self._waiting:
            if not future.done():
                future.set_result(self._outcome)


def outcome_of(said: bytes, status: int) -> dict[str, Any]:
    """Return what became of a saving, by its child's words or its end."""
    if said.endswith(b"\n"):
        outcome: dict[str, Any] = json.loads(said)
        return outcome
    code = os.waitstatus_to_exitcode(status)
    ended = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return {"error": f"the process that wrote it ended ({ended})"}


class Checkpoints:
    """The handlers of ``kernelry_checkpoint`` and ``kernelry_restore``; one per kernel.

    Args:
        kernel: The kernel.
        cloudpickle: Folder of the package.
    """

    def __init__(self, kernel: Any, cloudpickle: str) -> None:
        self._kernel = kernel
        self._cloudpickle = cloudpickle
        self._savings: dict[str, Saving | dict[str, Any]] = {}
        self._generators: dict[str, Any] = {}
        kernel.shell_handlers["kernelry_checkpoint"] = answering(kernel, self.save, why)
        kernel.shell_handlers["kernelry_restore"] = answering(kernel, self.restore, why)

    def save(self, id: str, path: str) -> dict[str, Any]:
        """Begin to write the namespace to a file, and return how long that took.

        Args:
            id: For `saved` and `abandon`.
            path: The file, which must not be there.
        """
        began = time.perf_counter()
        if id in self._savings:
            raise SnapshotError(ABANDONED)
        while len(self._savings) >= KEPT_OUTCOMES:
            del self._savings[next(iter(self._savings))]
        self._generators = generators()  # Python gives a forked child other random numbers
        read_fd, write_fd = os.pipe()
        try:
            with warnings.catch_warnings():
                # Of other threads the child has none; what they held it does without.
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
        except (OSError, AttributeError):  # too many processes, or no such thing here
            os.close(read_fd)
            os.close(write_fd)
            self._savings[id] = self._outcome(path)
        else:
            if pid == 0:
                self._be_child(path, write_fd)
            os.close(write_fd)
            loop = self._kernel.control_thread.io_loop.asyncio_loop
            saving = self._savings[id] = Saving(pid, read_fd, loop)
            loop.call_soon_threadsafe(saving.listen)
        return {"blocked": time.perf_counter() - began}

    async def saved(self, id: str) -> dict[str, Any]:
        """Return what became of a saving, when it is over; called in the control thread."""
        saving = self._savings.get(id)
        if saving is None:
            return {"error": "the kernel knows nothing of it"}
        outcome = saving if isinstance(saving, dict) else await saving.outcome()
        self._savings.pop(id, None)
        return outcome

    def abandon(self, id: str) -> dict[str, Any]:
        """End a saving that nobody wants any more, or see that it does not begin."""
        saving = self._savings.setdefault(id, {"error": ABANDONED})
        if isinstance(saving, Saving):
            saving.kill()
        return {}

    def restore(self, path: str, clear: bool) -> dict[str, Any]:
        """Put what a file holds into the namespace: all that can be made again, or nothing.

        Args:
            path: The file.
            clear: Whether to remove the other variables.
        """
        load_cloudpickle(self._cloudpickle)
        shell = self._kernel.shell
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | OWN_FILE), "rb") as file:
            values, told = self._kernel.as_user_code(lambda: read_snapshot(file, shell.user_ns))
        if clear:
            for name in user_names(shell.user_ns, shell.user_ns_hidden):
                del shell.user_ns[name]
        shell.user_ns.update(values)
        return {"restored": sorted(values), **told}

    def _be_child(self, path: str, fd: int) -> None:
        """Write, tell what became of it, and end without any of the kernel's own ends."""
        try:
            gc.disable()  # no finalizer of the kernel's objects shall run, no page be copied
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is meant for cells
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            sys.stdout = sys.stderr = io.StringIO()  # what pickling prints is nobody's
            data = json.dumps(self._outcome(path)).encode() + b"\n"
            while data:
                data = data[os.write(fd, data) :]
        finally:
            os._exit(0)

    def _outcome(self, path: str) -> dict[str, Any]:
        try:
            cloudpickle = load_cloudpickle(self._cloudpickle)
            shell = self._kernel.shell
            names = user_names(shell.user_ns, shell.user_ns_hidden)
            return write_snapshot(
                path, shell.user_ns, names, cloudpickle, open_new, self._generators
            )
        except SnapshotError as error:
            return {"error": str(error)}
        except BaseException as error:
            return {"error": reason_of(error)}


def open_new(path: str) -> BinaryIO:
    """Make a file that was not there."""
    return open(os.open(path, NEW_FILE, 0o600), "wb", buffering=1 << 20)


def why(error: BaseException) -> str:
    """Say why something was not saved or restored."""
    return str(error) if isinstance(error, SnapshotError) else reason_of(error)
