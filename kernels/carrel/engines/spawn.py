"""Start a kernel as a fresh process of the launcher in carrel/inside."""

import asyncio
import json
import os
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from carrel.engines.channels import Connection
from carrel.engines.process import KernelProcess
from carrel.errors import KernelStartError

INSIDE = Path(__file__).parents[1] / "inside" / "__main__.py"
LOG_LINES = 20  # lines of the kernel's log that a failed start quotes


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputLimits:
    """How much of an execution's output leaves the kernel; see carrel/inside/budget.py."""

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

    #: the environment's directory
    prefix: Path
    #: its site-packages
    site: Path


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
    #: virtual environment to start in; None: the interpreter's own
    environment: Environment | None = None
    #: output budgets
    output: OutputLimits = field(default_factory=OutputLimits)

    def config(self, connection: Connection, ready_fd: int) -> dict[str, Any]:
        """Return what the launcher reads."""
        environment = self.environment
        return {
            "connection_file": f"{connection.path}.json",
            "ready_fd": ready_fd,
            "parent_pid": os.getpid(),
            "cwd": str(self.workspace),
            "workspace": str(self.workspace),
            "log_file": str(self.directory / "kernel.log"),
            "stack_file": str(self.directory / "stacks.txt"),
            "touched_file": str(self.directory / "touched"),
            "environment": {"prefix": str(environment.prefix), "site": str(environment.site)}
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


async def spawn(launch: Launch, connection: Connection, *, deadline: float) -> KernelProcess:
    """Start the launcher and return its process when its sockets are bound.

    Args:
        launch: What to start.
        connection: Where its sockets shall be.
        deadline: Seconds it may take.

    Raises:
        KernelStartError: It ended or took too long; the message quotes its log.
    """
    launch.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    readable, writable = os.pipe()
    try:
        process = _start(launch, connection, writable)
    finally:
        os.close(writable)
    try:
        ready = await _read_ready(readable, deadline)
    except BaseException:
        await process.kill()
        raise
    if ready == b"1":
        return process
    why = "took longer than %g s" % deadline if ready is None else "ended"  # noqa: UP031
    ended = await process.kill()
    if ready is not None:
        why = f"ended ({ended})"
    msg = f"the kernel of {launch.python} {why} while it started.{_log_tail(launch)}"
    raise KernelStartError(msg)


def _start(launch: Launch, connection: Connection, ready_fd: int) -> KernelProcess:
    """Write the files and start the process, on the caller's thread.

    The thread matters: Linux ends a kernel with the *thread* that started it
    (PR_SET_PDEATHSIG), so it must be the event loop's.
    """
    _write_private(Path(f"{connection.path}.json"), connection.file_content())
    launch_file = Path(f"{connection.path}.launch")
    _write_private(launch_file, launch.config(connection, ready_fd))
    log_fd = os.open(launch.directory / "kernel.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        popen = subprocess.Popen(
            [str(launch.python), "-P", str(INSIDE), str(launch_file)],
            cwd=launch.workspace,
            env=launch.env,
            stdin=subprocess.DEVNULL,
            stdout=log_fd,
            stderr=log_fd,
            pass_fds=(ready_fd,),
            start_new_session=True,
        )
    except OSError as error:
        msg = f"can't start {launch.python}: {error.strerror or error}"
        raise KernelStartError(msg) from error
    finally:
        os.close(log_fd)
    return KernelProcess(popen)


async def _read_ready(fd: int, deadline: float) -> bytes | None:
    """Return what the launcher wrote: one byte, or nothing if it ended; None: too late."""
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()

    def on_readable() -> None:
        if not readable.done():
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


def _write_private(path: Path, content: dict[str, Any]) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        json.dump(content, file)


def _log_tail(launch: Launch) -> str:
    lines: list[str] = []
    with suppress(OSError):
        log = (launch.directory / "kernel.log").read_text(encoding="utf-8", errors="replace")
        lines = log.strip().splitlines()[-LOG_LINES:]
    return "\nIts last words:\n" + "\n".join(lines) if lines else " It said nothing."
