"""A copy of a kernel that waits as it is: forked again whenever somebody wants what it has.

It has one thread, no channel and no event loop, and runs nothing, so all that it has stays as it
was. What its origin changes later is copied by the operating system, page by page.
"""

import contextlib
import os
import socket
from typing import Any

from .becoming import Branched
from .forking import Asked, answer, fork, take


def wait_frozen(listener: int) -> Branched:
    """Fork this process for each request; returns in a copy that is to become a kernel.

    Args:
        listener: Descriptor of the socket at which it is asked.
    """
    with socket.socket(fileno=listener) as listening:
        try:
            while True:
                if (asked := take(listening)) is not None:
                    answer(asked, serve)
        except Branched as branched:
            copy = branched
    return copy


def serve(asked: Asked) -> dict[str, Any]:
    """Do what is asked; in the copy that was asked for this raises `Branched`."""
    if ended := asked.request.get("reap"):
        with contextlib.suppress(ChildProcessError):
            os.waitpid(ended, os.WNOHANG)
        return {}
    return {"pid": fork(asked), "against": [], "named": []}
