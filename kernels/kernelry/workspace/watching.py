"""Which files of the workspace change while a cell runs, whoever changes them.

Code of the kernel's own Python is seen by its kernel (inside/steering/touched.py); what a library
writes past Python, or a program, is not. Linux tells of all of it (inotify(7)), from outside of the
walls, at a cost that does not grow with the workspace. It does not say who it was: so what changed
while cells of several sessions ran is said to be that.

Where it can't be had, or more happened than is looked at, a bounded look at the files themselves
takes its place, and says that it was one; after that all is watched anew.
"""

import asyncio
import ctypes
import os
import re
import stat
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from kernelry.apart import in_thread
from kernelry.workspace.listing import encodable

FOLDERS = 2_000  # that are watched
EVENTS = 2_000  # that are looked at at once
READ_BYTES = 1 << 16
NAMED = 1_000  # files of one cell
LOOKED_AT = 5_000  # files and folders of a look at the workspace
AT_START = 200_000  # of the one that finds its folders
TICK = 0.02  # seconds by which the clock of files may be behind
IN_MODIFY, IN_CLOSE_WRITE, IN_MOVED_TO, IN_CREATE = 0x2, 0x8, 0x80, 0x100
IN_Q_OVERFLOW, IN_IGNORED, IN_ONLYDIR, IN_EXCL_UNLINK, IN_ISDIR = (
    *(0x4000, 0x8000, 0x1000000, 0x4000000, 0x40000000),
)
WATCHED = IN_MODIFY | IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE | IN_ONLYDIR | IN_EXCL_UNLINK
EVENT = struct.Struct("iIII")  # struct inotify_event, without the name
IN_NONBLOCK, IN_CLOEXEC = os.O_NONBLOCK, getattr(os, "O_CLOEXEC", 0)
FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
#: what no cell means by a file that it has written
PASSED_OVER = re.compile(
    r"(?:^|/)(?:__pycache__(?:/|$)|\.[0-9a-f]{32}\.tmp$)|^uploads/\.parts(?:/|$)"
)


@dataclass(eq=False, slots=True)
class Changes:
    """What changes in the workspace while one cell runs."""

    #: when it began, by the clock of files
    began: float = field(default_factory=time.time)
    #: paths below the workspace, in the order in which they were seen
    paths: dict[str, None] = field(default_factory=dict)
    #: whether all of it was seen
    is_whole: bool = True
    #: whether cells of other sessions ran meanwhile
    is_shared: bool = False


class Watch:
    """Watches the folders of a workspace.

    Args:
        root: The workspace.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._fd = -1
        self._folders: dict[int, str] = {}  # number of a watch -> path below the workspace
        self._is_ready = self._is_whole = self._has_missed = False
        self._renewal: asyncio.Future[None] | None = None
        self._active: set[Changes] = set()
        self._left = 0  # files that may still be looked at for what happened

    def start(self) -> None:
        """Begin to watch; takes as long as there are folders, up to a bound: not for the loop."""
        if sys.platform != "linux":
            return
        self._libc = ctypes.CDLL(None, use_errno=True)
        fd = self._libc.inotify_init1(IN_NONBLOCK | IN_CLOEXEC)
        if fd < 0:
            return
        self._fd, self._is_whole, self._left = fd, True, AT_START
        self._add("", None)
        self._is_ready = True

    def close(self) -> None:
        """Watch no more."""
        self._is_ready = False
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def begin(self) -> Changes:
        """Take note of what changes from now on."""
        self._drain()
        is_whole = self._is_ready and self._is_whole
        begun = Changes(is_whole=is_whole, is_shared=bool(self._active))
        for other in self._active:
            other.is_shared = True
        self._active.add(begun)
        return begun

    def end(self, changes: Changes) -> None:
        """Take no more note of it; `Changes` has what was seen."""
        self._drain()
        self._active.discard(changes)
        if self._has_missed and self._renewal is None:
            self._renew()

    def look(self, changes: Changes) -> None:
        """Add what a look at the files finds, up to a bound; blocking, ask from a thread."""
        for path, about in walk(self._root, "", LOOKED_AT):
            if stat.S_ISREG(about.st_mode) and about.st_mtime >= changes.began - TICK:
                self._note([changes], path)

    def files(self, changes: Changes) -> list[str]:
        """Return those that are files now, in order."""
        found = []
        for path in changes.paths:
            with suppress(OSError, ValueError):
                if stat.S_ISREG(os.lstat(self._root / path).st_mode):
                    found.append(encodable(path))
        return sorted(found)

    def _drain(self) -> None:
        """Hand out what has happened; more than is looked at is only known to have been."""
        left, self._left = EVENTS, LOOKED_AT
        while self._is_ready:
            try:
                data = os.read(self._fd, READ_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            at = 0
            while at < len(data) and left > 0:
                left -= 1
                number, mask, _, size = EVENT.unpack_from(data, at)
                name = data[at + EVENT.size : at + EVENT.size + size].rstrip(b"\0")
                at += EVENT.size + size
                self._take(number, mask, os.fsdecode(name))
            if left <= 0:
                self._lose()

    def _take(self, number: int, mask: int, name: str) -> None:
        if mask & IN_Q_OVERFLOW:
            self._lose()
        elif mask & IN_IGNORED:
            self._folders.pop(number, None)
        elif number in self._folders:
            above = self._folders[number]
            path = f"{above}/{name}" if above else name
            if mask & IN_ISDIR:
                # What was made in it before it was watched is found by looking.
                self._add(path, [*self._active])
            else:
                self._note(self._active, path)

    def _lose(self) -> None:
        """Miss what happened; folders made then are not watched, so nothing is whole any more."""
        self._is_whole, self._has_missed = False, True
        self._miss()

    def _renew(self) -> None:
        """Watch anew after events were missed; in a thread, and from then on all is seen again."""
        self._has_missed = False
        fresh = Watch(self._root)
        self._renewal = in_thread(fresh.start, name="watch")

        def change(_: object) -> None:
            self._renewal = None
            if not (self._is_ready and fresh._is_ready):
                fresh.close()
                return
            os.close(self._fd)
            self._fd, self._folders = fresh._fd, fresh._folders
            self._is_whole = fresh._is_whole
            self._miss()  # what runs since before

        self._renewal.add_done_callback(change)

    def _miss(self) -> None:
        for changes in self._active:
            changes.is_whole = False

    def _note(self, all_changes: "set[Changes] | list[Changes]", path: str) -> None:
        if PASSED_OVER.search(path):
            return
        for changes in all_changes:
            if len(changes.paths) < NAMED:
                changes.paths[path] = None
            elif path not in changes.paths:
                changes.is_whole = False

    def _add(self, path: str, noting: list[Changes] | None) -> None:
        """Watch a folder and all below it.

        Args:
            path: Of the folder.
            noting: To whom the files in it are new; None: to nobody.
        """
        self._watch(path)
        for below, about in walk(self._root, path, self._left):
            self._left -= 1
            if stat.S_ISDIR(about.st_mode):
                self._watch(below)
                if len(self._folders) >= FOLDERS:  # no more can be watched
                    self._is_whole = False
                    self._miss()
                    break
            elif noting and stat.S_ISREG(about.st_mode):
                self._note(noting, below)
        if self._left <= 0:
            self._is_whole = False
            self._miss()

    def _watch(self, path: str) -> None:
        if len(self._folders) >= FOLDERS:
            self._is_whole = False
            self._miss()
            return
        try:
            fd = os.open(self._root / path, FOLDER)  # a link is not followed
        except OSError:  # it is gone
            return
        try:
            number = self._libc.inotify_add_watch(self._fd, f"/proc/self/fd/{fd}".encode(), WATCHED)
        finally:
            os.close(fd)
        if number >= 0:
            self._folders[number] = path
        else:
            self._is_whole = False
            self._miss()


def walk(root: Path, path: str, most: int) -> Iterator[tuple[str, os.stat_result]]:
    """Yield what is below a folder of a workspace, up to a number, without following links."""
    waiting = [path]
    while waiting and most > 0:
        above = waiting.pop()
        with suppress(OSError), os.scandir(root / above) as entries:
            for entry in entries:
                most -= 1
                if most < 0:
                    return
                below = f"{above}/{entry.name}" if above else entry.name
                with suppress(OSError):
                    about = entry.stat(follow_symlinks=False)
                    yield below, about
                    if stat.S_ISDIR(about.st_mode) and entry.name != "__pycache__":
                        waiting.append(below)
