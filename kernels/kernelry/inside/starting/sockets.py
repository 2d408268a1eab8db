"""A short folder for multiprocessing's sockets.

The path of a Unix socket has 107 bytes at most, and a session's temporary folder may take so many
of them that no manager, queue or fork server of ``multiprocessing`` can listen below it: the
process that should ends, and its parent gets an EOFError that says nothing. So its folder of
sockets, and nothing else, is made where there is room: in what is private to the session
and gone with it, or where Python itself would make it.
"""

import functools
import os
import secrets
import tempfile
from typing import Any

PREFIX = "pymp-"  # of what multiprocessing.util.get_temp_dir makes
OWN_BYTES = 40  # of the names that multiprocessing adds
LIMIT = 107
PLACES = ("/tmp", "/dev/shm")  # in a box both are the session's own, at guard the second one is
TRIES, SHORT = 20, 10
MADE = "kernelry_room"  # attribute of what we have put in the place of a function
#: where there is room; a copy's is its own, in its origin's
places: list[str] = list(PLACES)


def make_room() -> None:
    """Have multiprocessing make its folder where its sockets have room; before it is asked for."""
    folder = os.fsencode(tempfile.gettempdir())
    make = tempfile.mkdtemp
    if len(folder) + OWN_BYTES <= LIMIT or hasattr(make, MADE):
        return

    @functools.wraps(make)
    def mkdtemp(suffix: Any = None, prefix: Any = None, dir: Any = None) -> Any:
        for place in places if prefix == PREFIX else ():
            try:
                return make(suffix, prefix, place)
            except OSError:  # not at this level
                continue
        return make(suffix, prefix, dir)

    setattr(mkdtemp, MADE, True)
    tempfile.mkdtemp = mkdtemp


def own_room() -> list[str]:
    """Make a folder of a copy's own where its origin has room, before its walls are narrowed.

    Returns:
        The folder, with a short name, or nothing: its origin has none that is private.
    """
    for number in range(TRIES):  # most names are taken when there are many, or somebody takes them
        folder = os.path.join(places[-1], secrets.token_hex(1 if number < SHORT else 4))
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            continue
        except OSError:  # everybody's, where no folder can be made
            return []
        places[:] = [folder]
        return [folder]
    return []
