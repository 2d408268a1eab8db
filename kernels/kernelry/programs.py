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
from typing import Any

from kernelry.shielding import to_the_end

F_SETSIG = 10  # Linux; the fcntl module has no name for it
TERM_GRACE = 6.0  # seconds a program has to end in after SIGTERM; `confined` takes up to 5
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
    argv: Sequence[str],
    *,
    timeout: float,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    hear: Callable[[bytes], None] | None = None,
    started: Callable[[int], None] | None = None,
) -> Completed:
    """Run a program to its end, in a process group of its own, without a shell.

    Its output is kept up to a limit (beginning and end), and `hear` is called with all of it
    as it comes. On timeout and on cancellation the whole group is ended before this returns (by
    SIGTERM, which `confined` heeds by ending all that its program has started, then by SIGKILL);
    a timeout is returncode -9 and says so; that of a program which has ended, and left others
    that hold its output, is its own. Should we be killed, Linux ends the group.

    Args:
        argv: The program and its arguments.
        timeout: Seconds it may take, with those it has started that write where it does.
        env: Environment variables, all of them; None: ours.
        cwd: Its working directory; None: ours.
        hear: Called with what it writes.
        started: Called with its pid, as soon as it has one.

    Raises:
        OSError: It can't be started.
    """
    async with _started(argv, env, cwd, hear=hear) as program:
        if started is not None:
            started(program.pid)
        return await program.finish(timeout)


class Waiting:
    """A program that was started and waits on its stdin to be told what to run.

    Args:
        program: The program.
    """

    def __init__(self, program: "Program") -> None:
        self._program = program

    async def run(
        self, argv: Sequence[str], *, timeout: float, hear: Callable[[bytes], None] | None = None
    ) -> Completed:
        """Tell it, and run it to its end; as `run_program`."""
        self._program.hear = hear
        self._program.tell(json.dumps(argv).encode())
        return await self._program.finish(timeout)


@asynccontextmanager
async def waiting_program(
    argv: Sequence[str], *, env: dict[str, str] | None = None, cwd: Path | None = None
) -> AsyncIterator[Waiting]:
    """Start a program that reads from its stdin what to run; what is not told ends with this."""
    async with _started(argv, env, cwd, stdin=asyncio.subprocess.PIPE) as program:
        yield Waiting(program)


class Program(asyncio.SubprocessProtocol):
    """A program that runs: what it has written, and whether it has ended.

    asyncio's own `Process` has no end while anybody holds its pipes open, however dead it is.

    Args:
        hear: Called with what it writes.
    """

    def __init__(self, hear: Callable[[bytes], None] | None) -> None:
        #: called with what it writes
        self.hear = hear
        self._kept = {1: Kept(), 2: Kept()}
        self._ended = asyncio.Event()
        self._quiet = asyncio.Event()
        self._transport: asyncio.SubprocessTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take note that it was started."""
        assert isinstance(transport, asyncio.SubprocessTransport)
        self._transport = transport

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Keep what it has written."""
        self._kept[fd].add(data)
        if self.hear is not None:
            self.hear(data)

    def process_exited(self) -> None:
        """Take note that it has ended; others may go on to write where it did."""
        self._ended.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note that it has ended and that nobody can write any more."""
        self._quiet.set()

    @property
    def pid(self) -> int:
        """Its process, which leads its group."""
        assert self._transport is not None
        return self._transport.get_pid()

    def tell(self, text: bytes) -> None:
        """Write to its stdin, and close that."""
        assert self._transport is not None
        stdin = self._transport.get_pipe_transport(0)
        assert isinstance(stdin, asyncio.WriteTransport)
        stdin.write(text)
        stdin.close()

    async def finish(self, timeout: float) -> Completed:
        """Return when it is over, at the latest after `timeout` seconds."""
        note = ""
        try:
            async with asyncio.timeout(timeout):
                await self._quiet.wait()
        except TimeoutError:
            what = "what it has left running" if self._ended.is_set() else "it"
            note = f"\n[killed: {what} took longer than {timeout:g} s]"
            await self.end()
        assert self._transport is not None
        code = self._transport.get_returncode()
        if code == -signal.SIGTERM and note:  # how it is ended is not the reader's business
            code = -signal.SIGKILL
        out, err = (self._kept[fd].text for fd in (1, 2))
        return Completed(returncode=-9 if code is None else code, stdout=out, stderr=err + note)

    def _send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    async def end(self) -> None:
        """End its group, and return when it is gone and was heard to the end.

        Whoever has left the group and still holds the pipes open is waited for a moment only.
        """
        if self._transport is None or self._transport.is_closing():
            return  # it could not be started, or this was done
        self._send(signal.SIGTERM)
        try:
            async with asyncio.timeout(TERM_GRACE):
                await self._ended.wait()
        except TimeoutError:
            self._send(signal.SIGKILL)
            await self._ended.wait()
        self._send(signal.SIGKILL)  # those of its group that had other plans for SIGTERM
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS):
                await self._quiet.wait()
        self._transport.close()


@asynccontextmanager
async def _started(
    argv: Sequence[str],
    env: dict[str, str] | None,
    cwd: Path | None,
    *,
    stdin: int = asyncio.subprocess.DEVNULL,
    hear: Callable[[bytes], None] | None = None,
) -> AsyncIterator[Program]:
    """Start a program; when this ends, however it does, the program has ended too."""
    program = Program(hear)
    with lifeline() as hold:
        starting = asyncio.ensure_future(
            asyncio.get_running_loop().subprocess_exec(
                lambda: program,
                *argv,
                stdin=stdin,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=env,
                cwd=cwd,
                start_new_session=True,
                pass_fds=(hold,),
            )
        )
        try:
            await asyncio.shield(starting)  # half made it could not be ended
            if sys.platform == "linux":
                with suppress(ProcessLookupError):  # it has ended, and was waited for, already
                    fcntl.fcntl(hold, fcntl.F_SETOWN, -program.pid)
            yield program
        finally:
            await to_the_end(_over(starting, program))


async def _over(starting: "asyncio.Future[Any]", program: Program) -> None:
    await asyncio.wait([starting])
    await program.end()


@contextmanager
def lifeline() -> Iterator[int]:
    """Make a pipe whose other end only we hold; who owns this end is ended when we are gone."""
    readable, writable = os.pipe()
    try:
        if sys.platform == "linux":
            fcntl.fcntl(readable, F_SETSIG, signal.SIGTERM)
            flags = fcntl.fcntl(readable, fcntl.F_GETFL)
            fcntl.fcntl(readable, fcntl.F_SETFL, flags | os.O_ASYNC)
        yield readable
    finally:
        os.close(readable)
        os.close(writable)


class Kept:
    """The beginning and the end of a stream of bytes, with an exact count between."""

    def __init__(self, limit: int = OUTPUT_BYTES) -> None:
        self._half = limit // 2
        self._head = bytearray()
        self._tail = bytearray()
        self._size = 0

    def add(self, data: bytes) -> None:
        """Take more of the stream."""
        self._size += len(data)
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
