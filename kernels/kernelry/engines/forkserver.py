"""Our side of a fork server: have kernels forked, hear how they ended, take over what it has.

What it is and does is in kernelry/inside/starting/forkserver.py. When it is gone its kernels go on
(only their exit codes can't be known any more). guardians.py starts and finds fork servers.
"""

import asyncio
import hashlib
import json
import logging
import os
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kernelry.engines.launch import Launch, await_ready, ready_pipe
from kernelry.errors import KernelStartError
from kernelry.messaging import Connection
from kernelry.models import Isolation
from kernelry.processes import (
    BranchProcess,
    ForkedProcess,
    KernelProcess,
    is_known,
    parent_of,
)
from kernelry.walls import INSIDE

log = logging.getLogger(__name__)

PACKET_BYTES = 1 << 16
CREDENTIALS = struct.Struct("3i")  # pid, uid, gid of SO_PEERCRED
FDS_PER_PACKET = 1
LIST_DEADLINE = 10.0  # seconds a fork server has to say what it has; it may be forking
READY_FD = 3  # descriptor at which a kernel that it spawns finds its ready pipe


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """What a fork server is started with."""

    #: interpreter that has ipykernel
    python: Path
    #: modules to import before any fork, in this order
    preloads: tuple[str, ...] = ()
    #: whether a preload that the interpreter does not have is nothing to report
    optional: bool = False
    #: environment variables, all of them
    env: dict[str, str]
    #: where its socket is; short
    directory: Path
    #: a folder of its own, laid out as a session's: what modules keep of it each kernel puts right
    #: (kernelry/inside/starting/own.py); None: kernels have the same folders as it
    root: Path | None = None
    #: what it and its imports write
    log_file: Path
    #: seconds it waits for a server before it ends its kernels and itself
    orphan_timeout: float = 0.0
    #: FIFO that it holds for its kernels; None: they don't care
    lifeline: Path | None = None

    def digest(self, levels: Sequence[str]) -> str:
        """Return what is the same for fork servers that can stand in for each other."""
        code = max(path.stat().st_mtime_ns for path in INSIDE.parent.rglob("*.py"))
        same = (str(self.python), self.preloads, self.optional, code)
        return hashlib.blake2s(repr((same, tuple(levels))).encode(), digest_size=8).hexdigest()


@dataclass(slots=True)
class Inventory:
    """What a running fork server has."""

    #: launch file -> pid, of each kernel that lives
    kernels: dict[str, int] = field(default_factory=dict)
    #: launch file -> exit code, of those that have ended
    exits: dict[str, int] = field(default_factory=dict)
    #: pids of the kernels among them whose exit code it will not know
    strangers: set[int] = field(default_factory=set)
    #: pid -> when that one was started; 0: it does not say
    started: dict[int, int] = field(default_factory=dict)
    #: digest of the profile that it was started with
    profile: str = ""
    #: how far it prepares kernels
    level: str = ""


class ForkServer:
    """A connection to a running fork server.

    Args:
        connection: Connected to its socket.
        popen: Its process, if we started it.
    """

    def __init__(
        self, connection: socket.socket, popen: subprocess.Popen[bytes] | None = None
    ) -> None:
        self._popen = popen
        self._socket = connection
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
        self.pid: int = CREDENTIALS.unpack(peer)[0]
        #: which hears it
        self.loop = asyncio.get_running_loop()
        self._asked: dict[str, asyncio.Future[ForkedProcess]] = {}
        self._children: dict[int, ForkedProcess] = {}
        self._early_exits: dict[int, int] = {}
        self._watching: dict[int, asyncio.Future[None]] = {}  # copies that it is told of
        self._inventory = Inventory()
        self._listed: asyncio.Future[Inventory] | None = None
        self._next = 0
        #: it is gone, or we closed the connection
        self.is_closed = False
        #: called when it is gone without having been told to
        self.on_death: Callable[[], None] = lambda: None
        self.loop.add_reader(connection, self._hear)

    async def fork(
        self,
        launch: Launch,
        connection: Connection,
        *,
        deadline: float,
        began: Callable[[KernelProcess], None] = lambda _: None,
    ) -> KernelProcess:
        """Have a kernel forked; returns when its sockets are bound.

        Args:
            launch: What is started.
            connection: Where its sockets shall be.
            deadline: Seconds it may take.
            began: Called when there is a process.

        Raises:
            KernelStartError: It ended or took too long, or the fork server is gone.
        """
        launch_file = launch.write_files(connection, -1)
        return await self.fork_file(launch, launch_file, deadline=deadline, began=began)

    async def fork_file(
        self,
        launch: Launch,
        launch_file: Path,
        *,
        deadline: float,
        began: Callable[[KernelProcess], None] = lambda _: None,
    ) -> KernelProcess:
        """Have a kernel forked whose launch file is written; see `fork`."""
        with ready_pipe() as (readable, writable):
            process = await self._ask("fork", launch_file, writable, deadline)
        began(process)
        await await_ready(launch, process, readable, deadline=deadline)
        return process

    async def spawn(
        self,
        launch: Launch,
        connection: Connection,
        *,
        deadline: float,
        began: Callable[[KernelProcess], None] = lambda _: None,
    ) -> KernelProcess:
        """Have a kernel started as a fresh process; otherwise as `fork`."""
        launch_file = launch.write_files(connection, READY_FD)
        with ready_pipe() as (readable, writable):
            process = await self._ask("spawn", launch_file, writable, deadline)
        process.start = "box" if launch.walls.isolation is Isolation.BOX else "spawn"
        began(process)
        await await_ready(launch, process, readable, deadline=deadline)
        return process

    async def watch(self, process: KernelProcess, launch_file: str, origin: int = 0) -> None:
        """Have it end a kernel that is not its child when nobody comes for it any more.

        Of a copy of a kernel it has heard when this returns, or is gone: that becomes its child
        when its origin ends, and one that it does not know it would end as a stray.

        Args:
            process: The kernel's.
            launch_file: What it was launched with.
            origin: Pid of the kernel that it is a copy of; 0: it is none, or that is known.

        Raises:
            KernelStartError: It does not hear of a copy in time.
        """
        if isinstance(process, BranchProcess):  # it tells how that ends if its origin does first
            self._children[process.pid] = process
            self._watching[process.pid] = self.loop.create_future()
        packet = {
            "op": "watch",
            "pid": process.pid,
            "started": process.started,
            "launch": launch_file,
            "origin": origin,
        }
        try:
            async with asyncio.timeout(LIST_DEADLINE):
                await self._send(json.dumps(packet).encode(), None)
                if (heard := self._watching.get(process.pid)) is not None:
                    await heard
        except OSError as error:  # gone, or stuck: whoever starts the next one asks again
            if origin and isinstance(error, TimeoutError):
                msg = f"the fork server does not hear of a copy in {LIST_DEADLINE:g} s"
                raise KernelStartError(msg) from error
            log.warning("process %d does not hear of kernel %d", self.pid, process.pid)
        finally:
            self._watching.pop(process.pid, None)

    async def wait_for_servers(self, seconds: float) -> None:
        """Tell it for how long it is to wait for another server when we are gone."""
        with suppress(OSError):
            await self._send(json.dumps({"op": "patience", "seconds": seconds}).encode(), None)

    async def inventory(self) -> Inventory:
        """Return what it has.

        Raises:
            KernelStartError: It ended, or did not answer.
        """
        self._inventory = Inventory()
        self._listed = self.loop.create_future()
        try:
            async with asyncio.timeout(LIST_DEADLINE):
                await self._send(json.dumps({"op": "list"}).encode(), None)
                return await self._listed
        except (OSError, TimeoutError) as error:
            raise KernelStartError("the fork server does not say what it has") from error

    def adopt(self, pid: int, started: int, start: str, *, knows_exit: bool) -> ForkedProcess:
        """Return the process of a kernel that it had before we came.

        Args:
            pid: The process.
            started: When that was started.
            start: How.
            knows_exit: Whether the fork server is its parent.

        Raises:
            ProcessLookupError: It has ended, or it can't be told that it is the same.
        """
        try:
            pidfd = os.pidfd_open(pid)
        except (OSError, OverflowError) as error:  # it has ended, or is no number of a process
            raise ProcessLookupError(pid) from error
        # Looked at when we hold it: from here on the number is nobody else's.
        if not is_known(pid, started) or (knows_exit and parent_of(pid) != self.pid):
            os.close(pidfd)
            raise ProcessLookupError(pid)
        if start == BranchProcess.start:
            branch = self._children[pid] = BranchProcess(pid, pidfd)
            return branch
        process = ForkedProcess(pid, pidfd)
        process.start = start
        process.has_heir = knows_exit
        self._children[pid] = process
        if pid in self._early_exits or not knows_exit:
            process.tell_code(self._early_exits.get(pid))
        return process

    async def aclose(self) -> None:
        """End the fork server, and all its kernels that are not down already."""
        await self.end()

    def end(self, *, spare: bool = False) -> "asyncio.Future[None]":
        """Tell it to end, which does not need to be waited for; the future is its end.

        Args:
            spare: Leave alone the kernels that it only watches.
        """
        with suppress(OSError):
            self._socket.send(json.dumps({"op": "end", "spare": spare}).encode())
        self._close()
        return self.loop.run_in_executor(None, self._reap)

    def leave(self) -> None:
        """Go away and let it wait for the next server."""
        self._close()
        if self._popen is not None:
            self._popen.returncode = 0  # or its finalizer would warn that it still runs

    def forsake(self) -> None:
        """Let go of it in a process that was forked from the one that started it.

        The loop's selector is the other process's too, and in it the number of our descriptor:
        so that stays, and is nothing any more.
        """
        if self.is_closed:
            return
        self.is_closed = True
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(nothing, self._socket.fileno(), inheritable=False)
        os.close(nothing)
        if self._popen is not None:
            self._popen.returncode = 0  # it is no child of this process

    async def _ask(
        self, op: str, launch_file: Path, ready_fd: int, deadline: float
    ) -> ForkedProcess:
        self._next += 1
        request_id = str(self._next)
        answer: asyncio.Future[ForkedProcess] = self.loop.create_future()
        self._asked[request_id] = answer
        packet = json.dumps({"op": op, "id": request_id, "launch": str(launch_file)}).encode()
        try:
            async with asyncio.timeout(deadline):
                await self._send(packet, ready_fd)
                return await asyncio.shield(answer)
        except (OSError, asyncio.CancelledError) as error:
            # Whatever was forked for us nobody wants now.
            answer.add_done_callback(_discard)
            if isinstance(error, asyncio.CancelledError):
                raise
            self._find_dead()
            raise KernelStartError(f"the fork server can't be reached: {error}") from error
        finally:
            if answer.done():
                self._asked.pop(request_id, None)

    async def _send(self, packet: bytes, fd: int | None) -> None:
        while True:
            try:
                socket.send_fds(self._socket, [packet], [] if fd is None else [fd])
                return
            except BlockingIOError:  # its queue is full: it is forking as fast as it can
                await asyncio.sleep(0.005)

    def _hear(self) -> None:
        while not self.is_closed:
            try:
                data, fds, _, _ = socket.recv_fds(self._socket, PACKET_BYTES, FDS_PER_PACKET)
            except BlockingIOError:
                return
            except OSError:
                data, fds = b"", []
            if not data:
                self._find_dead()
                return
            try:
                self._take(json.loads(data), fds)
            except (ValueError, LookupError, TypeError, AttributeError):
                log.warning("process %d speaks as no fork server does: %.200r", self.pid, data)
                self._find_dead()

    def _take(self, packet: dict[str, Any], fds: list[int]) -> None:
        if "exited" in packet:
            child = self._children.pop(packet["exited"], None)
            if child is not None:
                child.tell_code(packet["code"])
            else:
                self._early_exits[packet["exited"]] = packet["code"]
        elif "watching" in packet:
            heard = self._watching.get(packet["watching"])
            if heard is not None and not heard.done():
                heard.set_result(None)
        elif "id" in packet:
            self._take_answer(packet, fds)
        else:
            self._take_list(packet)

    def _take_answer(self, packet: dict[str, Any], fds: list[int]) -> None:
        answer = self._asked.pop(packet["id"], None)
        if "error" in packet:
            if answer is not None and not answer.done():
                msg = f"no process could be made for the kernel: {packet['error']}"
                answer.set_exception(KernelStartError(msg))
            return
        process = ForkedProcess(packet["pid"], fds[0])
        self._children[process.pid] = process
        if answer is not None and not answer.done():
            answer.set_result(process)

    def _take_list(self, packet: dict[str, Any]) -> None:
        for pid, launch, is_child, *started in packet.get("kernels", ()):
            self._inventory.kernels[str(launch)] = number(pid)
            # One of an older version does not say; then it is not known who that is.
            self._inventory.started[pid] = number(*started) if started else 0
            if not is_child:
                self._inventory.strangers.add(pid)
        for launch, _, code in packet.get("exits", ()):
            self._inventory.exits[str(launch)] = number(code)
        if packet.get("listed"):
            self._inventory.profile, self._inventory.level = packet["profile"], packet["level"]
            if self._listed is not None and not self._listed.done():
                self._listed.set_result(self._inventory)

    def _find_dead(self) -> None:
        """Take note that the process is gone."""
        if not self.is_closed:
            self._close()
            self.loop.run_in_executor(None, self._reap)
            self.on_death()

    def _close(self) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        self.loop.remove_reader(self._socket)
        self._socket.close()
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(KernelStartError("the fork server ended"))
        self._asked.clear()
        for heard in self._watching.values():
            if not heard.done():
                heard.set_result(None)  # nobody is there who could end it
        if self._listed is not None and not self._listed.done():
            self._listed.set_exception(KernelStartError("the fork server ended"))
        for child in self._children.values():
            child.tell_code(None)
        self._children.clear()

    def _reap(self) -> None:
        if self._popen is None:  # nearly always somebody else's child
            with suppress(ChildProcessError):
                if self.pid > 0:  # 0 is any child of ours
                    os.waitpid(self.pid, 0)
            return
        try:
            self._popen.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()


def number(value: Any) -> int:
    """Return a whole number as it is.

    Raises:
        TypeError: It is none.
    """
    if type(value) is not int:
        raise TypeError(value)
    return value


def _discard(answer: "asyncio.Future[ForkedProcess]") -> None:
    if not answer.cancelled() and answer.exception() is None:
        answer.result().send_signal(signal.SIGKILL)
