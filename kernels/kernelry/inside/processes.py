"""Processes as Linux shows them: start one, find its family, wait for its end, end it.

No psutil here. Whoever waits believes only real ends: a child can stage stops (by ptrace), and
what it stages is no exit.
"""

import contextlib
import ctypes
import fcntl
import os
import signal
import time
from collections.abc import Collection
from typing import Any

from .calls import open_strictly

READY_FD, DOOR_FD = 3, 4  # where a spawned kernel finds its ready pipe, and who keeps its door
HAS_DOOR = "KERNELRY_DOOR"  # variable that says that there is one
#: a link is no file of a session, and a FIFO without a reader would block
OWN_FILE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
PR_SET_CHILD_SUBREAPER = 36
RLIMIT_LOCKS, HIGHEST_RANK = 10, 1 << 30
LOOKS = 3  # from a thread up to the kernel it belongs to: who is on the way may end meanwhile
PAUSE = 0.002  # seconds between looks at what was killed and is not gone yet


def inherit_orphans() -> None:
    """Become the parent of what our children, and theirs, leave behind."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def spawn(launch: dict[str, Any], ready_fd: int, door: int) -> int:
    """Start the launcher as a fresh process and return its pid.

    Args:
        launch: What is launched.
        ready_fd: A pipe.
        door: A socket to who keeps its door, if it is to have walls.

    Raises:
        OSError: It can't be started.
    """
    log_flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | OWN_FILE
    log = open_strictly(launch["log_file"], launch["walls"]["unfollowed"], log_flags, 0o600)
    actions: list[Any] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, log, 1),
        (os.POSIX_SPAWN_DUP2, log, 2),
        (os.POSIX_SPAWN_DUP2, ready_fd, READY_FD),
    ]
    argv, env = launch["command"], launch["spawn_env"]
    # Not in the way of the numbers that the others get.
    above = fcntl.fcntl(door, fcntl.F_DUPFD_CLOEXEC, DOOR_FD + 1)
    try:
        if launch["walls"]["level"] != "process":
            actions.append((os.POSIX_SPAWN_DUP2, above, DOOR_FD))
            env = env | {HAS_DOOR: "1"}
        return os.posix_spawn(argv[0], argv, env, file_actions=actions, setsid=True)
    finally:
        os.close(above)
        os.close(log)


def start_time(pid: int) -> int:
    """Return when a process was started, in ticks since boot; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


def is_still(pid: int, started: int) -> bool:
    """Say whether a process is the one that was started then; what can't be told is not."""
    return pid > 1 and started > 0 and start_time(pid) == started


def children(pid: int) -> list[int]:
    """Return the pids of the children of all threads of a process."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                found += [int(word) for word in file.read().split()]
    return found


def lower_rank() -> None:
    """Rank below whoever this process is a copy of, and all that it starts with it, for good.

    The rank is the hard limit of a resource that Linux limits no more. It is inherited, shown to
    others, and without a capability can't be raised again: so what a copy has left is told from
    what its origin has started, also when it has become a child of that.
    """
    import resource

    hard = resource.getrlimit(RLIMIT_LOCKS)[1]
    if not 0 < hard < HIGHEST_RANK:
        hard = HIGHEST_RANK
    resource.setrlimit(RLIMIT_LOCKS, (hard - 1, hard - 1))


def rank(pid: int) -> int:
    """Return the rank of a process or thread; 0: it has ended. See `lower_rank`."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/limits", "rb") as file:
        for line in file:
            if line.startswith(b"Max file locks"):
                hard = line.split()[4]
                return min(int(hard), HIGHEST_RANK) if hard.isdigit() else HIGHEST_RANK
    return 0


def family(pid: int, without: Collection[int] = ()) -> list[int]:
    """Return a process and all that descends from it; not through those that are left out."""
    members = [pid]
    for member in members:  # it grows while we go through it
        members += [child for child in children(member) if child not in without]
    return members


def nearest(thread: int, pids: Collection[int]) -> int:
    """Return which of some processes a thread belongs to or descends from, the nearest; 0: none."""
    for _ in range(LOOKS):
        pid = status_number(thread, b"Tgid:")
        while pid > 1 and pid not in pids:
            pid = status_number(pid, b"PPid:")
        if pid in pids:
            return pid
    return 0


def status_number(pid: int, name: bytes) -> int:
    """Return a number that Linux shows of a process or thread; 0: it has ended."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", "rb") as file:
        for line in file:
            if line.startswith(name):
                return int(line.split()[1])
    return 0


def is_shelter(pid: int, kernels: Collection[int]) -> bool:
    """Say whether a process is the first of a box that some kernels are in; it ends with them."""
    box = namespace(pid)
    is_box = box not in ("", namespace(os.getpid()))
    return is_box and any(namespace(other) == box for other in kernels)


def namespace(pid: int) -> str:
    """Return what names the box that a process is in; empty: it has ended."""
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/pid")
    return ""


def kill(pid: int) -> None:
    """Send SIGKILL to a process that may be gone; never to many at once, or to the first."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if pid > 1:
            os.kill(pid, signal.SIGKILL)


def next_end() -> tuple[int, int] | None:
    """Return pid and exit code of a child that has ended; None: none has, or there is none.

    The code is negative for a signal. A child that only stops, since it had itself traced by
    its parent (PTRACE_TRACEME), is killed: nobody here would let it go on.
    """
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if pid == 0:
            return None
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            return pid, os.waitstatus_to_exitcode(status)
        kill(pid)


def end_children(seconds: float, spared: Collection[int] = ()) -> bool:
    """Kill our children, and what they leave us, until there are none; say whether that is so.

    Those that are spared live on, and what they have started.

    Without a pause as long as there are new ones: what starts processes faster than we look
    would outlive us.
    """
    deadline = time.monotonic() + seconds
    known: set[int] = set()
    while found := [pid for pid in children(os.getpid()) if pid not in spared]:
        for pid in found:
            kill(pid)
        while next_end() is not None:
            pass
        if time.monotonic() > deadline:
            return False
        if known >= set(found):
            time.sleep(PAUSE)
        known = set(found)
    return True


def descriptors() -> frozenset[int]:
    """Return the numbers of this process's descriptors that are open."""
    return frozenset(fd for fd in map(int, os.listdir("/proc/self/fd")) if is_open(fd))


def is_open(fd: int) -> bool:
    """Say whether a number is a descriptor's; that by which they were listed is none any more."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
