"""A kernel forked from one that runs, with all that it has in memory.

The kernel forks itself (kernelry/inside/branching); what the copy shall have is made here and
handed in over a socket beside those of its channels: the sockets at which it listens, its launch
file, its lifeline. What a kernel answers is its word: who the copy is, is looked up.
"""

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from kernelry import bounds
from kernelry.apart import in_thread
from kernelry.engines.frozen import REAP_DEADLINE, FrozenKernel, ask
from kernelry.engines.kernel import LocalKernel
from kernelry.engines.launch import Launch, await_ready, ready_pipe
from kernelry.errors import KernelSilentError, KernelStartError
from kernelry.messaging import BRANCHES, PORTS, Connection
from kernelry.output import taking
from kernelry.processes import (
    BranchProcess,
    Exit,
    KernelProcess,
    all_children,
    cpu_time,
    end_orphans,
    exit_code,
    number_inside,
    parent_of,
    waited,
)
from kernelry.shielding import to_the_end

BACKLOG = 100
CHANNELS = ("shell", "stdin", "control", "iopub")
GO = b"1"  # somebody looks after the copy
LINES = 20  # of what a kernel names
REAP_TRIES = 10
REAP_PAUSE = 0.05  # seconds between them


class NoCopyError(Exception):
    """Something stands against a live copy of a kernel; `why` says what."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True, slots=True)
class Copy:
    """A process that was forked from a kernel, and waits to be let go on."""

    #: the process
    process: BranchProcess
    #: what it lacks, or shares with its origin
    named: tuple[str, ...]
    #: the execution in the middle of which it was made; empty: between two
    inside: str
    _launch: Launch
    _readable: int
    _asking: socket.socket

    async def listens(self, deadline: float) -> None:
        """Let it go on, as somebody looks after it; returns when it listens.

        Raises:
            KernelStartError: It ended or took too long; nothing of it is left.
        """
        try:
            with self._asking:
                self._asking.send(GO)
        except OSError as error:
            os.close(self._readable)
            await to_the_end(self.process.kill())
            raise KernelStartError(f"the copy ended at once ({self.process.exit})") from error
        await await_ready(self._launch, self.process, self._readable, deadline=deadline)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What kind of copy of a kernel is wanted."""

    #: whether it waits as it is until copies of it are wanted
    frozen: bool = False
    #: whether it is another session's, and draws other random numbers
    branch: bool = False
    #: where code that runs is copied: nowhere (""), or at its next safe point ("safe_point")
    at: str = ""
    #: seconds to wait for that
    patience: float = 0.0


async def copy_of(
    origin: KernelProcess,
    door: Path,
    launch: Launch,
    connection: Connection,
    *,
    deadline: float,
    began: Callable[[BranchProcess], Awaitable[None]],
    wanted: "Wanted",
) -> Copy:
    """Have a kernel forked from another; returns when that is done and it is looked after.

    The copy does nothing before somebody looks after it, and ends if we do before that.

    Args:
        origin: Of which.
        door: Path prefix of that one's sockets.
        launch: What the copy shall be.
        connection: Where its sockets shall be.
        deadline: Seconds it may take.
        began: Called when there is a process, to have it looked after.
        wanted: What kind of copy.

    Raises:
        NoCopyError: The kernel can't be forked as it is; nothing was done.
        KernelStartError: It did not answer, or the copy ended or took too long.
        TimeoutError: It came to no safe point in time.
    """
    try:
        launch_file = launch.write_files(connection, -1)
    except OSError as error:
        raise KernelStartError(f"what a copy needs can't be written: {error}") from error
    with ready_pipe() as (readable, writable), ExitStack() as stack:
        asking = stack.enter_context(closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)))
        asking.setblocking(False)
        try:
            channels = [] if wanted.frozen else [PORTS[name] for name in CHANNELS]
            ports = {port: listen(connection, port, stack) for port in (*channels, BRANCHES)}
            file = stack.enter_context(launch_file.open("rb"))
            lifeline = os.open(str(launch.lifeline), os.O_RDONLY | os.O_NONBLOCK)
            stack.callback(os.close, lifeline)
            async with asyncio.timeout(deadline):
                await asyncio.get_running_loop().sock_connect(asking, f"{door}-{BRANCHES}")
        except (OSError, TimeoutError) as error:
            raise NoCopyError(f"the kernel can't be asked for a copy of it: {error}") from error
        try:
            async with asyncio.timeout(wanted.patience or deadline):
                about = {**asdict(wanted), "directory": str(launch.directory)}
                request = json.dumps({"ports": list(ports), **about}).encode()
                fds = [file.fileno(), writable, lifeline, *ports.values()]
                answer = await ask(asking, request, fds)
        except (OSError, ValueError) as error:
            if wanted.at and isinstance(error, TimeoutError):
                raise
            why = "in time" if isinstance(error, TimeoutError) else f"as it should: {error}"
            msg = f"the kernel that was to be copied did not answer {why}"
            raise KernelStartError(msg) from error
        process, named, inside = taken(answer, origin)
        try:
            await began(process)
            return Copy(process, named, inside, launch, readable, detached(asking))
        except BaseException as error:
            await to_the_end(process.kill())
            if isinstance(error, OSError):
                raise KernelStartError(f"the copy ended at once ({process.exit})") from error
            raise


def detached(connection: socket.socket) -> socket.socket:
    """Return a connection as one that whoever had it does not close."""
    other = socket.socket(fileno=connection.detach())
    other.setblocking(False)
    return other


def listen(connection: Connection, port: int, stack: ExitStack) -> int:
    """Return a descriptor of a socket that listens for a kernel that is to come."""
    kind = socket.SOCK_SEQPACKET if port == BRANCHES else socket.SOCK_STREAM
    listener = stack.enter_context(closing(socket.socket(socket.AF_UNIX, kind)))
    listener.bind(f"{connection.path}-{port}")
    listener.listen(BACKLOG)
    return listener.fileno()


def taken(answer: object, origin: KernelProcess) -> tuple[BranchProcess, tuple[str, ...], str]:
    """Return the process that a kernel says it has forked, what it names, and what it ran.

    Raises:
        NoCopyError: It says why it has not.
        KernelStartError: It says nothing that makes sense, or what is not so.
    """
    try:
        told = taking.table(answer)
        if error := told.get("error"):
            raise NoCopyError(taking.line(error, bounds.ERROR_CHARS))
        named = tuple(taking.line(item, bounds.ERROR_CHARS) for item in told["named"][:LINES])
        if against := [taking.line(item, bounds.ERROR_CHARS) for item in told["against"][:LINES]]:
            raise NoCopyError("; ".join(against))
        number = taking.number(told["pid"])
        inside = taking.line(told.get("inside", ""), bounds.ERROR_CHARS)
        pid = seen_from_outside(origin, number)
        pidfd = os.pidfd_open(pid)
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        raise KernelStartError(
            f"the kernel that was copied says what can't be: {error!r}"
        ) from None
    if parent_of(pid) != origin.leader:  # looked at when we hold it: it is nobody else's number
        os.close(pidfd)
        raise KernelStartError(f"process {number} is no copy of the kernel")
    return BranchProcess(pid, pidfd), named, inside


def seen_from_outside(origin: KernelProcess, number: int) -> int:
    """Return which child of a kernel has a number for that; 0: none has."""
    if origin.first is None and origin.start != "box":  # there all numbers are ours, too
        return number
    found = (pid for pid in all_children(origin.leader) if number_inside(pid) == number)
    return next(found, 0)


async def reap(process: KernelProcess, kernels: Sequence["LocalKernel | FrozenKernel"]) -> None:
    """Have the kernel that is the parent of a copy which has ended wait for it.

    That is its origin, or when that has ended the one which the origin was forked from; when
    there is none any more it is the fork server, or the first process of its box, which wait by
    themselves. A parent that ends just then leaves it to the next one. The processor time of the
    copy becomes that of whoever waits: it is noted, to be taken off again. What the copy has left
    running is that one's now, too: it is ended.
    """
    pid = process.pid
    number = number_inside(pid)
    for _ in range(REAP_TRIES):
        parent = parent_of(pid)
        kernel = next((one for one in kernels if one.process.leader == parent), None)
        if kernel is not None:
            await in_thread(end_orphans, parent, name="orphans")
        elif process.first is not None:
            leaders = {one.process.leader for one in kernels}
            await in_thread(process.end_guests, leaders, name="orphans")
        if isinstance(kernel, FrozenKernel):
            await kernel.reap(number)
        elif kernel is not None:
            waited[parent] = waited.get(parent, 0.0) + cpu_time(pid)
            kernel.process.on_exit(forget_waited(parent))
            with suppress(KernelSilentError):
                await kernel.request("reap", deadline=REAP_DEADLINE, pid=number)
        if exit_code(pid, process.started) is None:
            return
        await asyncio.sleep(REAP_PAUSE)


def forget_waited(pid: int) -> Callable[[Exit], None]:
    """Return what forgets the time that a kernel has got from copies of it."""

    def forget(_: Exit) -> None:
        waited.pop(pid, None)

    return forget
