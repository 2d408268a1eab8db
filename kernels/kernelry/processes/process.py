"""A kernel's process as its owner sees it: alive or how it ended, and how to end it."""

import asyncio
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from kernelry.paths import process_start
from kernelry.processes.families import (
    branches,
    children,
    end_guests,
    exit_code,
    exit_code_of,
    family,
    first_in_box,
    is_shelter,
    members,
)

FAMILY_DEADLINE = 0.5  # seconds for killed descendants to be gone; zombies may stay longer
SIGNALLED = 128  # exit code of bubblewrap, less the signal that ended what was in the box
EXPENDABLE = 1000  # the most so of all processes: see proc(5), oom_score_adj
OOM_MORE = 100  # than the server, of any kernel; see kernelry/inside/walls/limits.py
CODE_DEADLINE = 1.0  # seconds the fork server has to tell how its child ended


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended."""

    #: exit code; negative: minus the signal that killed it; None: nobody can tell any more
    code: int | None

    def __str__(self) -> str:
        if self.code is None:
            return "how is not known, its parent is gone too"
        if self.code < 0:
            with suppress(ValueError):
                return f"killed by {signal.Signals(-self.code).name}"
            return f"killed by signal {-self.code}"
        return f"exit code {self.code}"


class KernelProcess:
    """One kernel's process, in a process group of its own.

    Its end is noticed by the pidfd becoming readable (4 ms; reference/kernels.md), or,
    where the system has none, by a thread that waits.
    """

    #: how it was started: "fork", "spawn" or "box"
    start = "spawn"
    #: whether the fork server inherits, and ends, what it leaves behind
    has_heir = False

    def __init__(self, pid: int) -> None:
        self.pid = pid
        #: when it was started; with the pid it is its identity until the next boot
        self.started = process_start(pid)
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[Exit] = self._loop.create_future()
        self._listeners: list[Callable[[Exit], None]] = []
        self._pidfd = -1
        self._gone = False
        self._leader = 0
        #: pid of the first process in its box, and when that was started; None: not known, or none
        self.first: tuple[int, int] | None = None

    @property
    def age(self) -> float:
        """Seconds since it was started, by the clock of the boot; 0 if that can't be told."""
        if not self.started:
            return 0.0
        return time.clock_gettime(time.CLOCK_BOOTTIME) - self.started / os.sysconf("SC_CLK_TCK")

    @property
    def exit(self) -> Exit | None:
        """How it ended; None while it lives."""
        return self._ended.result() if self._ended.done() else None

    @property
    def has_ended(self) -> bool:
        """Whether it has ended, though it may not be known yet how."""
        if self._gone or self._ended.done():
            return True
        if self._pidfd < 0:  # a thread waits for it
            return False
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(0))

    @property
    def leader(self) -> int:
        """The pid of the kernel proper; in a box that is not the process that was started."""
        if self.start != "box":
            return self.pid
        if not self._leader:
            for first in self.halves:
                self._leader = next(iter(children(first)), 0)
        return self._leader or self.pid

    @property
    def halves(self) -> list[int]:
        """What else belongs to a box: bubblewrap waits outside, its other half is pid 1 in it."""
        return children(self.pid) if self.start == "box" else []

    def find_box(self) -> None:
        """Find the first process of its box while it lives, if it is in one."""
        if found := self.halves:
            self.first = found[0], process_start(found[0])

    def on_exit(self, listener: Callable[[Exit], None]) -> None:
        """Call `listener` when it has ended; soon, if it has."""
        if self._ended.done():
            self._loop.call_soon(listener, self._ended.result())
        else:
            self._listeners.append(listener)

    async def wait(self, deadline: float) -> Exit | None:
        """Wait up to `deadline` seconds for the end."""
        done, _ = await asyncio.wait([self._ended], timeout=deadline)
        return self._ended.result() if done else None

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole process group, if the kernel lives."""
        if self.has_ended:
            return
        with suppress(ProcessLookupError):
            if self.start == "box":
                # In there bubblewrap's own half takes note of nothing but SIGKILL.
                os.killpg(os.getpgid(self.leader), number)
            if self.start != "box" or number is signal.SIGKILL:
                os.killpg(self.pid, number)

    def send_signal_to_kernel(self, number: signal.Signals) -> None:
        """Send a signal to the kernel alone, if it lives."""
        if not self.has_ended:
            with suppress(ProcessLookupError):
                os.kill(self.leader, number)

    def end_guests(self, spared: Collection[int] = ()) -> None:
        """End what it has left in its box, where other kernels may live; it has ended.

        Takes some milliseconds: not for the event loop.

        Args:
            spared: Kernels that boxes were made for.
        """
        if self.first is not None:
            end_guests(*self.first, spared)

    async def kill(self, family: Sequence[psutil.Process] = ()) -> Exit:
        """Kill it and all its descendants, and wait until it is gone.

        Args:
            family: Descendants that were found before, should it be dead by now.
        """
        descendants = [*family, *([] if self.has_ended else self.descendants())]
        self.send_signal(signal.SIGKILL)
        for child in descendants:
            with suppress(psutil.Error):
                child.kill()
        ended = await self._ended
        if descendants:  # a signal that was sent has not killed yet
            await asyncio.to_thread(psutil.wait_procs, descendants, timeout=FAMILY_DEADLINE)
        return ended

    def leave(self) -> None:
        """Stop watching it; it goes on without us."""
        self._unwatch()

    def descendants(self) -> list[psutil.Process]:
        """Return the processes that it started, and those that they did.

        Of a box in which other kernels live, those of its own: they need the box.
        """
        return members(pid for pid in family(self.pid)[1:] if not is_shelter(pid))

    def _watch(self, pidfd: int, ended: Callable[[], None]) -> None:
        """Call `ended` once, when the process of `pidfd` has; the descriptor is ours then."""

        def on_readable() -> None:
            if not is_readable(pidfd):
                return
            self._gone = True
            self._note_end(pidfd)
            self._unwatch()
            self._end_group()
            ended()

        self._pidfd = pidfd
        self._loop.add_reader(pidfd, on_readable)

    def _note_end(self, pidfd: int) -> None:
        """Take note of what only an open descriptor tells of a process that has ended."""

    def _end_group(self) -> None:
        """End what has outlived it in its process group; now, for later the number is another's.

        Linux gives nobody the number of a group that has members: if another process has it,
        there are none.
        """
        if process_start(self.pid) in (0, self.started):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def _unwatch(self) -> None:
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _set_exit(self, code: int | None) -> None:
        self._unwatch()
        if self.start == "box" and code is not None and SIGNALLED < code < SIGNALLED + signal.NSIG:
            code = SIGNALLED - code  # bubblewrap tells both alike; beyond is no signal
        if not self._ended.done():
            self._ended.set_result(Exit(code))
            for listener in self._listeners:
                listener(Exit(code))
            self._listeners.clear()


def is_readable(fd: int) -> bool:
    """Say whether a descriptor is what its loop says; asked for what a claim follows from.

    A loop in a process that was forked from one with that loop (a pool's) has its selector with
    the other process, which wakes it for descriptors of its own by the same number.
    """
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(0))


class SpawnedProcess(KernelProcess):
    """A child of ours."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        super().__init__(popen.pid)
        self._popen = popen
        if hasattr(os, "pidfd_open"):
            self._watch(os.pidfd_open(popen.pid), self._reap)
        else:
            waiting = self._loop.run_in_executor(None, popen.wait)
            waiting.add_done_callback(lambda _: self._end_group())
            waiting.add_done_callback(lambda _: self._reap())

    def leave(self) -> None:
        """See KernelProcess."""
        super().leave()
        self._popen.returncode = 0  # or its finalizer would warn that it still runs

    def _reap(self) -> None:
        self._set_exit(self._popen.wait())


class ForkedProcess(KernelProcess):
    """A child of the fork server, which reaps it and tells how it ended."""

    start = "fork"
    has_heir = True

    def __init__(self, pid: int, pidfd: int) -> None:
        super().__init__(pid)
        self._code: int | None = None
        self._told = False
        self._watch(pidfd, self._on_gone)

    def tell_code(self, code: int | None) -> None:
        """Take the exit code from the fork server; None: it can't be known any more."""
        self._code, self._told = code, True
        if self._gone or code is not None:
            self._set_exit(code)

    def _on_gone(self) -> None:
        if self._told:
            self._set_exit(self._code)
        else:
            self._loop.call_later(CODE_DEADLINE, self._set_exit, None)


class BranchProcess(ForkedProcess):
    """A child of the kernel that it was forked from, and of the fork server when that has ended.

    Nobody waits for it while the origin lives, so its exit code is read where Linux keeps it for
    a process that has ended and was not waited for.
    """

    start = "branch"
    has_heir = False

    def __init__(self, pid: int, pidfd: int) -> None:
        super().__init__(pid, pidfd)
        branches[pid] = self.started
        if first := first_in_box(pid):
            self.first = first, process_start(first)
        self.on_exit(self._forget)

    def send_signal(self, number: signal.Signals) -> None:
        """See KernelProcess; one that has no group of its own yet is ended all the same."""
        super().send_signal(number)
        if number is signal.SIGKILL and self._pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def _forget(self, _: Exit) -> None:
        branches.pop(self.pid, None)

    def _note_end(self, pidfd: int) -> None:
        if (code := exit_code(self.pid, self.started)) is None:
            code = exit_code_of(pidfd)  # the first process in a box waits for all that nobody has
        if code is not None:
            self._code, self._told = code, True


def set_oom_score(process: KernelProcess, *, frozen: bool) -> None:
    """Say how soon Linux shall end a copy when memory is used up: a frozen one first of all.

    From here: behind walls it could not say that itself.
    """
    try:
        mine = int(Path("/proc/self/oom_score_adj").read_text(encoding="ascii"))
        wanted = EXPENDABLE if frozen else min(mine + OOM_MORE, EXPENDABLE)
        path = Path(f"/proc/{process.pid}/oom_score_adj")
        with path.open("w", encoding="ascii") as file:  # from here on it is this process's
            if not process.has_ended:
                file.write(str(wanted))
    except OSError:  # it has ended, or is not to be changed here: then Linux chooses as ever
        return
