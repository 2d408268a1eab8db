"""A short folder for multiprocessing's sockets.

The path of a Unix socket has 107 bytes at most, and a session's temporary folder may take so many
of them that no manager, queue or fork server of ``multiprocessing`` can listen below it: the
process that should ends, and its parent gets an EOFError that says nothing. So its folder of
sockets, and nothing else, is made where there is room: in what is private to the session
and gone with it, or where Python itself would make it.
"""

import functools
import os
import tempfile
from typing import Any

PREFIX = "pymp-"  # of what multiprocessing.util.get_temp_dir makes
OWN_BYTES = 40  # of the names that multiprocessing adds
LIMIT = 107
PLACES = ("/tmp", "/dev/shm")  # in a box both are the session's own, at guard the second one is


def make_room() -> None:
    """Have multiprocessing make its folder where its sockets have room; before it is asked for."""
    folder = os.fsencode(tempfile.gettempdir())
    if len(folder) + OWN_BYTES <= LIMIT:
        return
    make = tempfile.mkdtemp

    @functools.wraps(make)
    def mkdtemp(suffix: Any = None, prefix: Any = None, dir: Any = None) -> Any:
        for place in PLACES if prefix == PREFIX else ():
            try:
                return make(suffix, prefix, place)
            except OSError:  # not at this level
                continue
        return make(suffix, prefix, dir)

    tempfile.mkdtemp = mkdtemp
