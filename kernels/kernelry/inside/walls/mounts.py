"""A ``/dev/shm`` of this process's own, and of all that it starts.

That of the machine is everybody's: names in it can be guessed, files stay there when who made
them has ended, and what is open for moments only nobody can count. A tmpfs in a mount namespace
of this process is its own, of a bounded size, seen from outside as a whole, and gone with it.

Root makes the namespace as it is; an ordinary user within a user namespace, which not every
machine allows. Where it can't be had, the machine's is used.
"""

import os
from functools import cache

from ..calls import checked, libc

PLACE = "/dev/shm"
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_NOSUID, MS_NODEV, MS_REC, MS_SLAVE = 2, 4, 1 << 14, 1 << 19
MODE = "1777"
MAPS = (("setgroups", "deny"), ("uid_map", "{uid} {uid} 1"), ("gid_map", "{gid} {gid} 1"))


def own_shared_memory(size: int) -> bool:
    """Mount a tmpfs of our own at ``/dev/shm``, if that can be had; say whether it is there.

    This process must have one thread, and no walls yet: these refuse it.

    Args:
        size: Bytes that can be written there.
    """
    try:
        if os.getuid() == 0:
            try:
                mount(size, CLONE_NEWNS)
                return True
            except PermissionError:  # root of a container is not allowed everything
                pass
        if not is_possible():
            return False
        mount(size, CLONE_NEWNS | CLONE_NEWUSER)
        return True
    except OSError:
        return False


@cache
def is_possible() -> bool:
    """Say whether an ordinary user can have one here.

    Tried in a child: who has entered a user namespace that gives nothing is nobody in there.
    What a fork server has found out its kernels know.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            mount(1 << 20, CLONE_NEWNS | CLONE_NEWUSER)
            code = 0
        except OSError:
            pass
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1] == 0


def mount(size: int, flags: int) -> None:
    """Enter new namespaces and mount a tmpfs there.

    Raises:
        OSError: It is not allowed here, or there is no such folder.
    """
    names = {"uid": os.getuid(), "gid": os.getgid()}
    checked(libc.unshare(flags))
    for name, text in MAPS if flags & CLONE_NEWUSER else ():
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text.format(**names))
    # Ours is seen by nobody else; what is mounted elsewhere later is seen here.
    checked(libc.mount(None, b"/", None, MS_REC | MS_SLAVE, None))
    options = f"size={size},mode={MODE}".encode()
    checked(libc.mount(b"tmpfs", PLACE.encode(), b"tmpfs", MS_NOSUID | MS_NODEV, options))
