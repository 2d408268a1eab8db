"""The engine for kernels on this machine: ipc channels to processes that we start.

A kernel is forked from the fork server, taken warm from a pool of such, or spawned as a
fresh process. It is ready when it has answered on its control channel *and* its IOPub
reaches us, so that no output of the first execution can be missed. There is no polling in
it: the process says when its sockets are bound, and each wait ends with its event.
"""

import asyncio
import logging
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

import zmq

from carrel.engines.channels import Channels, Connection
from carrel.engines.forkserver import ForkServer, Inventory, Profile
from carrel.engines.guardians import Started, find_fork_servers, start_fork_server
from carrel.engines.kernel import LocalKernel, handshake, remove_files
from carrel.engines.launch import Launch
from carrel.engines.process import Exit, KernelProcess, boot_id, kill_family
from carrel.engines.spawn import spawn
from carrel.engines.wire import new_id
from carrel.errors import KernelSilentError, KernelStartError
from carrel.models import KernelRecord
from carrel.paths import private_directory, process_start

log = logging.getLogger(__name__)

START_DEADLINE = 60.0  # seconds from the start of a process to its answer
TEST_DEADLINE = 20.0  # seconds a forked kernel has to pass the start-up test
LEVELS = ("shell", "imports")  # how far a fork server prepares its kernels; best first
GUARDIAN = "none"  # it prepares nothing, it only looks after kernels that are spawned


class LocalEngine:
    """Starts kernels on this machine, and takes over those of a server before; one per server.

    Args:
        runtime: Short private directory for sockets.
        profile: What the fork server is started with; None: there can't be one here.
        mode: "fork": a kernel that can't be forked is an error; "spawn": each is a fresh
            process, and the fork server is only their guardian; "auto": what works.
    """

    def __init__(self, runtime: Path, profile: Profile | None, *, mode: str) -> None:
        self._runtime = runtime
        self._profile = profile
        self._mode = mode
        self._context: zmq.Context[Any] = zmq.Context()
        self._server: ForkServer | None = None
        self._level = ""
        self._server_lock = asyncio.Lock()
        self._kernels: list[LocalKernel] = []
        self._inherited: list[tuple[ForkServer, Inventory]] = []
        self._claimed: set[int] = set()
        self._lifeline = hold_lifeline(profile.lifeline) if profile and profile.lifeline else -1
        #: what the fork server said when it started; None: it has not been started
        self.started: Started | None = None

    @property
    def can_fork(self) -> bool:
        """Say whether a kernel can be forked at once."""
        return self._has_guardian and self._level != "none"

    @property
    def fork_server_pid(self) -> int:
        """The process that kernels are forked from, or that guards them; 0: none yet."""
        return self._server.pid if self._server is not None and self._has_guardian else 0

    @property
    def _has_guardian(self) -> bool:
        return self._server is not None and not self._server.is_closed

    async def start(
        self, launch: Launch, *, fresh: bool = False, deadline: float = START_DEADLINE
    ) -> LocalKernel:
        """Start a kernel and return it when it can run code.

        Args:
            launch: What to start.
            fresh: Whether it shall be a fresh process in any case.
            deadline: Seconds it may take.

        Raises:
            KernelStartError: It did not get that far; nothing of it is left.
        """
        private_directory(self._runtime)  # somebody may have cleaned up
        connection = self._new_connection()
        try:
            process, guardian = await self._start_process(launch, connection, fresh, deadline)
        except BaseException:
            remove_files(connection)
            raise
        kernel = LocalKernel(process, Channels(self._context, connection), connection)
        kernel.guardian = guardian
        try:
            await handshake(kernel, deadline)
        except BaseException:
            await process.kill()
            kernel.release()
            raise
        self._kernels = [k for k in self._kernels if k.process.exit is None] + [kernel]
        await self._watch_all()
        return kernel

    async def find_inherited(self) -> None:
        """Connect to the fork servers that an earlier server of this runtime directory left."""
        if self._profile is None:
            return
        self._inherited = await find_fork_servers(self._runtime)
        wanted = self._profile.digest(self._levels)
        for server, inventory in self._inherited:
            if inventory.profile == wanted and not self._has_guardian:
                self._server, self._level = server, inventory.level
                if inventory.level != "none":
                    preloaded = list(self._profile.preloads)
                    self.started = Started(level=inventory.level, preloaded=preloaded)

    def adopt(self, record: KernelRecord) -> LocalKernel | Exit:
        """Take over a kernel of an earlier server; say how it ended if it has.

        It is the same process if pid, start time and boot are, and if its guardian knows it
        by the name that only it has. A kernel whose guardian is gone or out of reach can't
        be kept, and is ended.
        """
        launch = f"{record.path}.launch"
        mine = record.boot == boot_id() and process_start(record.pid) == record.started
        for server, inventory in self._inherited:
            if launch in inventory.exits:
                return Exit(inventory.exits[launch])
            if inventory.kernels.get(launch) == record.pid and mine:
                knows_exit = record.pid not in inventory.strangers
                with suppress(ProcessLookupError):
                    process = server.adopt(record.pid, record.start, knows_exit=knows_exit)
                    self._claimed.add(record.pid)
                    return self._reattach(process, server, record)
        if mine:
            kill_family(record.pid)
        return Exit(None)

    async def end_unclaimed(self) -> int:
        """End inherited kernels that nobody adopted, and fork servers without any; count them."""
        ended = 0
        for server, inventory in self._inherited:
            for pid in set(inventory.kernels.values()) - self._claimed:
                with suppress(ProcessLookupError):
                    await server.adopt(pid, "", knows_exit=False).kill()
                    ended += 1
            if server is not self._server and not self._claimed & set(inventory.kernels.values()):
                await server.aclose()
        return ended

    async def ensure_fork_server(self, probe: Launch) -> bool:
        """Start the fork server if there is none, and try it; say whether kernels can be forked.

        Each level is tried by forking a kernel that must run ``1 + 1``; the next simpler one
        is taken if it does not. At the last one kernels are spawned, and it guards them.

        Args:
            probe: What to start the kernel of the test with.

        Raises:
            KernelStartError: They can't, and it was asked for explicitly.
        """
        if self._profile is None:
            return False
        async with self._server_lock:
            levels = self._levels if not self._level else (self._level,)
            for level in () if self._has_guardian else levels:
                if server := await self._start_server(self._profile, level, probe):
                    self._server, self._level = server, level
                    await self._watch_all()
                    break
        if self._mode == "fork" and not self.can_fork:
            why = self.started.why if self.started else ""
            msg = f"kernels can't be forked here (--kernel-start=spawn does without): {why}"
            raise KernelStartError(msg)
        return self.can_fork

    @property
    def _levels(self) -> tuple[str, ...]:
        return {"fork": LEVELS, "spawn": (GUARDIAN,)}.get(self._mode, (*LEVELS, GUARDIAN))

    async def _start_server(self, profile: Profile, level: str, probe: Launch) -> ForkServer | None:
        server, started = await start_fork_server(profile, level, profile.digest(self._levels))
        if level == GUARDIAN:
            return server
        self.started = started
        for name, why in started.refused.items():
            log.warning("not preloaded: %s (%s)", name, why)
        try:
            passes = server is not None and await self._passes_test(server, probe)
        except BaseException:
            if server is not None:
                server.end()
            raise
        if server is not None and not passes:
            await server.aclose()
            return None
        return server

    async def _watch_all(self) -> None:
        """Give kernels that no living fork server guards to ours."""
        server = self._server
        if server is None or server.is_closed:
            return
        for kernel in self._kernels:
            unguarded = kernel.guardian is None or kernel.guardian.is_closed
            if unguarded and kernel.process.exit is None:
                kernel.guardian = server
                await server.watch(kernel.process, f"{kernel.record.path}.launch")

    def _reattach(
        self, process: KernelProcess, guardian: ForkServer, record: KernelRecord
    ) -> LocalKernel:
        connection = Connection(path=Path(record.path), key=record.key, client_id=record.client_id)
        kernel = LocalKernel(process, Channels(self._context, connection), connection)
        kernel.guardian = guardian
        self._kernels.append(kernel)
        return kernel

    async def _passes_test(self, server: ForkServer, probe: Launch) -> bool:
        """Say whether a kernel forked from `server` runs code; leave nothing of it."""
        connection = self._new_connection()
        try:
            process = await server.fork(probe, connection, deadline=TEST_DEADLINE)
        except KernelStartError as error:
            log.warning("a forked kernel did not start: %s", error)
            remove_files(connection)
            return False
        kernel = LocalKernel(process, Channels(self._context, connection), connection)
        try:
            await handshake(kernel, TEST_DEADLINE)
            content = {"code": "1 + 1", "silent": True, "stop_on_error": False}
            ask = kernel.channels.ask
            reply = await ask("shell", "execute_request", content, deadline=TEST_DEADLINE)
            return reply.get("status") == "ok"
        except (KernelStartError, KernelSilentError) as error:
            log.warning("a forked kernel did not run code: %s", error)
            return False
        finally:
            await process.kill()
            kernel.release()

    def _new_connection(self) -> Connection:
        return Connection(
            path=self._runtime / secrets.token_hex(4),
            key=secrets.token_hex(32),
            client_id=new_id(),
        )

    async def aclose(self) -> None:
        """End the fork servers and give everything back; all kernels must be down."""
        for server in self._servers():
            await server.aclose()
        self._close()

    def leave(self) -> None:
        """Go and leave the fork servers with their kernels to the next server."""
        for server in self._servers():
            server.leave()
        self._close()

    def _servers(self) -> list[ForkServer]:
        servers = {id(server): server for server, _ in self._inherited}
        if self._server is not None:
            servers[id(self._server)] = self._server
        return [server for server in servers.values() if not server.is_closed]

    def _close(self) -> None:
        self._context.destroy(linger=0)
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    async def _start_process(
        self, launch: Launch, connection: Connection, fresh: bool, deadline: float
    ) -> tuple[KernelProcess, ForkServer | None]:
        # A fork server that died is replaced; one that is still starting is not waited for
        # unless nothing else is allowed: a spawned kernel is there sooner.
        died = self._server is not None and self._server.is_closed
        if died or (self._mode == "fork" and not fresh):
            await self.ensure_fork_server(launch)
        for _ in range(2):
            server = self._server
            if server is None or server.is_closed:
                break
            start = server.spawn if fresh or self._level == GUARDIAN else server.fork
            try:
                return await start(launch, connection, deadline=deadline), server
            except KernelStartError:
                if not server.is_closed:
                    raise
            # It had died, and this request was the first to notice.
            await self.ensure_fork_server(launch)
        return await spawn(launch, connection, deadline=deadline), None


def hold_lifeline(path: Path) -> int:
    """Open the FIFO by which kernels know that somebody could end them; make it if need be."""
    with suppress(FileExistsError):
        os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)
