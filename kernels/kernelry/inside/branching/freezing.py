"""A copy of a kernel that waits as it is: forked again whenever somebody wants what it has.

It has one thread, no channel and no event loop, and runs nothing, so all that it has stays as it
was. What its origin changes later is copied by the operating system, page by page.
"""

import contextlib
import fcntl
import os
import socket
from collections.abc import Mapping
from typing import Any

from .becoming import Branched
from .forking import Asked, answer, fork, stands_against, take


def wait_frozen(listener: int, launch: dict[str, Any], files: Mapping[int, int]) -> Branched:
    """Fork this process for each request; returns in a copy that is to become a kernel.

    Args:
        listener: Descriptor of the socket at which it is asked.
        launch: What this is.
        files: Descriptors of files of the code, and where in them it was.
    """
    with socket.socket(fileno=listener) as listening:
        try:
            while True:
                if (asked := take(listening)) is not None:
                    answer(asked, lambda asked: serve(asked, launch))
        except Branched as branched:
            copy = branched
    for fd, position in files.items():
        reopen(fd, position)
    return copy


def reopen(fd: int, position: int) -> None:
    """Have a file open as it was: the origin goes on with the one that is shared, and moves in it.

    One that can't be opened any more stays the shared one.
    """
    with contextlib.suppress(OSError):
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        own = os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC)
        try:
            os.lseek(own, position, os.SEEK_SET)
            os.dup2(own, fd, inheritable=os.get_inheritable(fd))
        finally:
            os.close(own)


def serve(asked: Asked, launch: dict[str, Any]) -> dict[str, Any]:
    """Do what is asked; in the copy that was asked for this raises `Branched`."""
    if ended := asked.request.get("reap"):
        with contextlib.suppress(ChildProcessError):
            os.waitpid(ended, os.WNOHANG)
        return {}
    if against := stands_against(asked.request, launch):
        return {"against": [against], "named": []}
    return {"pid": fork(asked), "against": [], "named": []}
