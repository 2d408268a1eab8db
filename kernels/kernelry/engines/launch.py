"""What a kernel is started with, and what all ways to start one share."""

import asyncio
import functools
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kernelry import bounds
from kernelry.apart import in_thread
from kernelry.beneath import make_private, reading, remove_tree
from kernelry.errors import KernelStartError
from kernelry.messaging import Connection
from kernelry.models import Isolation
from kernelry.processes import KERNEL_MARK, KernelProcess, is_readable
from kernelry.shielding import to_the_end
from kernelry.walls import INSIDE, Walls, own_paths

NEEDED_BYTES = 1 << 20  # a log, a journal, IPython's profile
LOG_LINES = 20  # lines of the kernel's log that a failed start quotes


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputLimits:
    """How much of an execution's output leaves the kernel; see kernelry/inside/kernel/budget.py."""

    #: characters sent as they come
    head_chars: int = 100_000
    #: last characters kept of each stream beyond that
    tail_chars: int = 4_000
    #: bytes of an execution's spill file
    spill_bytes: int = 64 << 20
    #: displays sent as they come; further ones become text in the spill file
    displays: int = 200
    #: bytes of images and other rich forms
    rich_bytes: int = 32 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """A session's virtual environment, as its kernel must know it."""

    #: the environment's directory; the kernel makes it if there is none
    prefix: Path
    #: the program that shall be called uv in it; None: none
    uv: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """All that a kernel needs to know to start."""

    #: interpreter that has ipykernel
    python: Path
    #: shared folder; the kernel's cwd
    workspace: Path
    #: private directory of the session: log, spill files, IPython's profile
    directory: Path
    #: environment variables, all of them
    env: dict[str, str]
    #: virtual environment to start in; None: that of the interpreter itself
    environment: Environment | None = None
    #: whether to answer Jupyter's heartbeat
    heartbeat: bool = False
    #: output budgets
    output: OutputLimits = field(default_factory=OutputLimits)
    #: whether it keeps what it publishes for a server that comes later
    journaled: bool = True
    #: FIFO that its guardians hold: the kernel ends when nobody does; None: it does not care
    lifeline: Path | None = None
    #: what stands between it and the rest
    walls: Walls = field(default_factory=Walls)
    #: what has to be readable for its interpreter to run
    reads: tuple[Path, ...] = ()
    #: where copies of it have their directories, if it has walls; None: there can't be any
    area: Path | None = None

    @property
    def journal(self) -> Path:
        """Where the kernel keeps what it published; see kernelry/inside/kernel/journal.py."""
        return self.directory / "journal.jsonl"

    @property
    def areas(self) -> tuple[Path, ...]:
        """Where copies of it have their directories: one area, or none."""
        return (self.area,) if self.area and self.has_walls and self.takes_branches else ()

    @property
    def folders(self) -> tuple[Path, ...]:
        """What the kernel's variables point to in its directory; see kernelry/config.py."""
        return (self.directory / "home", self.directory / "tmp")

    def config(
        self, connection_file: Path, connection: dict[str, Any], ready_fd: int
    ) -> dict[str, Any]:
        """Return what the launcher reads."""
        environment = self.environment
        plan = self.walls.plan(
            reads=dict.fromkeys([*self.reads, *own_paths(), cloudpickle()]),  # mostly the same
            writes=[self.workspace, self.directory, *self.areas],
            sockets=[connection_file.parent],
        )
        return {
            "connection_file": str(connection_file),
            "connection": connection,
            "ready_fd": ready_fd,
            "command": self.command(connection_file.with_suffix(".launch"), plan),
            "spawn_env": self.spawn_environment(connection_file),
            "kernel": self.kernel(connection_file.with_suffix(".launch")),
            "walls": plan,
            "lifeline": str(self.lifeline or ""),
            "branches": self.takes_branches,
            "directory": str(self.directory),
            "cwd": str(self.workspace),
            "workspace": str(self.workspace),
            "heartbeat": self.heartbeat,
            "cloudpickle": str(cloudpickle()),
            "env": self.environment_of(connection_file),
            "log_file": str(self.directory / "kernel.log"),
            "stack_file": str(self.directory / "stacks.txt"),
            "touched_file": str(self.directory / "touched"),
            "journal_file": str(self.journal) if self.journaled else "",
            "environment": {"prefix": str(environment.prefix), "uv": str(environment.uv or "")}
            if environment
            else None,
            "output": {
                "spill_dir": str(self.directory / "spill"),
                "head_chars": self.output.head_chars,
                "tail_chars": self.output.tail_chars,
                "spill_bytes": self.output.spill_bytes,
                "displays": self.output.displays,
                "rich_bytes": self.output.rich_bytes,
            },
        }

    async def discard(self) -> None:
        """Remove the private directory; its kernel has ended, and no session has it."""
        folders = (self.directory, *self.areas)
        await to_the_end(asyncio.gather(*(in_thread(remove_tree, one) for one in folders)))

    @property
    def takes_branches(self) -> bool:
        """Say whether live copies of the kernel can be asked for."""
        return sys.platform == "linux" and self.journaled

    def kernel(self, launch_file: Path) -> list[str]:
        """Return how the launcher is started as a fresh process, but for walls around it."""
        # -s: the user's own packages would be those in the session's HOME, which are the cells'.
        return [str(self.python), "-P", "-s", str(INSIDE), "kernel", str(launch_file)]

    def command(self, launch_file: Path, plan: dict[str, Any]) -> list[str]:
        """Return how a kernel is started as a fresh process, in the walls that it shall have.

        They stand before the first line of its interpreter, which may be a session's to change:
        our own enters them, and becomes the kernel's (kernelry/inside/starting/entering.py).
        """
        if not self.has_walls:
            return self.kernel(launch_file)
        argv = [sys.executable, "-I", "-S", str(INSIDE), "enter", str(launch_file)]
        # It opens its lifeline before it enters its walls.
        held = ("--ro-bind-try", str(self.lifeline), str(self.lifeline)) if self.lifeline else ()
        return self.walls.command(argv, plan, self.workspace, *held)

    @property
    def has_walls(self) -> bool:
        """Say whether the kernel shall be in any."""
        return self.walls.isolation is not Isolation.PROCESS

    def environment_of(self, connection_file: Path) -> dict[str, str]:
        """Return the kernel's variables, with the mark by which all it starts can be found."""
        return self.env | {KERNEL_MARK: connection_file.stem}

    def spawn_environment(self, connection_file: Path) -> dict[str, str]:
        """Return the variables of what enters the walls: none that would lead it elsewhere.

        The kernel's may have a path for libraries, in which a session can write.
        """
        if not self.has_walls:
            return self.environment_of(connection_file)
        return {"PATH": os.defpath, KERNEL_MARK: connection_file.stem}

    def write_files(self, connection: Connection, ready_fd: int) -> Path:
        """Write the connection file and the launch file; return the latter's path."""
        connection_file = Path(f"{connection.path}.json")
        write_private(connection_file, connection.file_content())
        return self.write_file(connection_file, connection.file_content(), ready_fd)

    def write_file(self, connection_file: Path, connection: dict[str, Any], ready_fd: int) -> Path:
        """Write the launch file for a connection file that is there, and what that says.

        Returns:
            Its path.
        """
        try:
            for folder in (self.directory, *self.folders, *self.areas):
                make_private(folder)
        except OSError as error:
            msg = (
                f"can't make {self.directory}: {error.strerror}.{full_disk(self.directory.parent)}"
            )
            raise KernelStartError(msg) from error
        launch_file = connection_file.with_suffix(".launch")
        write_private(launch_file, self.config(connection_file, connection, ready_fd))
        return launch_file


@functools.cache
def cloudpickle() -> Path:
    """Return the folder of our own cloudpickle: a kernel's interpreter may have none."""
    spec = find_spec("cloudpickle")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def full_disk(directory: Path) -> str:
    """Say so if the disk of a directory has no room for what a kernel writes; else nothing."""
    with suppress(OSError):
        if shutil.disk_usage(directory).free < NEEDED_BYTES:
            return f" The disk of {directory} is full: free space there and try again."
    return ""


def log_tail(*paths: Path) -> str:
    """Return the last lines of the first log that has any, for an error message."""
    tail: list[str] = []
    for path in paths:
        data = reading.tail(path.parent, path.name, bounds.LOG_BYTES)
        tail = tail or data.decode("utf-8", "replace").strip().splitlines()[-LOG_LINES:]
    return "\nIts last words:\n" + "\n".join(tail) if tail else " It said nothing."


@contextmanager
def ready_pipe() -> Iterator[tuple[int, int]]:
    """Make the pipe on which a kernel says that it is ready; the write end is closed at the end.

    The read end is the caller's, unless this is left by an exception.
    """
    readable, writable = os.pipe()
    try:
        yield readable, writable
    except BaseException:
        os.close(readable)
        raise
    finally:
        os.close(writable)


async def await_ready(
    launch: Launch, process: KernelProcess, ready_fd: int, *, deadline: float
) -> None:
    """Wait until a starting kernel says on its pipe that its sockets are bound.

    The descriptor is closed in any case.

    Raises:
        KernelStartError: It ended or took too long, and is gone; its log is quoted.
    """
    try:
        ready = await read_byte(ready_fd, deadline)
    except BaseException:
        await process.kill()
        raise
    if ready == b"1":
        return
    ended = await process.kill()
    why = f"took longer than {deadline:g} s" if ready is None else f"ended ({ended})"
    tail = full_disk(launch.directory) or log_tail(
        launch.directory / "kernel.log", launch.directory / "stacks.txt"
    )
    msg = f"the kernel of {launch.python} {why} while it started.{tail}"
    raise KernelStartError(msg)


async def read_byte(fd: int, deadline: float) -> bytes | None:
    """Return a byte from a pipe, or nothing at its end; None: too late. Closes it."""
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()

    def on_readable() -> None:
        if not readable.done() and is_readable(fd):
            readable.set_result(None)

    loop.add_reader(fd, on_readable)
    try:
        async with asyncio.timeout(deadline):
            await readable
        return os.read(fd, 1)
    except TimeoutError:
        return None
    finally:
        loop.remove_reader(fd)
        os.close(fd)


def write_private(path: Path, content: dict[str, Any]) -> None:
    """Write JSON that only we can read."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(json.dumps(content))  # `dump` does it piece by piece, in Python
