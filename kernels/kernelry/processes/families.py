"""Who a process is, and who belongs to it: found without a look at all that runs on a machine.

A pid alone is anybody's, so an identity is a pid with the time of its start, since a boot. Linux
names the children of each process; a family is found from those, at the cost of its own size.
(psutil reads the state of every process for it, and the event loop waits meanwhile.)
"""

import functools
import os
import signal
import struct
import sys
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from kernelry.paths import process_start

if sys.platform != "win32":
    import fcntl

#: variable that names the kernel, in everything that it starts
KERNEL_MARK = "_KERNELRY_KERNEL"
PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
HIGHEST_RANK = 1 << 30
ORPHAN_SECONDS = 2.0  # in which all that was left is to be gone
QUIET_LOOKS = 5  # in a row, each of which finds nothing: one may miss what starts just then
PIDFD_INFO_EXIT, PIDFD_INFO_BYTES = 1 << 3, 64
PIDFD_GET_INFO = 3 << 30 | PIDFD_INFO_BYTES << 16 | 0xFF << 8 | 11  # _IOWR(0xFF, 11, info)
FAMILY_LIMIT = 10_000  # processes that are counted; more are as bad


@functools.cache
def boot_id() -> str:
    """Return what is different after each boot; empty if the system does not tell."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def lineage() -> set[int]:
    """Return ourselves and all that we descend from: none of them is ever a kernel of ours."""
    found = {1}
    pid = os.getpid()
    while pid > 1 and pid not in found:
        found.add(pid)
        pid = parent_of(pid)
    return found


def parent_of(pid: int) -> int:
    """Return the parent of a process; 0 if that can't be known."""
    with suppress(OSError, ValueError, IndexError):
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return int(stat.rpartition(")")[2].split()[1])
    return 0


def exit_code(pid: int, started: int) -> int | None:
    """Return the exit code of a process that nobody has waited for yet; None: it is not known."""
    with suppress(OSError, ValueError, IndexError):
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        fields = stat.rpartition(")")[2].split()  # from the third on
        if fields[0] in "ZX" and int(fields[19]) == started:
            return os.waitstatus_to_exitcode(int(fields[49]))
    return None


def exit_code_of(pidfd: int) -> int | None:
    """Return the exit code of a process that somebody else has waited for; None: it is not known.

    Linux 6.15 and later tell it to who has a descriptor of the process.
    """
    info = bytearray(struct.pack("=Q", PIDFD_INFO_EXIT).ljust(PIDFD_INFO_BYTES, b"\0"))
    with suppress(OSError):
        fcntl.ioctl(pidfd, PIDFD_GET_INFO, info)
        mask, status = struct.unpack_from("=Q52xi", info)
        if mask & PIDFD_INFO_EXIT:
            return os.waitstatus_to_exitcode(status)
    return None


def cpu_time(pid: int) -> float:
    """Return the seconds of processor time of a process, and of children it has waited for."""
    with suppress(OSError, ValueError, IndexError):
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return sum(map(int, stat.rpartition(")")[2].split()[11:15])) / TICKS
    return 0.0


def resident(pid: int) -> int:
    """Return the bytes of a process in memory; 0: it has ended."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * PAGE
    return 0


def is_known(pid: int, started: int) -> bool:
    """Say whether a process that a record names still is, and may be ended.

    A number alone is anybody's. What can't be told, and what we are part of, is never ours.
    """
    if not (pid > 1 and started > 0) or pid in lineage():
        return False
    return process_start(pid) == started


def end_strays(kernels: Collection[str]) -> int:
    """Kill what kernels that are gone have left, wherever it is; return how many that were.

    A process is found by the variable that its kernel gave to all it started. The fork server
    needs no such help (it inherits what is left), but not every kernel is its child.

    Args:
        kernels: Names of kernels that have ended.
    """
    marks = [f"\0{KERNEL_MARK}={name}\0".encode() for name in kernels if name]
    ours = lineage()  # a server may have been started by what a kernel left
    found = 0
    for folder in Path("/proc").glob("[0-9]*") if marks else ():
        try:
            if int(folder.name) in ours:
                continue
            variables = b"\0%b\0" % (folder / "environ").read_bytes()
            if any(mark in variables for mark in marks) and not is_shelter(int(folder.name)):
                os.kill(int(folder.name), signal.SIGKILL)
                found += 1
        except OSError:  # somebody else's, or gone
            continue
    return found


#: kernels that are copies of others, by pid -> when they were started. Their parent is the kernel
#: that they were forked from, whose family they are no part of
branches: dict[int, int] = {}
#: seconds of processor time of copies that a kernel has waited for, by its pid: not its own
waited: dict[int, float] = {}


def children(pid: int) -> list[int]:
    """Return the pids of the children of all threads of a process, without kernels among them."""
    return [child for child in all_children(pid) if not is_branch(child)]


def is_branch(pid: int) -> bool:
    """Say whether a process is a kernel that was forked from another."""
    started = branches.get(pid)  # which may go meanwhile: this is asked in threads
    return started is not None and process_start(pid) == started


def first_in_box(pid: int) -> int:
    """Return the first process of the box that a process is in; 0: it is in none."""
    box = namespace_of(pid)
    if not box or box == namespace_of(os.getpid()):
        return 0
    while pid > 1 and number_inside(pid) != 1:
        pid = parent_of(pid)
    return pid if namespace_of(pid) == box else 0


def is_shelter(pid: int) -> bool:
    """Say whether a process has to live for kernels that were forked from another, in its box.

    When the first process in a box ends, Linux ends all that are in it.
    """
    if pid <= 1 or number_inside(pid) != 1:
        return False
    box = namespace_of(pid)
    if not box or box == namespace_of(os.getpid()):
        return False
    return any(namespace_of(other) == box for other in tuple(branches) if is_branch(other))


def namespace_of(pid: int) -> str:
    """Return what names the box that a process is in, of which it has its numbers."""
    with suppress(OSError):
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    return ""


def number_inside(pid: int) -> int:
    """Return the number that a process has for itself: in a box it has another one, too."""
    with suppress(OSError, ValueError, IndexError):
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
        return int(status.partition("NSpid:")[2].partition("\n")[0].split()[-1])
    return pid


def all_children(pid: int) -> list[int]:
    """Return the pids of the children of all threads of a process, whatever they are."""
    found: list[int] = []
    if sys.platform != "linux":
        with suppress(psutil.Error):
            return [child.pid for child in psutil.Process(pid).children()]
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                found += map(int, (thread / "children").read_bytes().split())
    return found


def family(pid: int) -> list[int]:
    """Return a process and all that descends from it, of a huge family the first ones."""
    found = [pid]
    for member in found:  # it grows while we go through it
        if len(found) > FAMILY_LIMIT:
            break
        found += children(member)
    return found


def rank(pid: int) -> int:
    """Return the rank of a process, lower than its origin's if it is a copy's; 0: it has ended.

    It can't be raised within walls; see kernelry/inside/processes.py.
    """
    with suppress(OSError, ValueError, IndexError):
        text = Path(f"/proc/{pid}/limits").read_text(encoding="ascii")
        hard = text.partition("Max file locks")[2].split()[1]
        return min(int(hard), HIGHEST_RANK) if hard.isdigit() else HIGHEST_RANK
    return 0


def end_orphans(pid: int) -> None:
    """Kill what copies of a kernel have left, which is the kernel's now; it goes on itself."""

    def orphans() -> list[int]:
        own = rank(pid)
        return [other for other in family(pid)[1:] if 0 < rank(other) < own]

    end_all(orphans)


def end_all(find: Callable[[], list[int]]) -> None:
    """Kill processes until several looks in a row find none; some start others meanwhile.

    Args:
        find: Returns those that there are.
    """
    deadline, quiet = time.monotonic() + ORPHAN_SECONDS, 0
    while quiet < QUIET_LOOKS and time.monotonic() < deadline:
        alive = [pid for pid in find() if state_of(pid) not in "ZX"]
        quiet = 0 if alive else quiet + 1
        for pid in alive:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def end_guests(first: int, started: int, spared: Collection[int] = ()) -> None:
    """Kill what is left in a box by kernels that have ended; those that are there go on.

    Args:
        first: The first process of the box, which goes too when no kernel is left in it.
        started: When that was started.
        spared: The kernel that the box was made for, if it is there.
    """
    if not is_known(first, started):
        return
    if not is_shelter(first) and not set(children(first)) & set(spared):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(first, signal.SIGKILL)
        return

    def guests() -> list[int]:
        there = [child for child in children(first) if child not in spared]
        return [pid for child in there for pid in family(child)]

    end_all(guests)


def state_of(pid: int) -> str:
    """Return in one letter what a process does; Z or X: it has ended."""
    with suppress(OSError, IndexError):
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return stat.rpartition(")")[2].split()[0]
    return "X"


def members(pids: Iterable[int]) -> list[psutil.Process]:
    """Return processes by their pids, each with its identity; those that are gone are left out."""
    found: list[psutil.Process] = []
    for pid in pids:
        with suppress(psutil.Error):
            found.append(psutil.Process(pid))
    return found


def kill_family(pid: int) -> list[psutil.Process]:
    """Kill a process and all that descends from it, without waiting; return them.

    What has to live for other kernels does.
    """
    found = members(member for member in family(pid) if not is_shelter(member))
    for member in found:
        with suppress(psutil.Error):
            member.kill()
    return found
