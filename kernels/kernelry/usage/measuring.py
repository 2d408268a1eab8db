"""What sessions use of the machine now, read from /proc as cheaply as that goes.

Memory is the sum over a kernel's process tree: first the resident sizes, which count shared
pages once per process; near the limit the proportional ones (PSS), which cost more to read.
Files in /dev/shm are memory, too, though no process may have them mapped.
"""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kernelry.processes import Group, KernelProcess, cpu_time, family, is_branch, resident, waited
from kernelry.usage.files import SHARED, read, size_in_memory, used_of

#: where a session behind walls has a file system of its own, in memory
PRIVATE = (SHARED, Path("/tmp"))
NEAR = 0.8  # share of the limit from where memory is read exactly


@dataclass(frozen=True, slots=True)
class Usage:
    """What one session uses."""

    #: bytes of memory of all its processes
    memory: int = 0
    #: processes
    processes: int = 0
    #: seconds of processor time that they and those they waited for have used
    cpu: float = 0.0


def measure(
    process: KernelProcess, group: Group | None, limit: int, shared: int, directory: Path
) -> Usage:
    """Read what a kernel and all that it started use.

    Args:
        process: The kernel.
        group: Its control group, which knows who belongs to it, and what is in memory that no
            process has mapped; None: there is none.
        limit: Bytes of memory it may use; 0: it does not matter how much.
        shared: Bytes of files in /dev/shm that are known to be its.
        directory: The session's, which may be in memory.
    """
    members = family(process.leader)
    if group is None:
        shared += own_shared(process.leader) + size_in_memory(directory)
    else:
        others = set(group.members) - {*members, process.pid, *process.halves}
        members += (pid for pid in others if not is_branch(pid))  # on its way to its own
        shared = group.shared_memory
    return usage_of(members, limit, shared, is_counted=group is not None)


def measure_script(pid: int, group: Group | None, limit: int) -> Usage:
    """Read what a script of a session and all that it started use; see `measure`.

    Args:
        pid: The process that guards it.
        group: Its control group.
        limit: Bytes of memory that the session may use.
    """
    members = family(pid)
    if group is None:
        shared = sum(map(own_shared, members[1:2]))
    else:
        members += set(group.members) - set(members)
        shared = group.shared_memory
    return usage_of(members, limit, shared, is_counted=group is not None)


def usage_of(members: list[int], limit: int, shared: int, *, is_counted: bool) -> Usage:
    """Return what processes use together.

    Args:
        members: Their pids.
        limit: Bytes of memory; far below it the sizes are taken that are cheap to read.
        shared: Bytes of files in memory.
        is_counted: Whether these are all, those that a process has mapped too.
    """
    memory = sum(map(resident, members)) + shared
    if limit and memory > NEAR * limit:
        memory = sum(proportional(pid, own_only=is_counted) for pid in members) + shared
    return Usage(memory=memory, processes=len(members), cpu=sum(map(own_cpu_time, members)))


def own_shared(pid: int) -> int:
    """Return the bytes in the file systems in memory that a process and its children have alone."""
    found = 0
    for place in PRIVATE:
        own = Path(f"/proc/{pid}/root{place}")
        with suppress(OSError):
            if own.stat().st_dev != place.stat().st_dev:
                found += used_of(own)
    return found


def proportional(pid: int, *, own_only: bool) -> int:
    """Return the bytes of a process, what it shares divided by those who do.

    Its programs and libraries are left out: they are the disk's, and can be read again.

    Args:
        pid: The process.
        own_only: Whether shared memory is left out too.
    """
    sizes = {
        name: int(rest.split()[0]) * 1024
        for name, _, rest in (
            line.partition(":") for line in read(f"/proc/{pid}/smaps_rollup").splitlines()[1:]
        )
    }
    if "Pss_Anon" in sizes:
        return sizes["Pss_Anon"] + (0 if own_only else sizes["Pss_Shmem"])
    return sizes.get("Pss", 0) or resident(pid)


def own_cpu_time(pid: int) -> float:
    """Return the seconds of processor time of a process, without copies of it that have ended."""
    return max(cpu_time(pid) - waited.get(pid, 0.0), 0.0)
