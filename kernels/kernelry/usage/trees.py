"""A kernel's process and its descendants as a person looks at them: exactly, and not often."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from kernelry.processes import KernelProcess, family, members, resident

LOOKED_AT = 100  # processes of a session whose memory is told in a list


@dataclass(frozen=True, slots=True)
class ProcessTree:
    """A process and its descendants, as seen at one moment."""

    #: bytes: PSS where the system tells, else RSS
    memory: int = 0
    #: seconds of user and system time
    cpu_time: float = 0.0
    #: threads of all of them
    threads: int = 0
    #: how many they are
    processes: int = 0
    #: whether the first of them is halted
    stopped: bool = False


def read_tree(process: KernelProcess, *, memory: bool = True) -> ProcessTree:
    """Read a kernel's process tree; a process that goes meanwhile counts for nothing."""
    found = list(_read(members(family(process.leader)), memory))
    return ProcessTree(
        memory=sum(item[0] for item in found),
        cpu_time=sum(item[1] for item in found),
        threads=sum(item[2] for item in found),
        processes=len(found),
        stopped=bool(found) and found[0][3] == psutil.STATUS_STOPPED,
    )


def _read(
    processes: Iterable[psutil.Process], memory: bool
) -> Iterable[tuple[int, float, int, str]]:
    for process in processes:
        try:
            with process.oneshot():
                times = process.cpu_times()
                size = memory_of(process.pid) or process.memory_info().rss if memory else 0
                cpu = times.user + times.system
                yield size, cpu, process.num_threads(), process.status()
        except psutil.Error:
            continue


def memory_used(leader: int) -> int:
    """Return the bytes that a kernel and all that it started really cost; 0: it is gone."""
    return sum(memory_of(pid) or resident(pid) for pid in family(leader)[:LOOKED_AT])


def memory_of(pid: int) -> int:
    """Return the bytes a process really costs (PSS); 0 if the system does not tell."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0
