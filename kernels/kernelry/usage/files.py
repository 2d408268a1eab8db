"""What files in memory take, and how /proc is read."""

import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

SHARED = Path("/dev/shm")
FILES_LIMIT = 200_000  # files that are counted; what more there are is as bad
SHARED_FLOOR = 1 << 20  # bytes in /dev/shm below which nobody's files there are looked for


@dataclass(slots=True)
class SharedMemory:
    """Whose the files in /dev/shm are, as far as somebody was seen to have them open."""

    #: (device, inode) -> name of the owner
    owners: dict[tuple[int, int], str] = field(default_factory=dict)

    def is_worth_a_look(self) -> bool:
        """Say whether there is anything to speak of in it."""
        return bool(self.owners) or used_of(SHARED) > SHARED_FLOOR

    def note(self, owner: str, family: list[int]) -> None:
        """Take note of what these processes have open there now."""
        for pid in family:
            for entry in entries(f"/proc/{pid}/fd"):
                with suppress(OSError):
                    if os.readlink(entry).startswith(f"{SHARED}/"):
                        status = os.stat(entry)
                        self.owners.setdefault((status.st_dev, status.st_ino), owner)

    def sizes(self, alive: Collection[str]) -> dict[str, int]:
        """Return the bytes that each owner's files have; remove those of owners that are gone."""
        found: dict[str, int] = {}
        seen: dict[tuple[int, int], str] = {}
        for entry in entries(str(SHARED)):
            with suppress(OSError):
                status = os.stat(entry, follow_symlinks=False)
                key = (status.st_dev, status.st_ino)
                owner = self.owners.get(key)
                if owner is not None and owner not in alive:
                    os.unlink(entry)
                elif owner is not None:
                    seen[key] = owner
                    found[owner] = found.get(owner, 0) + status.st_blocks * 512
        self.owners = seen
        return found


def used_of(path: Path) -> int:
    """Return the bytes that are used of a file system; 0 if there is none."""
    try:
        found = os.statvfs(path)
    except OSError:
        return 0
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def size_in_memory(folder: Path) -> int:
    """Return the bytes of the files in a folder if it is on a file system in memory; else 0."""
    try:
        return size_of(folder) if is_in_memory(folder.stat().st_dev) else 0
    except OSError:
        return 0


@cache
def is_in_memory(device: int) -> bool:
    """Say whether what is on a device is in memory."""
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in read("/proc/self/mountinfo").splitlines():
        words, _, kind = line.partition(" - ")
        if words.split()[2] == number:
            return kind.split()[0] in ("tmpfs", "ramfs")
    return False


def size_of(folder: Path) -> int:
    """Return the bytes that all files below a folder take; links are not followed."""
    total = files = 0
    folders = [str(folder)]
    while folders and files < FILES_LIMIT:
        with suppress(OSError), os.scandir(folders.pop()) as found:
            for entry in found:
                files += 1
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total


def entries(folder: str) -> Iterator[str]:
    """Return the paths of what is in a folder, which may be gone."""
    with suppress(OSError):
        for name in os.listdir(folder):
            yield f"{folder}/{name}"


def read(path: str) -> str:
    """Return a file of /proc; empty: the process is gone."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def oom_kills() -> int:
    """Return how many processes Linux has ended for want of memory since it started."""
    words = read("/proc/vmstat").split()
    return int(words[words.index("oom_kill") + 1]) if "oom_kill" in words else 0
