"""Where things are: the state directory, the runtime directory, the workspace.

The state directory holds what outlives a server (database, environments, spill files);
the runtime directory what does not (sockets, connection files), under a path short enough
for Unix sockets. Both are 0700 and ours, or we refuse. The workspace is the user's.
"""

import errno
import fcntl
import hashlib
import json
import os
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from kernelry.beneath import follow_none_below, remove_tree
from kernelry.errors import StateDirHeldError, StoreError

SOCKET_PATH_LIMIT = 100  # bytes; Linux allows 107, macOS 103, zmq adds "-1"
REMOVE_SECONDS = 1.0  # for the runtime directory at the end
LINKS = 40  # that Linux follows from one path
UNKNOWN_HOLDER = "another process"
DATABASE_NAME = "kernelry.sqlite"
LOCK_NAME = "lock"
AREA = "-"  # ends the name of the area of a branch
NUMBERED_STATE_DIRS = 64  # how many servers of one user may run with a state of their own


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folder that all sessions share, on purpose; every kernel's cwd."""

    #: the folder itself
    root: Path

    @property
    def scripts(self) -> Path:
        """Saved scripts; importable in every session."""
        return self.root / "scripts"

    @property
    def outputs(self) -> Path:
        """Images and files that sessions produce."""
        return self.root / "outputs"

    @property
    def uploads(self) -> Path:
        """Files that people bring."""
        return self.root / "uploads"

    def create(self) -> None:
        """Make the folder and its three parts where they are missing."""
        for folder in (self.root, self.scripts, self.outputs, self.uploads):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                msg = f"can't create the workspace folder {folder}: {error.strerror or error}"
                raise StoreError(msg) from error


def private_directory(path: Path) -> Path:
    """Make `path` a directory that only we can enter.

    Raises:
        StoreError: It is a symlink, another user's, or can't be made.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise StoreError(f"{path} is not a directory of ours. Name another one.")
        if status.st_mode & 0o077:
            path.chmod(0o700)
    except OSError as error:
        msg = f"can't use {path}: {error.strerror or error}. Name another directory."
        raise StoreError(msg) from error
    return path


class StateDirectory:
    """A state directory and the lock that makes it ours while we live."""

    def __init__(self, path: Path, lock: IO[str]) -> None:
        self.path = path
        self._lock = lock
        digest = hashlib.blake2s(os.fsencode(path.resolve()), digest_size=5).hexdigest()
        self.runtime = private_directory(runtime_base() / digest)
        follow_none_below(self.branches)

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.path / DATABASE_NAME

    @property
    def sessions(self) -> Path:
        """Holds the private directories of sessions."""
        return self.path / "sessions"

    @property
    def branches(self) -> Path:
        """Holds what copies of kernels behind walls may write: each has an area for its own."""
        return self.path / "branches"

    def place(self, name: str) -> Path:
        """Return the private directory of a session.

        Args:
            name: As its record says: relative to those of sessions.
        """
        return Path(os.path.normpath(self.sessions / name))

    def area(self, directory: Path) -> Path:
        """Return where a session's kernel, behind walls, may write for copies of it.

        Walls can only be narrowed: what a copy may write its origin may, too. So the directories
        of branches lie in their origin's area, and nothing on the way there is to be followed.

        Args:
            directory: The session's.
        """
        if directory.parent == self.sessions:
            return self.branches / directory.name
        return directory.with_name(f"{directory.name}{AREA}")

    @property
    def blobs(self) -> Path:
        """Holds the contents of artifacts."""
        return self.path / "blobs"

    @property
    def checkpoints(self) -> Path:
        """Holds saved namespaces, and the key that they are signed with."""
        return self.path / "checkpoints"

    def reclaim(self) -> None:
        """Make sure that the directory is there and still ours, also if it was removed.

        Raises:
            StateDirHeldError: Another server has taken it meanwhile.
            StoreError: It can't be made again.
        """
        private_directory(self.path)
        if _is_at(self._lock, self.path / LOCK_NAME):
            return
        lock = lock_file(self.path)
        if lock is None:
            raise StateDirHeldError(
                f"{self.path} was removed and is in use by {holder_of(self.path)} now. "
                "Stop one of the two servers."
            )
        self._lock.close()
        self._lock = lock

    def release(self, *, keep_runtime: bool = False) -> None:
        """Give everything back. If we are killed the lock goes anyway.

        Args:
            keep_runtime: Whether kernels live on, and so their sockets stay.
        """
        if keep_runtime:
            with suppress(OSError):  # there is something to keep
                self.runtime.rmdir()
        else:
            # Sockets of kernels that were killed while they started are still there.
            remove_tree(self.runtime, REMOVE_SECONDS)  # the next start removes the rest
        self._lock.close()


def claim_state_directory(path: Path, *, explicit: bool) -> StateDirectory:
    """Take a state directory for this server.

    Args:
        path: The directory.
        explicit: Whether somebody named it. If not, and it is held by a live server, the
            next free numbered one beside it is taken.

    Raises:
        StateDirHeldError: It is held and was named; the message names the holder.
        StoreError: It can't be used.
    """
    candidates = [path]
    if not explicit:
        candidates += [path.with_name(f"{path.name}-{n}") for n in range(2, NUMBERED_STATE_DIRS)]
    for candidate in candidates:
        private_directory(candidate)
        lock = lock_file(candidate)
        if lock is not None:
            return StateDirectory(candidate, lock)
    msg = (
        f"the state directory {path} is in use by {holder_of(path)}. "
        "Stop that server, or name another directory with --state-dir."
    )
    raise StateDirHeldError(msg)


def lock_file(directory: Path) -> IO[str] | None:
    """Return the held lock of `directory`, or None if another process holds it.

    Raises:
        StoreError: It can't be written.
    """
    path = directory / LOCK_NAME
    try:
        while True:
            file = path.open("a+", encoding="utf-8")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Removed between the two calls, it would lock nobody else out.
                if _is_at(file, path):
                    _sign(file)
                    return file
            except BlockingIOError:
                file.close()
                return None
            except BaseException:
                file.close()
                raise
            file.close()
    except OSError as error:
        msg = f"can't write in {directory}: {error.strerror or error}. Name another directory."
        raise StoreError(msg) from error


def holder_of(directory: Path) -> str:
    """Say who holds the lock of `directory` and since when, as far as it tells."""
    try:
        holder = json.loads((directory / LOCK_NAME).read_text(encoding="utf-8"))
        pid, host, since = int(holder["pid"]), str(holder["host"]), holder["since"]
        if host == os.uname().nodename and process_start(pid) != holder["started"]:
            return UNKNOWN_HOLDER  # it has not signed yet: that is the one before
        at = datetime.fromtimestamp(since, UTC).isoformat(timespec="seconds")
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError):
        return UNKNOWN_HOLDER
    return f"process {pid} on {host} since {at}"


def process_start(pid: int) -> int:
    """Return when a process started, in clock ticks since the boot; 0 if that can't be known.

    Together with the pid it names a process for as long as the machine runs.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        # The name of the program, in parentheses, may hold anything.
        return int(text.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def _sign(lock: IO[str]) -> None:
    """Write into the lock who holds it; until then a reader finds nothing."""
    holder = {
        "pid": os.getpid(),
        "host": os.uname().nodename,
        "since": time.time(),
        "started": process_start(os.getpid()),
    }
    os.ftruncate(lock.fileno(), 0)
    line = json.dumps(holder).encode()
    if os.write(lock.fileno(), line) != len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def runtime_base() -> Path:
    """Return the short private directory for sockets."""
    candidates = [Path("/tmp") / f"kernelry-{os.getuid()}"]  # checked to be ours
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        candidates.insert(0, Path(runtime) / "kernelry")
    for candidate in candidates:
        # digest, kernel name and socket name come on top
        if len(os.fsencode(candidate)) + 40 <= SOCKET_PATH_LIMIT and (
            candidate.parent.is_dir() and os.access(candidate.parent, os.W_OK)
        ):
            return private_directory(candidate)
    raise StoreError("no short writable directory for sockets: set XDG_RUNTIME_DIR to one")


def route(path: Path) -> list[Path]:
    """Return what is passed on the way to a file: each folder and each link, and the file.

    Whoever can put something else in the place of one of them decides where the path leads.

    Args:
        path: Any; what is not there yet is taken as it is written.
    """
    here = path.expanduser().absolute()
    todo, here = list(reversed(here.parts[1:])), Path(here.anchor)
    passed: list[Path] = []
    followed = 0
    while todo:
        part = todo.pop()
        here = here.parent if part == ".." else here / part
        passed.append(here)
        if followed < LINKS and here.is_symlink():
            followed += 1
            target = here.readlink()
            todo += reversed(target.parts[1:] if target.is_absolute() else target.parts)
            here = Path(target.anchor) if target.is_absolute() else here.parent
    return passed


def leads_through(path: Path, folder: Path) -> bool:
    """Say whether somebody who can write in a folder can change where a path leads.

    Args:
        path: That which is to be trusted.
        folder: Where somebody can write. The path may be this folder itself.
    """
    real = folder.expanduser().absolute().resolve()
    return any(real in step.parents for step in route(path))


def is_within(path: Path, folder: Path) -> bool:
    """Say whether a path leads through a folder, or to it."""
    return leads_through(path, folder) or path.expanduser().absolute().resolve() == (
        folder.expanduser().absolute().resolve()
    )
