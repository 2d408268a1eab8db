"""Which workspace files did this execution create or change?

An audit hook sees each file that Python code of this process opens for writing, so the
answer needs no scan of the workspace and never names a neighbour's files. Forked children
report through an inherited append-only file. What other programs write is not seen here.
"""

import os
import stat
import sys
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
REPORTED = 1000  # paths named at most per execution; the rest is counted
BYTECODE = f"{os.sep}__pycache__{os.sep}"  # importing a script writes there
RENAMES = frozenset({"os.rename", "os.link", "os.symlink"})

Stamp = tuple[int, int] | None


def stamp(path: str) -> Stamp:
    """Return (mtime_ns, size) of a regular file, or None."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return (status.st_mtime_ns, status.st_size) if stat.S_ISREG(status.st_mode) else None


class Touched:
    """The files below `root` that were opened for writing since `begin`."""

    def __init__(self, root: str, report_path: str) -> None:
        self._root = os.path.join(os.path.realpath(root), "")
        self._pid = os.getpid()
        self._before: dict[str, Stamp] = {}
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC | os.O_CLOEXEC
        self._report = os.open(report_path, flags, 0o600)
        self._read_to = 0
        self._is_over = False
        sys.addaudithook(self._hook)

    def forget(self) -> None:
        """See nothing any more: a hook can't be taken away."""
        self._is_over = True

    def begin(self) -> None:
        """Forget what was seen so far."""
        self._before = {}
        self._read_to = os.fstat(self._report).st_size

    def end(self) -> tuple[list[str], int]:
        """Return the paths relative to the root that now differ, and how many there are."""
        before = self._before
        self._before = {}
        for line in self._reported_by_children():
            before.setdefault(line, None)
        changed = sorted(
            path
            for path, old in before.items()
            if stamp(path) not in (None, old) and BYTECODE not in path
        )
        names = [encodable_path(os.path.relpath(path, self._root)) for path in changed]
        return names[:REPORTED], len(names)

    def _reported_by_children(self) -> list[str]:
        size = os.fstat(self._report).st_size
        if size == self._read_to:
            return []
        data = os.pread(self._report, size - self._read_to, self._read_to)
        self._read_to = size
        return [os.fsdecode(line) for line in data.split(b"\0") if line]

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self._is_over:
            return
        if event == "open":
            path, flags = args[0], args[2]
            if isinstance(flags, int) and not flags & WRITING:
                return
        elif event in RENAMES:
            path = args[1]
        else:
            return
        try:
            self._note(path)
        except Exception:  # an audit hook that raises would break the user's own call
            return

    def _note(self, path: Any) -> None:
        if isinstance(path, int) or path is None:
            return
        full = os.path.realpath(os.fsdecode(path))
        if not full.startswith(self._root) or full in self._before:
            return
        if os.getpid() == self._pid:
            self._before[full] = stamp(full)
        else:
            os.write(self._report, os.fsencode(full) + b"\0")


def encodable_path(path: str) -> str:
    """Return `path` as text that can become UTF-8."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
