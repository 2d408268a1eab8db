"""Run programs to their end: no shell, bounded output, nothing left behind."""

import asyncio
import fcntl
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import anyio

F_SETSIG = 10  # Linux; the fcntl module has no name for it
LAST_WORDS = 1.0  # seconds that what outlived the kill may hold the pipes open
OUTPUT_BYTES = 20_000  # of each of stdout and stderr that is kept


@dataclass(frozen=True, kw_only=True, slots=True)
class Completed:
    """A program that has ended."""

    #: its exit code; negative: minus the signal that killed it
    returncode: int
    #: what it wrote, decoded
    stdout: str
    #: what it wrote to stderr, decoded
    stderr: str


async def run_program(
    argv: list[str],
    *,
    timeout: float,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    hear: Callable[[bytes], None] | None = None,
) -> Completed:
    """Run a program to its end, in a process group of its own, without a shell.

    Its output is kept up to a limit (beginning and end), and `hear` is called with all of it
    as it comes. On timeout and on cancellation the whole group is killed before this returns;
    a timeout is returncode -9 and says so. Should we be killed, Linux kills the group.
    """
    with lifeline() as hold:
        process = await _start(argv, env, cwd, hold)
        return await _finish(process, timeout, hear)


class Waiting:
    """A program that was started and waits on its stdin to be told what to run.

    Args:
        process: The program.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def run(
        self, argv: Sequence[str], *, timeout: float, hear: Callable[[bytes], None] | None = None
    ) -> Completed:
        """Tell it, and run it to its end; as `run_program`."""
        stdin = self._process.stdin
        assert stdin is not None
        with suppress(ConnectionError):  # it has ended, and says why
            stdin.write(json.dumps(argv).encode())
            await stdin.drain()
            stdin.close()
        return await _finish(self._process, timeout, hear)


@asynccontextmanager
async def waiting_program(
    argv: list[str], *, env: dict[str, str] | None = None, cwd: Path | None = None
) -> AsyncIterator[Waiting]:
    """Start a program that reads from its stdin what to run; what is not told ends with this."""
    with lifeline() as hold:
        process = await _start(argv, env, cwd, hold, stdin=asyncio.subprocess.PIPE)
        try:
            yield Waiting(process)
        finally:
            if process.returncode is None:
                await _finish(process, 0, None)


async def _start(
    argv: list[str],
    env: dict[str, str] | None,
    cwd: Path | None,
    hold: int,
    stdin: int = asyncio.subprocess.DEVNULL,
) -> asyncio.subprocess.Process:
    with anyio.CancelScope(shield=True):  # half made it could not be ended
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=env,
            cwd=cwd,
            start_new_session=True,
            pass_fds=(hold,),
        )
        if sys.platform == "linux":
            with suppress(ProcessLookupError):  # it has ended, and was waited for, already
                fcntl.fcntl(hold, fcntl.F_SETOWN, -process.pid)
        return process
    raise AssertionError("a shielded scope ends no block")


async def _finish(
    process: asyncio.subprocess.Process, timeout: float, hear: Callable[[bytes], None] | None
) -> Completed:
    assert process.stdout is not None and process.stderr is not None
    out, err = Kept(hear=hear), Kept(hear=hear)
    note = ""
    try:
        async with asyncio.timeout(timeout):
            await asyncio.gather(out.read(process.stdout), err.read(process.stderr))
            await process.wait()
    except TimeoutError:
        note = f"\n[killed: it took longer than {timeout:g} s]"
    finally:
        # A cancelled scope cancels again and again; nothing of the process may be left then.
        with anyio.CancelScope(shield=True):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS):
                    await asyncio.gather(out.read(process.stdout), err.read(process.stderr))
    code = process.returncode if process.returncode is not None else -9
    return Completed(returncode=code, stdout=out.text, stderr=err.text + note)


@contextmanager
def lifeline() -> Iterator[int]:
    """Make a pipe whose other end only we hold; who owns this end is killed when we are gone."""
    readable, writable = os.pipe()
    try:
        if sys.platform == "linux":
            fcntl.fcntl(readable, F_SETSIG, signal.SIGKILL)
            flags = fcntl.fcntl(readable, fcntl.F_GETFL)
            fcntl.fcntl(readable, fcntl.F_SETFL, flags | os.O_ASYNC)
        yield readable
    finally:
        os.close(readable)
        os.close(writable)


class Kept:
    """The beginning and the end of a stream of bytes, with an exact count between."""

    def __init__(
        self, limit: int = OUTPUT_BYTES, *, hear: Callable[[bytes], None] | None = None
    ) -> None:
        self._hear = hear
        self._half = limit // 2
        self._head = bytearray()
        self._tail = bytearray()
        self._size = 0

    async def read(self, stream: asyncio.StreamReader) -> None:
        """Read `stream` to its end."""
        while data := await stream.read(1 << 16):
            self._size += len(data)
            if self._hear is not None:
                self._hear(data)
            room = self._half - len(self._head)
            self._head += data[:room]
            self._tail += data[max(room, 0) :]
            del self._tail[: -self._half]

    @property
    def text(self) -> str:
        """What was kept, with a notice of what was not."""
        omitted = self._size - len(self._head) - len(self._tail)
        head = self._head.decode("utf-8", "replace")
        tail = self._tail.decode("utf-8", "replace")
        return f"{head}\n[... {omitted} bytes left out ...]\n{tail}" if omitted else head + tail
