"""Enter the walls of a kernel, then become its interpreter: ``enter LAUNCH_FILE``.

An interpreter runs code before its first line: ``site`` reads ``.pth`` files, the user's
``sitecustomize``, the loader its libraries. Where these are a session's to write (a virtual
environment in the workspace), they must find the walls standing. So this runs in the server's
own interpreter, isolated and without ``site``, and all that needs to be outside of the walls
is done by it: the lifeline, the limits, the sockets that listen. The new program inherits them.
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
from typing import Any, NoReturn

from ..processes import DOOR_FD, HAS_DOOR, inherit_orphans
from ..walls import guard, limits

F_SETSIG = 10  # Linux; the fcntl module has no name for it
CHANNELS = ("shell", "stdin", "control", "iopub")
BRANCHES = 6  # number of the socket at which a kernel is asked for copies of it
BACKLOG = 100


def main(launch_file: str) -> NoReturn:
    """Enter the walls of a launch, and become the kernel's interpreter in them."""
    with open(launch_file, encoding="utf-8") as file:
        launch = json.load(file)
    walls, listeners = enter(launch, DOOR_FD if os.environ.get(HAS_DOOR) else -1)
    walls.check()
    for fd in listeners.values():
        os.set_inheritable(fd, True)
    program, *arguments = launch["kernel"]
    os.execve(program, [program, *arguments, json.dumps(listeners)], launch["env"])


def enter(launch: dict[str, Any], door: int = -1) -> tuple[guard.Walls, dict[int, int]]:
    """Enter the walls of a launch; from here on no thread of this process is outside of them.

    Args:
        launch: What is launched.
        door: Descriptor of a socket to who keeps its door; -1: it has none.

    Returns:
        The walls, and descriptors of the sockets that listen for the kernel, by port; none
        where there are no walls, since the kernel can make its own.
    """
    if os.getpgrp() != os.getpid():  # in a box: the first in it, which ends it, has its own group
        os.setsid()
    hold_on_to(launch["lifeline"])
    os.makedirs(launch["cwd"], exist_ok=True)  # a cell may have removed it
    os.chdir(launch["cwd"])
    plan = launch["walls"]
    walls = guard.Walls(plan, door)
    limits.enter(plan["limits"], starting=limits.STARTING)
    walls.enter()
    # Configuration and packages of the session run soon, so no socket is made after this.
    listeners = bind_channels(launch["connection"]) if walls.stand else {}
    if launch["branches"]:
        listeners[BRANCHES] = bind_door(launch["connection_file"])
    walls.close_sockets()
    return walls, listeners


def hold_on_to(lifeline: str) -> None:
    """Have Linux kill this process group when nobody holds the other end of a FIFO any more.

    The server holds it, and the fork server, which gives a new server time to come. When
    both are gone nobody could end this kernel; then the operating system does, also while
    native code holds the interpreter, and whatever program this process becomes.
    """
    if not lifeline:
        return
    keep_lifeline(os.open(lifeline, os.O_RDONLY | os.O_NONBLOCK))


def keep_lifeline(fd: int) -> None:
    """Be killed, with this process group, when nobody holds the other end; see `hold_on_to`."""
    inherit_orphans()  # what our children leave behind stays in our tree
    end_without(fd)


def end_without(fd: int) -> None:
    """Be killed, with this process group, when nobody holds the other end of a FIFO."""
    os.set_inheritable(fd, True)
    fcntl.fcntl(fd, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(fd, F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
    with contextlib.suppress(BlockingIOError):
        os.read(fd, 1)  # it blocks while somebody is there
        os._exit(0)  # they went before we asked


def bind_door(connection_file: str) -> int:
    """Listen where a server asks for copies of this kernel; return the descriptor."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(f"{connection_file.removesuffix('.json')}-{BRANCHES}")
    listener.listen(BACKLOG)
    return listener.detach()


def bind_channels(connection: dict[str, Any]) -> dict[int, int]:
    """Listen where the kernel's channels shall be; return the descriptors by port."""
    listeners = {}
    for channel in CHANNELS:
        port = connection[f"{channel}_port"]
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{connection['ip']}-{port}")
        listener.listen(BACKLOG)
        listeners[port] = listener.detach()
    return listeners
