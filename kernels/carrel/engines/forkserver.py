"""Our side of the fork server: start it, have kernels forked, hear how they ended.

One per server, started in the background. What it is and does is in
carrel/inside/forkserver.py. When it is gone its kernels go on (only their exit codes can't
be known any more), and the next kernel that is asked for starts a new one.
"""

import asyncio
import json
import logging
import os
import secrets
import signal
import socket
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from carrel.engines.channels import Connection
from carrel.engines.launch import INSIDE, Launch, await_ready, log_tail, write_private
from carrel.engines.process import ForkedProcess, KernelProcess
from carrel.errors import KernelStartError

log = logging.getLogger(__name__)

START_DEADLINE = 120.0  # seconds for the imports, also the slow ones on a slow disk
PACKET_BYTES = 1 << 16
FDS_PER_PACKET = 1


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
    #: what it and its imports write
    log_file: Path
    #: seconds it waits for a server before it ends its kernels and itself
    orphan_timeout: float = 0.0


@dataclass(slots=True)
class Started:
    """What a fork server said while it started."""

    #: "shell" (built before the fork) or "imports"; empty: it never got ready
    level: str = ""
    #: why it never got ready; empty if it did
    why: str = ""
    #: module -> why it is not preloaded
    refused: dict[str, str] = field(default_factory=dict)
    #: modules that the interpreter does not have
    absent: list[str] = field(default_factory=list)
    #: modules that are
    preloaded: list[str] = field(default_factory=list)


class ForkServer:
    """A connection to a running fork server."""

    def __init__(self, popen: subprocess.Popen[bytes], connection: socket.socket) -> None:
        self.pid = popen.pid
        self._popen = popen
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self._asked: dict[str, asyncio.Future[ForkedProcess]] = {}
        self._children: dict[int, ForkedProcess] = {}
        self._next = 0
        #: it is gone, or we closed the connection
        self.is_closed = False
        self._loop.add_reader(connection, self._hear)

    async def fork(
        self, launch: Launch, connection: Connection, *, deadline: float
    ) -> KernelProcess:
        """Have a kernel forked; returns when its sockets are bound.

        Raises:
            KernelStartError: It ended or took too long, or the fork server is gone.
        """
        launch_file = launch.write_files(connection, -1)
        return await self.fork_file(launch, launch_file, deadline=deadline)

    async def fork_file(
        self, launch: Launch, launch_file: Path, *, deadline: float
    ) -> KernelProcess:
        """Have a kernel forked whose launch file is written; see `fork`."""
        readable, writable = os.pipe()
        try:
            process = await self._ask(launch_file, writable, deadline)
        except BaseException:
            os.close(readable)
            raise
        finally:
            os.close(writable)
        await await_ready(launch, process, readable, deadline=deadline)
        return process

    async def aclose(self) -> None:
        """End the fork server; its kernels must be down already."""
        with suppress(OSError):
            self._socket.send(json.dumps({"op": "end"}).encode())
        self._close()
        await asyncio.to_thread(self._reap)

    async def _ask(self, launch_file: Path, ready_fd: int, deadline: float) -> ForkedProcess:
        self._next += 1
        request_id = str(self._next)
        answer: asyncio.Future[ForkedProcess] = self._loop.create_future()
        self._asked[request_id] = answer
        packet = json.dumps({"op": "fork", "id": request_id, "launch": str(launch_file)}).encode()
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

    async def _send(self, packet: bytes, fd: int) -> None:
        while True:
            try:
                socket.send_fds(self._socket, [packet], [fd])
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
            self._take(json.loads(data), fds)

    def _take(self, packet: dict[str, Any], fds: list[int]) -> None:
        if "exited" in packet:
            child = self._children.pop(packet["exited"], None)
            if child is not None:
                child.tell_code(packet["code"])
            return
        process = ForkedProcess(packet["pid"], fds[0])
        self._children[process.pid] = process
        answer = self._asked.pop(packet["id"], None)
        if answer is not None and not answer.done():
            answer.set_result(process)

    def _find_dead(self) -> None:
        """Take note that the process is gone."""
        if not self.is_closed:
            self._close()
            self._loop.run_in_executor(None, self._reap)

    def _close(self) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        self._loop.remove_reader(self._socket)
        self._socket.close()
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(KernelStartError("the fork server ended"))
        self._asked.clear()
        for child in self._children.values():
            child.tell_code(None)
        self._children.clear()

    def _reap(self) -> None:
        try:
            self._popen.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()


def _discard(answer: "asyncio.Future[ForkedProcess]") -> None:
    if not answer.cancelled() and answer.exception() is None:
        answer.result().send_signal(signal.SIGKILL)


async def start_fork_server(profile: Profile, level: str) -> tuple[ForkServer | None, Started]:
    """Start a fork server; without the preloads that can't be had, if need be.

    Args:
        profile: What it is started with.
        level: "shell" or "imports": how much it prepares.

    Returns:
        The server, or None if it can't be had here, and what it said.
    """
    started = Started()
    wanted = list(profile.preloads)
    while True:
        wanted = [name for name in wanted if name not in started.refused]
        server, culprit = await _start_once(profile, level, wanted, started)
        if server is not None:
            gone = {*started.refused, *started.absent}
            started.preloaded = [name for name in wanted if name not in gone]
            return server, started
        if culprit is None:
            return None, started
        started.refused.setdefault(culprit, "the process died while importing it")


async def _start_once(
    profile: Profile, level: str, preloads: list[str], started: Started
) -> tuple[ForkServer | None, str | None]:
    """Start one; if it dies, name the module it was importing."""
    readable, writable = os.pipe()
    name = secrets.token_hex(4)
    path = profile.directory / f"{name}.sock"
    config = {
        "socket": str(path),
        "report_fd": writable,
        "log_file": str(profile.log_file),
        "preloads": preloads,
        "level": level,
        "optional": profile.optional,
        "orphan_timeout": profile.orphan_timeout,
    }
    config_file = profile.directory / f"{name}.forkserver"
    write_private(config_file, config)
    try:
        popen = _start_process(profile, config_file, writable)
    except OSError as error:
        started.why = f"can't start {profile.python}: {error.strerror or error}"
        os.close(readable)
        return None, None
    finally:
        os.close(writable)
    try:
        culprit = await _read_report(readable, started)
    except BaseException:
        popen.kill()
        await asyncio.to_thread(popen.wait)
        raise
    finally:
        config_file.unlink(missing_ok=True)
    if not started.level:
        popen.kill()
        await asyncio.to_thread(popen.wait)
        started.why = f"it ended while it started.{log_tail(profile.log_file)}"
        return None, culprit
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(str(path))
    connection.setblocking(False)
    return ForkServer(popen, connection), None


def _start_process(profile: Profile, config_file: Path, report_fd: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [str(profile.python), "-P", str(INSIDE), "forkserver", str(config_file)],
        env=profile.env,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(report_fd,),
        start_new_session=True,
    )


async def _read_report(fd: int, started: Started) -> str | None:
    """Read the report up to "ready" or its end; return what was being imported then."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", buffering=0)
    )
    importing: str | None = None
    try:
        async with asyncio.timeout(START_DEADLINE):
            while line := await reader.readline():
                said = json.loads(line)
                if said.get("ready"):
                    started.level = said["level"]
                    return None
                if "failed" in said:
                    started.refused[said["failed"]] = said["why"]
                if "absent" in said:
                    started.absent.append(said["absent"])
                importing = said.get("preloading", importing)
    except TimeoutError:
        log.warning("the fork server did not get ready in %g s", START_DEADLINE)
    finally:
        transport.close()
    return importing
