"""A control group for a kernel and all it starts, where we may make one.

No process can leave it by what it does (forks, sessions, names, variables), so it says for sure
who belongs to a session, and ends them. It catches memory that grows faster than anybody can
look (the supervisor looks ten times a second), so it allows a fifth more than the limit. Most
machines let only root make one, and nobody is told when there is none: then descent tells who
belongs together (which a session can't leave behind walls), and limits are kept by looking.
Both versions of Linux's control groups are known.
"""

import asyncio
import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kernelry.apart import in_thread
from kernelry.paths import process_start

ROOT = Path("/sys/fs/cgroup")
SLACK = 1.2  # of the limit; below that the supervisor acts, and knows more
OWN = 96 << 20  # bytes beyond a session's limit that its kernel has for itself
FULL = 0.99  # of the limit, at which a group of version 1 was full: it does not say so
PREFIX = "kernelry-"
END_DEADLINE = 2.0  # seconds to end all that is in a group
END_PAUSE = 0.002  # seconds between looks at what still lives then


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
class Group:
    """The group of one kernel."""

    #: its folder
    folder: Path
    #: name of its file of events
    events: str

    @property
    def has_killed(self) -> bool:
        """Say whether Linux ended a process in it because the memory was used up."""
        with suppress(OSError):
            return self._counts(self.events).get("oom_kill", 0) > 0
        return False

    @property
    def was_full(self) -> bool:
        """Say whether it was its own limit that it met, and not that of the machine."""
        with suppress(OSError):
            if (said := self._counts(self.events)).get("oom") is not None:
                return said["oom"] > 0
            limit = (self.folder / "memory.limit_in_bytes").read_text(encoding="ascii")
            return self.peak >= FULL * int(limit)
        return False

    @property
    def peak(self) -> int:
        """Most bytes of memory that it had at once; 0: nobody knows."""
        for name in ("memory.peak", "memory.max_usage_in_bytes"):
            with suppress(OSError):
                return int((self.folder / name).read_text(encoding="ascii"))
        return 0

    @property
    def members(self) -> list[int]:
        """The pids in it, those of zombies left out; none if it is gone."""
        with suppress(OSError):
            text = (self.folder / "cgroup.procs").read_text(encoding="ascii")
            # What has no number in our namespace is a 0, by which we would end ourselves.
            return [pid for word in text.split() if (pid := int(word)) > 0]
        return []

    @property
    def shared_memory(self) -> int:
        """Bytes of files in memory and of shared mappings that it has made, mapped or not."""
        with suppress(OSError):
            counts = self._counts("memory.stat")
            return counts.get("total_shmem", counts.get("shmem", 0))
        return 0

    def _counts(self, name: str) -> dict[str, int]:
        lines = (self.folder / name).read_text(encoding="ascii").splitlines()
        found = (line.split() for line in lines)
        return {words[0]: int(words[1]) for words in found if len(words) == 2}

    def end(self) -> int:
        """Kill all that is in it, and wait until it is gone; return how many that were.

        Takes up to `END_DEADLINE` seconds: not for the event loop.
        """
        ended = set(self.members)
        with suppress(OSError):
            (self.folder / "cgroup.kill").write_text("1", encoding="ascii")
        deadline = time.monotonic() + END_DEADLINE
        while (left := self.members) and time.monotonic() < deadline:
            ended |= set(left)
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(END_PAUSE)
        return len(ended)

    def allow(self, more: int) -> None:
        """Raise its limit by so many bytes, or lower it; nothing if it has none, or is gone."""
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):  # "max"
                limit = int((self.folder / name).read_text(encoding="ascii"))
                (self.folder / name).write_text(str(limit + more), encoding="ascii")

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


def make_group(name: str, pids: Iterable[int], limit: int) -> Group | None:
    """Put processes into a group of their own; what they start is in it, too.

    Args:
        name: What no other group is called.
        pids: The processes; those that are gone are left out.
        limit: Bytes of memory that they shall use; 0: as many as they like.

    Returns:
        The group; None: none can be made here.
    """
    found = hierarchy()
    if found is None:
        return None
    group = Group(found.folder / f"{PREFIX}{owner()}-{name}", found.events)
    try:
        group.folder.mkdir(exist_ok=True)
        if limit:
            most = round((limit + OWN) * SLACK)
            (group.folder / found.limit).write_text(str(most), encoding="ascii")
        if (whole := group.folder / "memory.oom.group").exists():
            whole.write_text("1", encoding="ascii")  # all of it goes, not a child here and there
        for pid in pids:
            with suppress(ProcessLookupError):
                (group.folder / "cgroup.procs").write_text(str(pid), encoding="ascii")
    except OSError:
        group.remove()
        return None
    return group


class Grouping:
    """A kernel's group, made beside the start of the kernel: Linux takes as long for it.

    (It waits for all processors to have gone through their current work; 12 ms on 2 cores.)
    No code of the user's runs before both are done.

    Args:
        name: What no other group is called.
        limit: As in `make_group`.
    """

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._making: asyncio.Future[Group | None] | None = None

    def begin(self, *pids: int) -> None:
        """Make the group, in a thread, of a kernel that has just been started."""
        self._making = in_thread(make_group, self._name, pids, self._limit, name="group")

    async def group(self) -> Group | None:
        """Return the group when it is made; None: there is none."""
        return None if self._making is None else await self._making

    def give_up(self) -> None:
        """Remove the group as soon as it is made: its kernel did not start."""
        if self._making is not None:
            self._making.add_done_callback(remove_made)


def remove_made(made: "asyncio.Future[Group | None]") -> None:
    """Remove a group that was made, if it was."""
    if not made.cancelled() and made.exception() is None and (group := made.result()) is not None:
        group.remove()


@cache
def can_group() -> bool:
    """Say whether groups can be made here, by making one."""
    group = make_group(f"proof-{os.getpid()}", (), 1 << 30)
    if group is not None:
        group.remove()
    return group is not None


def known_group(name: str) -> Group | None:
    """Return the group that a server before has made."""
    found = hierarchy()
    if found is None or not name:
        return None
    folder = next(found.folder.glob(f"{PREFIX}*-{name}"), None)
    return Group(folder, found.events) if folder else None


def end_groups(names: Iterable[str]) -> int:
    """End what is in the groups of kernels that are gone, and the groups; count processes."""
    ended = 0
    for group in filter(None, map(known_group, names)):
        ended += group.end()
        group.remove()
    return ended


def owner() -> str:
    """Return what names this process in the names of its groups."""
    return f"{os.getpid()}-{process_start(os.getpid())}"


def remove_unused() -> None:
    """Remove groups without a process, which killed servers have left.

    One of a server that lives may be empty for a moment: before its kernel is put into it, and
    until that server has read how the kernel ended.
    """
    found = hierarchy()
    for folder in found.folder.glob(f"{PREFIX}*") if found else ():
        pid, _, rest = folder.name.removeprefix(PREFIX).partition("-")
        started = rest.partition("-")[0]
        if pid.isdigit() and started.isdigit() and process_start(int(pid)) == int(started):
            continue
        with suppress(OSError):  # it is used
            folder.rmdir()
