"""Run a program within walls: ``confined PLAN PROGRAM ARGUMENT...``, or only prove them.

With ``-`` for the program it is read from stdin, as a list in JSON, when the walls stand: so
they can be built before it is known what to run.

The plan is JSON in the argument itself: a file could be changed by those it is to confine.
Without a program the walls are built and looked at; the exit code is 0 if they stand.

The program is a child of this process, which stays outside of the walls and inherits what the
program leaves behind: when the program has ended, or SIGTERM comes, nothing of it lives on,
whatever it did to hide. The exit code is the program's.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from typing import NoReturn

from ..processes import children, end_children, inherit_orphans, next_end
from . import doors, guard, limits

FROM_STDIN = "-"
HELD_BACK = "KERNELRY_HELD_BACK_"  # before the names of variables that are for the program only
FIRST_OWN_FD = 3
WATCHED = (signal.SIGCHLD, signal.SIGTERM)
LINGER = 0.3  # seconds that what a program left has to end by itself, as helpers of its do
END_DEADLINE = 5.0  # seconds to end all of it in; what is stuck in the system stays


def main(plan_text: str, *command: str) -> None:
    """Run the program of a plan within its walls, or prove these."""
    plan = json.loads(plan_text)
    if not command:
        build(plan)
        return
    inherit_orphans()
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)  # before there is a child to miss
    keeper, door = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
        become(plan, command, door.fileno())
    door.close()
    guard.drop_capabilities()  # nothing that is done from here on needs any
    threading.Thread(target=doors.keep_door, args=(keeper,), daemon=True).start()
    attend(pid)


def build(plan: dict[str, object], door: int = -1) -> None:
    """Enter the walls of a plan, with somebody to keep its door or not.

    Says why they can't be had, and ends then.
    """
    walls = guard.Walls(plan, door)
    try:
        limits.enter(plan.get("limits", {}))  # type: ignore[arg-type]
        walls.enter()
        walls.close_sockets()
        walls.check()
        if plan.get("alone"):
            guard.stay_alone()
    except (guard.WallError, OSError) as error:
        sys.stderr.write(f"the walls of '{plan['level']}' can't be built: {error}\n")
        sys.stderr.flush()
        os._exit(126)


def become(plan: dict[str, object], command: tuple[str, ...], door: int) -> NoReturn:
    """Enter the walls and become the program, with nothing of its guardian's."""
    os.setsid()  # no signal to its group is one to us
    os.dup2(door, FIRST_OWN_FD, inheritable=False)
    os.closerange(FIRST_OWN_FD + 1, os.sysconf("SC_OPEN_MAX"))
    give_back()
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    build(plan, -1 if plan.get("alone") else FIRST_OWN_FD)
    if command == (FROM_STDIN,):
        with os.fdopen(os.dup(0), "rb") as stdin:
            text = stdin.read()
        if not text:  # nothing is to be run after all
            os._exit(0)
        command = tuple(json.loads(text))
        os.dup2(nothing, 0)
    try:
        os.execv(command[0], command)
    except OSError as error:
        sys.stderr.write(f"can't run {command[0]}: {error.strerror}\n")
        sys.stderr.flush()
    os._exit(127)


def give_back() -> None:
    """Name the variables of the loader as they are: from now on they lead nobody out."""
    for name in [name for name in os.environ if name.startswith(HELD_BACK)]:
        os.environ[name.removeprefix(HELD_BACK)] = os.environ.pop(name)


def attend(pid: int) -> NoReturn:
    """Wait for the program's end or for SIGTERM; end what is left; end as the program did."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1):  # who reads its output shall not wait for us; stderr is for our last words
        os.dup2(null, fd)
    code: int | None = None
    while code is None:
        if signal.sigwait(WATCHED) == signal.SIGTERM:
            os.dup2(null, 2)
            code = -signal.SIGKILL
            break
        while (end := next_end()) is not None:
            if end[0] == pid:
                code = end[1]
    if code != -signal.SIGKILL and (left := left_after(LINGER)):
        with contextlib.suppress(OSError):
            os.write(2, f"\n[ended: {left} processes that it had left running]\n".encode())
    os.dup2(null, 2)
    end_children(END_DEADLINE)
    if code < 0:
        with contextlib.suppress(ValueError, OSError):
            limits.enter({})  # no core of ours
            signal.signal(-code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 128 - code)


def left_after(seconds: float) -> int:
    """Return how many children there are when those that are about to end have ended."""
    deadline = time.monotonic() + seconds
    while left := len(children(os.getpid())):
        if time.monotonic() > deadline:
            return left
        signal.sigtimedwait((signal.SIGCHLD,), max(deadline - time.monotonic(), 0.0))
        while next_end() is not None:
            pass
    return 0
