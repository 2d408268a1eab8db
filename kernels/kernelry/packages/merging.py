"""Move what was installed beside an environment into it: all of it or nothing.

A merge is a list of files to move out (what a new version replaces) and one to move in.
It is written down before the first move and crossed out after the last, so that a merge
that fails or is killed is undone: at once, or by the next server. All moves are renames in
one file system. The environment belongs to code that nobody trusts: no link in it is
followed, and no file outside of it is touched, whatever a package's RECORD says.
"""

import csv
import json
import os
import posixpath
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from kernelry.beneath import folder
from kernelry.crashpoints import crash_point
from kernelry.errors import InstallError
from kernelry.packages.distributions import canonical

PLAN = "plan.json"  # there while a merge is under way
RECORD_BYTES = 16 << 20  # largest RECORD that is read
#: parts of the frame, which no package replaces
FRAME = ("pyvenv.cfg", "lib64", "bin/python", "bin/python3", "lib/kernelry")
#: what uv leaves beside them
IGNORED = frozenset({"CACHEDIR.TAG", ".gitignore", ".lock"})


@dataclass(frozen=True, slots=True)
class Merge:
    """What is to be moved, as paths relative to the environment."""

    #: the environment
    prefix: Path
    #: files and folders that go
    out: tuple[str, ...]
    #: files and folders that come
    come: tuple[str, ...]

    def carry_out(self, folder: Path) -> None:
        """Do it; what comes is in `folder`/env, what goes is kept in `folder`/old.

        Raises:
            InstallError: It could not be done; the environment is as it was.
        """
        (folder / "old").mkdir()
        plan = folder / f"{PLAN}.new"
        text = {"prefix": str(self.prefix), "out": self.out, "come": self.come}
        plan.write_text(json.dumps(text), encoding="utf-8")
        plan.replace(folder / PLAN)
        crash_point("install.planned")
        try:
            for number, name in enumerate(self.out):
                with suppress(FileNotFoundError), parent_of(self.prefix, name) as (fd, last):
                    os.rename(last, folder / "old" / str(number), src_dir_fd=fd)
            crash_point("install.emptied")
            for name in self.come:
                with parent_of(self.prefix, name) as (fd, last):
                    os.rename(folder / "env" / name, last, dst_dir_fd=fd)
        except OSError as error:
            self.undo(folder)
            msg = f"the session's environment could not be changed ({error}); it is as it was"
            raise InstallError(msg) from error
        crash_point("install.moved")
        (folder / PLAN).unlink()
        self._prune()

    def undo(self, folder: Path) -> None:
        """Put everything back, however far it came; again and again if need be."""
        for name in reversed(self.come):
            staged = folder / "env" / name
            if not os.path.lexists(staged):
                with suppress(OSError), parent_of(self.prefix, name) as (fd, last):
                    os.rename(last, staged, src_dir_fd=fd)
        for number, name in enumerate(self.out):
            with suppress(OSError), parent_of(self.prefix, name) as (fd, last):
                os.rename(folder / "old" / str(number), last, dst_dir_fd=fd)
        (folder / PLAN).unlink(missing_ok=True)

    def _prune(self) -> None:
        """Remove folders that nothing is left in: they would be importable."""
        emptied = {parent for name in self.out for parent in parents(name)}
        for name in sorted(emptied, key=len, reverse=True):
            with suppress(OSError), parent_of(self.prefix, name) as (fd, last):
                os.rmdir(last, dir_fd=fd)


def unfinished(folder: Path) -> Merge | None:
    """Return the merge that was under way in `folder`; None: there was none."""
    try:
        plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        return Merge(Path(plan["prefix"]), tuple(plan["out"]), tuple(plan["come"]))
    except (OSError, ValueError, LookupError):
        return None


def plan_merge(stage: Path, prefix: Path, site: str, names: Iterable[str]) -> Merge:
    """Return what moves so that the environment at `prefix` has what was installed in `stage`.

    Args:
        stage: Where uv installed: a frame of its own that nobody else can write to.
        prefix: The environment.
        site: Its folder for packages, relative to both.
        names: The distributions that were installed; what the environment has of them goes.

    Raises:
        InstallError: The environment is not what it was made as.
    """
    wanted = {canonical(name) for name in names}
    out = dict.fromkeys(
        name for name in replaced(prefix, site, wanted) if not is_frame(name) and name != site
    )
    come: list[str] = []

    def walk(here: str) -> None:
        with folder_fd(prefix, here) as fd:
            for entry in sorted(os.scandir(stage / here), key=lambda e: e.name):
                name = posixpath.join(here, entry.name)
                if is_frame(name) or entry.name in IGNORED:
                    continue
                there = mode_of(fd, entry.name)
                is_folder = entry.is_dir(follow_symlinks=False)
                if is_folder and stat.S_ISDIR(there) and name not in out:
                    walk(name)
                    continue
                if is_folder and f"{site}/".startswith(f"{name}/"):
                    raise NotADirectoryError(f"{name} is no folder any more")
                if there:
                    out[name] = None
                come.append(name)

    try:
        walk("")
    except OSError as error:
        msg = f"the session's environment is damaged ({error}): delete the session"
        raise InstallError(msg) from error
    return Merge(prefix, tuple(out), tuple(come))


def replaced(prefix: Path, site: str, wanted: set[str]) -> Iterator[str]:
    """Yield the files that the environment has of distributions, as far as they are its own."""
    with suppress(OSError), folder_fd(prefix, site) as fd:
        for entry in sorted(os.listdir(fd)):  # noqa: PTH208  # a descriptor is no path
            stem, _, end = entry.rpartition(".")
            if end != "dist-info" or canonical(stem.partition("-")[0]) not in wanted:
                continue
            folder = posixpath.join(site, entry)
            for listed in recorded(prefix, folder):
                name = posixpath.normpath(posixpath.join(site, listed))
                is_inside = not name.startswith(("../", "/")) and name not in ("..", ".")
                if is_inside and not name.startswith(folder + "/"):
                    yield name
                    yield from compiled(name, site)
            yield folder


def recorded(prefix: Path, folder: str) -> list[str]:
    """Return the paths in the RECORD of a distribution; none if it can't be read."""
    found: list[str] = []
    text = read_below(prefix, f"{folder}/RECORD", RECORD_BYTES).decode("utf-8", "replace")
    with suppress(csv.Error):
        found += [row[0] for row in csv.reader(text.splitlines()) if row and "\0" not in row[0]]
    return found


def compiled(name: str, site: str) -> Iterator[str]:
    """Yield the bytecode files of a module, which no RECORD has."""
    stem, dot, end = name.rpartition(".")
    if (dot, end) == (".", "py"):
        folder, module = posixpath.split(stem)
        tag = "cpython-" + site.split("/")[1].removeprefix("python").replace(".", "")
        for level in ("", ".opt-1", ".opt-2"):
            yield posixpath.join(folder, "__pycache__", f"{module}.{tag}{level}.pyc")


def read_below(prefix: Path, name: str, limit: int) -> bytes:
    """Return up to `limit` bytes of a regular file below `prefix`; nothing if there is none."""
    with suppress(OSError), parent_of(prefix, name) as (fd, last):
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        with os.fdopen(os.open(last, flags, dir_fd=fd), "rb") as file:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return file.read(limit)
    return b""


def is_frame(name: str) -> bool:
    """Say whether a path belongs to the frame of an environment."""
    return name in FRAME or (name.startswith("bin/python3.") and name[12:].isdecimal())


def parents(name: str) -> Iterator[str]:
    """Yield the folders that a relative path is in, but not those of the frame."""
    while (name := posixpath.dirname(name)).count("/") > 2:  # lib/python3.x/site-packages/...
        yield name


@contextmanager
def folder_fd(prefix: Path, name: str) -> Iterator[int]:
    """Open a folder below `prefix` without following any link below it.

    Raises:
        OSError: It is no folder, or behind a link.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    with folder(prefix.parent, "") as above:
        fd = os.open(prefix.name, flags, dir_fd=above)
    try:
        for part in filter(None, name.split("/")):
            inner = os.open(part, flags, dir_fd=fd)
            os.close(fd)
            fd = inner
        yield fd
    finally:
        os.close(fd)


@contextmanager
def parent_of(prefix: Path, name: str) -> Iterator[tuple[int, str]]:
    """Open the folder that an entry below `prefix` is in; with the entry's own name."""
    above, last = posixpath.split(name)
    with folder_fd(prefix, above) as fd:
        yield fd, last


def mode_of(fd: int, name: str) -> int:
    """Return the mode of an entry of a folder, not of what it links to; 0: there is none."""
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return 0
