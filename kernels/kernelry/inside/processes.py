"""Processes as Linux shows them: start one, find its family, end it. No psutil here."""

import contextlib
import os
import signal
from typing import Any

READY_FD = 3  # descriptor at which a spawned kernel finds its ready pipe
#: a link is no file of a session, and a FIFO without a reader would block
OWN_FILE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def spawn(launch: dict[str, Any], ready_fd: int) -> int:
    """Start the launcher as a fresh process and return its pid.

    Raises:
        OSError: It can't be started.
    """
    log_flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | OWN_FILE
    actions: list[Any] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, launch["log_file"], log_flags, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
        (os.POSIX_SPAWN_DUP2, ready_fd, READY_FD),
    ]
    argv = launch["command"]
    return os.posix_spawn(argv[0], argv, launch["env"], file_actions=actions, setsid=True)


def start_time(pid: int) -> int:
    """Return when a process was started, in ticks since boot; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


def children(pid: int) -> list[int]:
    """Return the pids of the children of a process's main thread and all others."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                found += [int(word) for word in file.read().split()]
    return found


def family(pid: int) -> list[int]:
    """Return a process and all that descends from it."""
    members = [pid]
    for member in members:  # it grows while we go through it
        members += children(member)
    return members


def kill(pid: int) -> None:
    """Send SIGKILL to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
