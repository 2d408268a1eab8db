"""What a copy of a kernel does to be a kernel of its own, before it runs anything.

It has all that its origin had in memory, and nothing else is to be its origin's: not its sockets,
files, process group, lifeline, folders or names. What the origin has opened for itself is put
out of reach first. Numbers of descriptors are not closed but given to /dev/null: objects of the
origin's still know them, and what they would close or take out of an event loop is shared.
"""

import asyncio
import atexit
import ctypes
import gc
import json
import os
import signal
import socket
import sys
import tempfile
import weakref
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import zmq

from ..calls import libc
from ..processes import descriptors
from ..saving import generators
from .hazards import MARK, is_file, targets

GO = b"1"  # what the server says when it looks after the copy
ENV_START = 50  # field of /proc/self/stat: where the variables are that it was started with
#: what the origin had, and nobody may end: its context of sockets, its event loops
left_behind: list[Any] = []
#: descriptors that were the origin's own, and are /dev/null's
given_up: set[int] = set()
#: how much was added to the limit of recursion
room: list[int] = []
STDERR = 2
ADDRESS_BYTES = 128  # no address is longer


class Branched(SystemExit):
    """Raised in the copy, to leave the event loop (which lets it through) on a clean stack."""

    def __init__(self, request: dict[str, Any], fds: list[int], connection: socket.socket) -> None:
        super().__init__(1)
        #: whether it is to wait, as it is, until copies of it are wanted
        self.is_frozen: bool = request.get("frozen", False)
        #: whether it is another session's, and draws other numbers than what it is a copy of
        self.is_branch: bool = request.get("branch", False)
        #: the numbers that its generators would have drawn; a fork gives it others
        self.generators = generators() if self.is_frozen else {}
        #: where the code is in its files; the origin goes on in them
        self.positions = positions() if self.is_frozen else {}
        self.ready_fd, self.lifeline_fd = fds[1], fds[2]
        self.ports: list[int] = request["ports"]
        self._fds = fds
        self._connection = connection

    @property
    def given(self) -> list[int]:
        """All descriptors that were handed in."""
        return [*self._fds, self._connection.fileno()]

    @property
    def listeners(self) -> dict[int, int]:
        """Descriptors of the sockets at which the copy listens, by port."""
        return dict(zip(self.ports, self._fds[3:], strict=True))

    def launch(self) -> dict[str, Any]:
        """Return what kernel it shall be, when somebody looks after it; end if nobody does.

        Nothing of the origin's is to be ended with it: no orderly end.
        """
        try:
            self._connection.settimeout(None)
            if self._connection.recv(1) != GO:
                os._exit(0)
            self._connection.close()
            with open(self._fds[0], encoding="utf-8") as file:
                launch: dict[str, Any] = json.load(file)
        except BaseException:  # whoever asked is gone, or has said nothing that can be read
            os._exit(1)
        return launch


@dataclass(frozen=True, slots=True)
class Opened:
    """What a kernel has opened for itself: nothing that its code has."""

    #: descriptors
    files: frozenset[int]
    #: path prefix of its sockets
    sockets: str

    def give_up(self) -> set[int]:
        """Put all of it out of this process's reach; return the numbers: each is /dev/null's then.

        What the origin's origin had got the same way is closed: nothing knows these any more.
        """
        closed = {fd for fd in given_up if target_of(fd) == os.devnull}
        for fd in closed:
            os.close(fd)
        own = self.all(targets()) - closed
        given_up.clear()
        given_up.update(own)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for fd in given_up:
            os.dup2(null, fd, inheritable=False)
        if null not in given_up:
            os.close(null)
        return own | closed

    def all(self, opened: Mapping[int, str]) -> set[int]:
        """Return all its descriptors, also those of connections to its sockets since.

        Each of those has that one's path. (/proc/net/unix does not show in a box who connects from
        outside.)

        Args:
            opened: What this process has open, as `targets` says it.
        """
        sockets = (fd for fd, target in opened.items() if target.startswith("socket:"))
        connected = (fd for fd in sockets if path_of_socket(fd).startswith(self.sockets))
        return {*self.files, *connected}


def positions() -> dict[int, int]:
    """Return where in files all descriptors are that are of files, but for those of the streams."""
    files = (fd for fd, target in targets().items() if fd > STDERR and target.startswith("/"))
    return {fd: os.lseek(fd, 0, os.SEEK_CUR) for fd in files if is_file(fd)}


def path_of_socket(fd: int) -> str:
    """Return the path of a Unix socket; empty: it has none, or is something else."""
    address = ctypes.create_string_buffer(ADDRESS_BYTES)
    size = ctypes.c_uint(ADDRESS_BYTES)
    if libc.getsockname(fd, address, ctypes.byref(size)) or size.value > ADDRESS_BYTES:
        return ""
    family, path = address.raw[:2], address.raw[2 : size.value]
    is_unix = int.from_bytes(family, sys.byteorder) == socket.AF_UNIX
    return os.fsdecode(path.split(b"\0", 1)[0]) if is_unix else ""


def target_of(fd: int) -> str:
    """Return what a descriptor is of; empty if it is none."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def leave(app: Any, opened: Opened, given: Collection[int]) -> frozenset[int]:
    """Have nothing more to do with the origin, in a copy of it that still has all of it.

    Args:
        app: The origin's application.
        opened: What the origin has opened for itself.
        given: Descriptors that were handed in for the copy.

    Returns:
        The descriptors of the code.
    """
    gc.disable()  # a collection would copy pages that are shared
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    there = descriptors() - set(given)
    kernel = app.kernel
    left_behind.append((app.context, kernel, app.iopub_thread, app.control_thread))
    left_behind.append((asyncio.get_event_loop_policy(), kernel.io_loop))
    if kernel.helper.running is not None:
        leave_cell(app)
    own = opened.give_up()
    forget_ends()
    return there - own


def leave_cell(app: Any) -> None:
    """Have nothing more to do with a cell that is half-run: its frames stay as they are, for ever.

    They are below us on the stack: so much more room is given to what runs above them.
    """
    loop = app.kernel.io_loop.asyncio_loop
    if (task := asyncio.current_task(loop)) is not None:
        asyncio.tasks._leave_task(loop, task)
    app.shell.set_aside()
    depth, frame = 0, sys._getframe()
    while frame := frame.f_back:  # type: ignore[assignment]
        depth += 1
    limit = sys.getrecursionlimit() - sum(room)
    room[:] = [depth]
    sys.setrecursionlimit(limit + depth)


def become(app: Any, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Get ready to be a kernel of its own, in a copy that has left its origin.

    Args:
        app: The origin's application, whose shell is kept.
        old: What the origin was launched with.
        new: What this kernel shall be.
    """
    asyncio.events._set_running_loop(None)
    asyncio.set_event_loop(asyncio.new_event_loop())
    zmq.Context._instance = None
    app.kernel.touched.forget()
    app.renew()
    carry_over(app.profile_dir, old, new)
    gc.enable()


def forget_ends() -> None:
    """Do nothing at this process's end that is the origin's to do: its children live on.

    This is what multiprocessing does in a process that it has forked itself.
    """
    atexit._clear()
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        finalizer.atexit = False
    if process := sys.modules.get("multiprocessing.process"):
        process._children.clear()
        process.current_process()._config.pop("tempdir", None)
    if util := sys.modules.get("multiprocessing.util"):
        util._finalizer_registry.clear()
        util._run_after_forkers()


def carry_over(profile: Any, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Put the folders and names of another session in the place of the origin's."""
    rename(os.path.basename(old["connection_file"]), os.path.basename(new["connection_file"]))
    for name, value in new["env"].items():
        if os.environ.get(name) == old["env"].get(name):  # else the code has changed it
            os.environ[name] = value
    before, after = old["directory"], new["directory"]
    if before == after:  # and no page of any module is touched
        return

    def moved(path: Any) -> Any:
        is_below = type(path) is str and path.startswith(before + os.sep)
        return after + path[len(before) :] if is_below else path

    os.environ["PATH"] = os.pathsep.join(map(moved, os.environ.get("PATH", "").split(os.pathsep)))
    sys.path[:] = map(moved, sys.path)
    tempfile.tempdir = moved(tempfile.tempdir)
    profile._location_isset = False
    profile.location = moved(profile.location)
    for module in list(sys.modules.values()):
        if (
            type(module) is ModuleType
            and moved(file := module.__dict__.get("__file__")) is not file
        ):
            move_module(module.__dict__, moved)


def move_module(names: dict[str, Any], moved: Any) -> None:
    """Let a module that was loaded from the origin's folder find the rest of it in the copy's."""
    spec = names.get("__spec__")
    for holder in (
        names,
        getattr(spec, "__dict__", {}),
        getattr(names.get("__loader__"), "__dict__", {}),
    ):
        for name, value in list(holder.items()):
            if type(value) is list and name in ("__path__", "submodule_search_locations"):
                value[:] = map(moved, value)
            elif type(value) is str and moved(value) is not value:
                holder[name] = moved(value)


def rename(old: str, new: str) -> None:
    """Carry another kernel's mark: whoever ends what the origin has left must not find us by it.

    The variables that a process was started with are in its own memory, and nowhere else.
    """
    was, now = (MARK + name.partition(".")[0].encode() for name in (old, new))
    with open("/proc/self/environ", "rb") as file:
        at = (b"\0" + file.read()).find(b"\0" + was + b"\0")
    if at < 0 or len(was) != len(now):
        return
    with open("/proc/self/stat", "rb") as file:
        start = int(file.read().rpartition(b")")[2].split()[ENV_START - 3])
    ctypes.memmove(start + at, now, len(now))
