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
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import zmq

from kernelry.engines.cgroups import remove_unused
from kernelry.engines.forkserver import ForkServer, Inventory, Profile
from kernelry.engines.guardians import Started, find_fork_servers, start_fork_server
from kernelry.engines.kernel import LocalKernel, handshake, remove_files
from kernelry.engines.launch import Launch
from kernelry.engines.process import FAMILY_DEADLINE, Exit, KernelProcess, boot_id, kill_family
from kernelry.engines.spawn import spawn
from kernelry.engines.walls import Walls
from kernelry.errors import KernelryError, KernelSilentError, KernelStartError
from kernelry.messaging import PORTS, Channels, Connection, new_id
from kernelry.models import Isolation, KernelRecord
from kernelry.paths import private_directory, process_start

log = logging.getLogger(__name__)

START_DEADLINE = 60.0  # seconds from the start of a process to its answer
TEST_DEADLINE = 20.0  # seconds a forked kernel has to pass the start-up test
REPLACEMENTS = 5  # times that a fork server which died is replaced without being needed
LEVELS = ("shell", "imports")  # how far a fork server prepares its kernels; best first
GUARDIAN = "none"  # it prepares nothing, it only looks after kernels that are spawned


class LocalEngine:
    """Starts kernels on this machine, and takes over those of a server before; one per server.

    Args:
        runtime: Short private directory for sockets.
        profile: What the fork server is started with; None: there can't be one here.
        new_probe: Returns a launch of a private directory of its own, to try a fork server by.
        mode: "fork": a kernel that can't be forked is an error; "spawn": each is a fresh
            process, and the fork server is only their guardian; "auto": what works.
    """

    def __init__(
        self,
        runtime: Path,
        profile: Profile | None,
        new_probe: Callable[[], Launch],
        *,
        mode: str,
    ) -> None:
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
        self._lifelines: list[int] = []
        self._hold_lifeline()
        self._new_probe = new_probe
        self._replacing: asyncio.Task[None] | None = None
        self._replaced = 0
        self._killed: list[psutil.Process] = []
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
        self._hold_lifeline()
        connection = self._new_connection()
        try:
            process, guardian = await self._start_process(launch, connection, fresh, deadline)
        except BaseException:
            remove_files(connection)
            raise
        channels = Channels(self._context, connection)
        kernel = LocalKernel(process, channels, connection, launch.walls)
        kernel.guardian = guardian
        try:
            await handshake(kernel, deadline)
        except BaseException:
            await process.kill()
            kernel.release()
            raise
        kernel.limit_memory()
        self._kernels = [k for k in self._kernels if k.process.exit is None] + [kernel]
        await self._watch_all(self._server)
        return kernel

    async def find_inherited(self) -> None:
        """Connect to the fork servers that an earlier server of this runtime directory left."""
        if self._profile is None:
            return
        self._inherited = await find_fork_servers(self._runtime)
        wanted = self._profile.digest(self._levels)
        for server, inventory in self._inherited:
            await server.wait_for_servers(self._profile.orphan_timeout)
            if inventory.profile == wanted and not self._has_guardian:
                self._take_server(server, inventory.level)
                if inventory.level != "none":
                    preloaded = list(self._profile.preloads)
                    self.started = Started(level=inventory.level, preloaded=preloaded)

    def adopt(self, record: KernelRecord) -> LocalKernel | Exit:
        """Take over a kernel of an earlier server; say how it ended if it has.

        It is the same process if pid, start time and boot are, and if its guardian knows it
        by the name that only it has. A kernel whose guardian or whose sockets are gone or out
        of reach can't be kept, and is ended.
        """
        launch = f"{record.path}.launch"
        sockets = (Path(f"{record.path}-{PORTS[name]}") for name in ("shell", "iopub", "control"))
        is_reachable = all(path.is_socket() for path in sockets)
        mine = record.boot == boot_id() and process_start(record.pid) == record.started
        for server, inventory in self._inherited:
            if launch in inventory.exits:
                return Exit(inventory.exits[launch])
            if inventory.kernels.get(launch) == record.pid and mine and is_reachable:
                knows_exit = record.pid not in inventory.strangers
                with suppress(ProcessLookupError):
                    process = server.adopt(record.pid, record.start, knows_exit=knows_exit)
                    self._claimed.add(record.pid)
                    return self._reattach(process, server, record)
        if not mine:
            return Exit(None)
        self._killed += kill_family(record.pid)
        return Exit(-signal.SIGKILL)

    async def end_unclaimed(self) -> int:
        """End inherited kernels that nobody adopted, and fork servers without any; count them."""
        ended = 0
        remove_unused()
        await asyncio.to_thread(psutil.wait_procs, self._killed, timeout=FAMILY_DEADLINE)
        for server, inventory in self._inherited:
            for pid in set(inventory.kernels.values()) - self._claimed:
                with suppress(ProcessLookupError):
                    await server.adopt(pid, "", knows_exit=False).kill()
                    ended += 1
            if server is not self._server and not self._claimed & set(inventory.kernels.values()):
                await server.aclose()
        return ended

    async def ensure_fork_server(self) -> bool:
        """Start the fork server if there is none, and try it; say whether kernels can be forked.

        Each level is tried by forking a kernel that must run ``1 + 1``; the next simpler one
        is taken if it does not. At the last one kernels are spawned, and it guards them.

        Raises:
            KernelStartError: They can't, and it was asked for explicitly.
        """
        if self._profile is None:
            return False
        async with self._server_lock:
            levels = self._levels if not self._level else (self._level,)
            for level in () if self._has_guardian else levels:
                if server := await self._start_server(self._profile, level):
                    self._take_server(server, level)
                    await self._watch_all(server)
                    break
        if self._mode == "fork" and not self.can_fork:
            why = self.started.why if self.started else ""
            msg = f"kernels can't be forked here (--kernel-start=spawn does without): {why}"
            raise KernelStartError(msg)
        return self.can_fork

    @property
    def _levels(self) -> tuple[str, ...]:
        return {"fork": LEVELS, "spawn": (GUARDIAN,)}.get(self._mode, (*LEVELS, GUARDIAN))

    async def _start_server(self, profile: Profile, level: str) -> ForkServer | None:
        server, started = await start_fork_server(profile, level, profile.digest(self._levels))
        # Before it is tried: until then nobody guards the first kernels of a server.
        await self._watch_all(server)
        if level == GUARDIAN:
            return server
        self.started = started
        for name, why in started.refused.items():
            log.warning("not preloaded: %s (%s)", name, why)
        try:
            passes = server is not None and await self._passes_test(server)
        except BaseException:
            if server is not None:  # untried, but by now it guards the first kernels
                server.give_up_forking()
                self._inherited.append((server, Inventory()))
            raise
        if server is not None and not passes:
            await server.end(spare=True)
            return None
        return server

    def _take_server(self, server: ForkServer, level: str) -> None:
        self._server, self._level = server, level
        server.on_death = self._on_server_death

    def _on_server_death(self) -> None:
        """Replace a fork server that died: kernels without a guardian end with us."""
        if self._replaced < REPLACEMENTS:
            self._replaced += 1
            self._replacing = asyncio.ensure_future(self._replace_server())

    async def _replace_server(self) -> None:
        try:
            private_directory(self._runtime)
            await self.ensure_fork_server()
        except KernelryError as error:  # the next start of a kernel tries it again
            log.warning("the fork server died and can't be replaced: %s", error)

    async def _watch_all(self, server: ForkServer | None) -> None:
        """Give kernels that no living fork server guards to this one."""
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
        walls = Walls(isolation=record.isolation, network=record.network)
        kernel = LocalKernel(process, Channels(self._context, connection), connection, walls)
        kernel.find_group()
        kernel.guardian = guardian
        self._kernels.append(kernel)
        process.on_exit(lambda _: self._retire(guardian))
        return kernel

    def _retire(self, guardian: ForkServer) -> None:
        """End a fork server of an earlier server that has no kernel of ours any more."""
        alive = (kernel for kernel in self._kernels if kernel.process.exit is None)
        if guardian is not self._server and all(k.guardian is not guardian for k in alive):
            guardian.end(spare=True)

    async def _passes_test(self, server: ForkServer) -> bool:
        """Say whether a kernel forked from `server` runs code; leave nothing of it."""
        probe = self._new_probe()
        try:
            return await self._can_run(server, probe)
        finally:
            await probe.discard()

    async def _can_run(self, server: ForkServer, probe: Launch) -> bool:
        connection = self._new_connection()
        try:
            process = await server.fork(probe, connection, deadline=TEST_DEADLINE)
        except KernelStartError as error:
            log.warning("a forked kernel did not start: %s", error)
            remove_files(connection)
            return False
        channels = Channels(self._context, connection)
        kernel = LocalKernel(process, channels, connection, probe.walls)
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
        """Make a directory for the sockets of one kernel, which no other can reach."""
        name = secrets.token_hex(4)
        return Connection(
            path=private_directory(self._runtime / name) / name,
            key=secrets.token_hex(32),
            client_id=new_id(),
        )

    async def aclose(self) -> None:
        """End the fork servers and give everything back; all kernels must be down."""
        if self._replacing is not None:
            self._replacing.cancel()
            await asyncio.wait([self._replacing])
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
        if self._replacing is not None:
            self._replacing.cancel()
        self._context.destroy(linger=0)
        for fd in self._lifelines:
            os.close(fd)
        self._lifelines.clear()

    def _hold_lifeline(self) -> None:
        """Hold the FIFO by which kernels know that somebody lives who could end them."""
        path = self._profile.lifeline if self._profile else None
        # Those made before it was removed stay open: there are kernels that hold on to them.
        if path is not None and not any(is_at(fd, path) for fd in self._lifelines):
            self._lifelines.append(hold_lifeline(path))

    async def _start_process(
        self, launch: Launch, connection: Connection, fresh: bool, deadline: float
    ) -> tuple[KernelProcess, ForkServer | None]:
        # A fork server that died is replaced; one that is still starting is not waited for
        # unless nothing else is allowed: a spawned kernel is there sooner.
        died = self._server is not None and self._server.is_closed
        # A box is made around a fresh process only.
        must_spawn = fresh or launch.walls.isolation is Isolation.BOX
        if died or (self._mode == "fork" and not must_spawn):
            await self.ensure_fork_server()
        for _ in range(2):
            server = self._server
            if server is None or server.is_closed:
                break
            start = server.spawn if must_spawn or self._level == GUARDIAN else server.fork
            try:
                return await start(launch, connection, deadline=deadline), server
            except KernelStartError:
                if not server.is_closed:
                    raise
            # It had died, and this request was the first to notice.
            await self.ensure_fork_server()
        return await spawn(launch, connection, deadline=deadline), None


def hold_lifeline(path: Path) -> int:
    """Open the FIFO by which kernels know that somebody could end them; make it if need be."""
    with suppress(FileExistsError):
        os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)


def is_at(fd: int, path: Path) -> bool:
    """Say whether a descriptor is of the file at `path`."""
    with suppress(OSError):
        return os.path.samestat(os.fstat(fd), path.stat())
    return False
