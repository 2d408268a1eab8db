"""A control group for the memory of a kernel and all it starts, where we may make one.

It catches what grows faster than anybody can look (the supervisor looks ten times a second),
so it allows a fifth more than the limit. Most machines let only root make one, and nobody is
told when there is none: the limit is kept without it, too. Both versions of Linux's control
groups are known.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
SLACK = 1.2  # of the limit; below that the supervisor acts, and knows more
PREFIX = "kernelry-"


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """Where groups are made, and what the files in them are called."""

    #: our own group
    folder: Path
    #: holds the limit
    limit: str
    #: holds how often something was killed for it
    events: str


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """The group of one kernel."""

    #: its folder
    folder: Path
    #: name of its file of events
    events: str

    @property
    def has_killed(self) -> bool:
        """Say whether Linux ended a process in it because the memory was used up."""
        with suppress(OSError):
            lines = (self.folder / self.events).read_text(encoding="ascii").splitlines()
            counts = dict(line.split() for line in lines if len(line.split()) == 2)
            return int(counts.get("oom_kill", 0)) > 0
        return False

    def remove(self) -> None:
        """Remove it; a process that is still dying keeps it for the next start of a server."""
        with suppress(OSError):
            self.folder.rmdir()


@cache
def hierarchy() -> Hierarchy | None:
    """Return where groups for memory can be made; None: nowhere."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):
                folder = ROOT / "memory" / path.lstrip("/")
                found = Hierarchy(folder, "memory.limit_in_bytes", "memory.oom_control")
            elif not controllers and has_memory(ROOT / path.lstrip("/")):
                found = Hierarchy(ROOT / path.lstrip("/"), "memory.max", "memory.events")
            else:
                continue
            if os.access(found.folder, os.W_OK):
                return found
    return None


def has_memory(folder: Path) -> bool:
    """Say whether groups in a group of version 2 can limit memory."""
    with suppress(OSError):
        return "memory" in (folder / "cgroup.subtree_control").read_text(encoding="ascii").split()
    return False


def limit_memory(name: str, pids: Iterable[int], limit: int) -> MemoryGroup | None:
    """Put processes into a group of their own; what they start is in it, too.

    Args:
        name: What no other group is called.
        pids: The processes; those that are gone are left out.
        limit: Bytes that they shall use; 0: no group is made.

    Returns:
        The group; None: none can be made here.
    """
    found = hierarchy() if limit else None
    if found is None:
        return None
    group = MemoryGroup(found.folder / f"{PREFIX}{name}", found.events)
    try:
        group.folder.mkdir(exist_ok=True)
        (group.folder / found.limit).write_text(str(round(limit * SLACK)), encoding="ascii")
        if (whole := group.folder / "memory.oom.group").exists():
            whole.write_text("1", encoding="ascii")  # all of it goes, not a child here and there
        for pid in pids:
            with suppress(ProcessLookupError):
                (group.folder / "cgroup.procs").write_text(str(pid), encoding="ascii")
    except OSError:
        group.remove()
        return None
    return group


def known_group(name: str) -> MemoryGroup | None:
    """Return the group that a server before has made."""
    found = hierarchy()
    folder = found.folder / f"{PREFIX}{name}" if found else None
    return MemoryGroup(folder, found.events) if found and folder and folder.is_dir() else None


def remove_unused() -> None:
    """Remove groups without a process, which killed servers have left."""
    found = hierarchy()
    for folder in found.folder.glob(f"{PREFIX}*") if found else ():
        with suppress(OSError):  # it is used
            folder.rmdir()
