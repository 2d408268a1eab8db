"""The engine for kernels on this machine: ipc channels to processes that we start.

A kernel is forked from the fork server, taken warm from a pool of such, or spawned as a
fresh process. It is ready when it has answered on its control channel *and* its IOPub
reaches us, so that no output of the first execution can be missed. There is no polling in
it: the process says when its sockets are bound, and each wait ends with its event.
"""

import asyncio
import logging
import secrets
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from kernelry.engines.branching import copy_of, reap
from kernelry.engines.forkserver import ForkServer, Inventory, Profile
from kernelry.engines.guardians import (
    GUARDIAN,
    Started,
    can_fork,
    find_fork_servers,
    start_fork_server,
    start_guardian,
)
from kernelry.engines.kernel import LocalKernel, handshake, is_same_process, prove, remove_files
from kernelry.engines.launch import Launch
from kernelry.engines.lifelines import Lifelines
from kernelry.engines.spawn import spawn
from kernelry.engines.walls import Walls
from kernelry.errors import KernelryError, KernelStartError
from kernelry.messaging import PORTS, Channels, Connection, new_id
from kernelry.models import Isolation, KernelRecord
from kernelry.paths import private_directory
from kernelry.processes import (
    FAMILY_DEADLINE,
    BranchProcess,
    Exit,
    Grouping,
    KernelProcess,
    exit_code,
    kill_family,
    remove_unused,
)
from kernelry.shielding import to_the_end

log = logging.getLogger(__name__)

START_DEADLINE = 60.0  # seconds from the start of a process to its answer
REPLACEMENTS = 5  # times that a fork server which died is replaced without being needed
LEVELS = ("shell", "imports")  # how far a fork server prepares its kernels; best first


class LocalEngine:
    """Starts kernels on this machine, and takes over those of a server before; one per server.

    Args:
        runtime: Short private directory for sockets.
        profile: What the fork server is started with; None: there can't be one here.
        new_probe: Returns a launch of a private directory of its own, to try a fork server by.
        mode: "fork": a kernel that can't be forked is an error; "spawn": each is a fresh
            process, and the fork server is only their guardian; "auto": what works.
        groups: Whether kernels get control groups, where these can be had.
    """

    def __init__(
        self,
        runtime: Path,
        profile: Profile | None,
        new_probe: Callable[[], Launch],
        *,
        mode: str,
        groups: bool = True,
    ) -> None:
        self._runtime = runtime
        self._groups = groups
        self._profile = profile
        self._mode = mode
        self._server: ForkServer | None = None
        self._level = ""
        self._server_lock = asyncio.Lock()
        self._guardian: ForkServer | None = None
        self._guardian_lock = asyncio.Lock()
        self._kernels: list[LocalKernel] = []
        self._inherited: list[tuple[ForkServer, Inventory]] = []
        self._claimed: set[int] = set()
        self._lifelines = Lifelines(profile.lifeline if profile else None)
        self._new_probe = new_probe
        self._starting: set[asyncio.Task[None]] = set()  # guardians and fork servers
        self._replaced = 0
        self._killed: list[psutil.Process] = []
        #: what the fork server said when it started; None: it has not been started
        self.started: Started | None = None

    @property
    def can_fork(self) -> bool:
        """Say whether a kernel can be forked at once."""
        return is_alive(self._server)

    @property
    def fork_server_pid(self) -> int:
        """The process that kernels are forked from, or else that guards them; 0: none yet."""
        found = (server for server in (self._server, self._guardian) if is_alive(server))
        return next((server.pid for server in found if server is not None), 0)

    @property
    def guardian_pids(self) -> tuple[int, ...]:
        """The processes that look after kernels when this one is gone."""
        return tuple(server.pid for server in self._servers())

    def begin(self) -> None:
        """Start the guardian, beside what else is to be done; kernels that start wait for it."""
        if self._profile is not None:
            self._soon(self._see_to_guardian())

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
        self._lifelines.hold()
        connection = self._new_connection()
        grouping = Grouping(connection.path.name, launch.walls.limits.memory)

        def began(process: KernelProcess) -> None:
            # What is in a box is known when it is ready.
            if self._groups and launch.walls.isolation is not Isolation.BOX:
                grouping.begin(process.pid)

        try:
            process, guardian = await self._start_process(
                launch, connection, fresh, deadline, began
            )
        except BaseException:
            grouping.give_up()
            remove_files(connection)
            raise
        return await self._stand(process, guardian, connection, launch, grouping, deadline)

    async def branch(
        self, origin: LocalKernel, launch: Launch, *, deadline: float = START_DEADLINE
    ) -> tuple[LocalKernel, tuple[str, ...]]:
        """Have a kernel fork itself; return the copy when it has run code, and what it lacks.

        Args:
            origin: Which; it runs nothing.
            launch: What the copy shall be.
            deadline: Seconds it may take.

        Raises:
            NoCopyError: Something stands against it; nothing was done.
            KernelStartError: It did not get that far; nothing of it is left.
        """
        private_directory(self._runtime)  # somebody may have cleaned up
        self._lifelines.hold()
        connection = self._new_connection()
        grouping = Grouping(connection.path.name, launch.walls.limits.memory)
        guardian = origin.guardian  # to which the copy goes when its origin ends

        async def began(process: KernelProcess) -> None:
            process.on_exit(lambda _: self._soon(reap(process.pid, self._kernels)))
            if self._groups or origin.group is not None:
                grouping.begin(process.pid)
            if guardian is not None:
                await guardian.watch(process, f"{connection.path}.launch")

        try:
            door = Path(origin.record.path)
            copy = await copy_of(
                *(origin.process, door, launch, connection), deadline=deadline, began=began
            )
        except BaseException:
            grouping.give_up()
            remove_files(connection)
            raise
        kernel = await self._stand(copy.process, guardian, connection, launch, grouping, deadline)
        try:
            if origin.group is not None and kernel.group is None:
                raise KernelStartError("no control group can be made for a copy of the kernel")
            await prove(kernel, deadline)
        except BaseException:
            await to_the_end(kernel.shutdown(grace=0))
            raise
        return kernel, copy.named

    async def _stand(
        self,
        process: KernelProcess,
        guardian: ForkServer | None,
        connection: Connection,
        launch: Launch,
        grouping: Grouping,
        deadline: float,
    ) -> LocalKernel:
        """Return the kernel of a process that listens, when it answers."""
        channels = Channels(connection)
        kernel = LocalKernel(process, channels, connection, launch.walls)
        kernel.guardian = guardian
        try:
            if self._groups and launch.walls.isolation is Isolation.BOX:
                grouping.begin(process.pid, *process.halves, process.leader)
            await handshake(kernel, deadline)
            kernel.group = await grouping.group()
        except BaseException:
            await to_the_end(process.kill())
            grouping.give_up()
            kernel.release()
            raise
        self._kernels = [k for k in self._kernels if k.process.exit is None] + [kernel]
        if guardian is not self._guardian and self._guardian is not None:
            # Should the fork server go together with us, somebody else must know of it.
            await self._guardian.watch(process, f"{kernel.record.path}.launch")
        return kernel

    async def find_inherited(self) -> None:
        """Connect to the fork servers that an earlier server of this runtime directory left."""
        if self._profile is None:
            return
        self._inherited = await find_fork_servers(self._runtime)
        wanted = self._profile.digest(self._levels)
        for server, inventory in self._inherited:
            await server.wait_for_servers(self._profile.orphan_timeout)
            if inventory.profile == self._profile.digest((GUARDIAN,)):
                if not is_alive(self._guardian):
                    self._take_guardian(server)
            elif inventory.profile == wanted and not is_alive(self._server):
                self._take_server(server, inventory.level)
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
        mine = is_same_process(record)
        # Its parent is asked first, which knows how it ends.
        for server, inventory in sorted(
            self._inherited, key=lambda found: record.pid in found[1].strangers
        ):
            if launch in inventory.exits:
                return Exit(inventory.exits[launch])
            if inventory.kernels.get(launch) == record.pid and mine and is_reachable:
                knows_exit = record.pid not in inventory.strangers
                with suppress(ProcessLookupError):
                    process = server.adopt(
                        record.pid, record.started, record.start, knows_exit=knows_exit
                    )
                    self._claimed.add(record.pid)
                    return self._reattach(process, server, record)
        if not mine:
            return Exit(None)
        if (code := exit_code(record.pid, record.started)) is not None:
            return Exit(code)  # its origin has not waited for it
        self._killed += kill_family(record.pid)
        return Exit(-signal.SIGKILL)

    async def end_unclaimed(self) -> int:
        """End inherited kernels that nobody adopted, and fork servers without any; count them."""
        ended = 0
        remove_unused()
        await asyncio.to_thread(psutil.wait_procs, self._killed, timeout=FAMILY_DEADLINE)
        for server, inventory in self._inherited:
            for pid in set(inventory.kernels.values()) - self._claimed:
                started, is_child = inventory.started[pid], pid not in inventory.strangers
                with suppress(ProcessLookupError):
                    await server.adopt(pid, started, "", knows_exit=is_child).kill()
                    ended += 1
            is_ours = server in (self._server, self._guardian)
            if not is_ours and not self._claimed & set(inventory.kernels.values()):
                await server.aclose()
        return ended

    async def ensure_fork_server(self) -> bool:
        """Start the fork server if there is none, and try it; say whether kernels can be forked.

        Each level is tried by forking a kernel that must run ``1 + 1``; the next simpler one
        is taken if it does not. Where none does, the guardian spawns kernels.

        Raises:
            KernelStartError: They can't, and it was asked for explicitly.
        """
        if self._profile is None:
            return False
        async with self._server_lock:
            levels = self._levels if not self._level else (self._level,)
            for level in () if is_alive(self._server) else levels:
                if server := await self._start_server(self._profile, level):
                    self._take_server(server, level)
                    break
        if self._mode == "fork" and not self.can_fork:
            why = self.started.why if self.started else ""
            msg = f"kernels can't be forked here (--kernel-start=spawn does without): {why}"
            raise KernelStartError(msg)
        return self.can_fork

    async def ensure_guardian(self) -> ForkServer | None:
        """Return the guardian, which is started if there is none; None: it can't be had here."""
        if self._profile is None:
            return None
        async with self._guardian_lock:
            if not is_alive(self._guardian):
                private_directory(self._runtime)
                server, started = await start_guardian(self._profile)
                if server is None:
                    log.warning("there is no guardian for kernels: %s", started.why)
                    return None
                self._take_guardian(server)
                await self._watch_all(server)
            return self._guardian

    @property
    def _levels(self) -> tuple[str, ...]:
        return () if self._mode == "spawn" else LEVELS

    async def _start_server(self, profile: Profile, level: str) -> ForkServer | None:
        server, started = await start_fork_server(profile, level, profile.digest(self._levels))
        self.started = started
        for name, why in started.refused.items():
            log.warning("not preloaded: %s (%s)", name, why)
        try:
            passes = server is not None and await self._passes_test(server)
        except BaseException:
            if server is not None:
                server.end()
            raise
        if server is not None and not passes:
            await server.end()
            return None
        return server

    def _take_server(self, server: ForkServer, level: str) -> None:
        self._server, self._level = server, level
        server.on_death = self._on_server_death

    def _take_guardian(self, server: ForkServer) -> None:
        self._guardian = server
        server.on_death = self._on_guardian_death

    def _on_server_death(self) -> None:
        """Replace a fork server that died; the guardian has its kernels."""
        if self._replaced < REPLACEMENTS:
            self._replaced += 1
            self._soon(self._replace_server())

    def _on_guardian_death(self) -> None:
        """Replace the guardian: kernels that nobody guards would end with us."""
        if self._replaced < REPLACEMENTS:
            self._replaced += 1
            self._soon(self._see_to_guardian())

    def _soon(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def _see_to_guardian(self) -> None:
        try:
            await self.ensure_guardian()
        except (KernelryError, OSError) as error:  # the next start of a kernel tries it again
            log.warning("the guardian can't be started: %s", error)

    async def _replace_server(self) -> None:
        try:
            private_directory(self._runtime)
            if (guardian := await self.ensure_guardian()) is not None:
                await self._watch_all(guardian)
            await self.ensure_fork_server()
        except (KernelryError, OSError) as error:  # the next start of a kernel tries it again
            log.warning("the fork server died and can't be replaced: %s", error)

    async def _watch_all(self, server: ForkServer) -> None:
        """Tell a guardian of all kernels that are not its own children."""
        for kernel in self._kernels:
            if kernel.guardian is server or kernel.process.exit is not None:
                continue
            if not is_alive(kernel.guardian):
                kernel.guardian = server
            await server.watch(kernel.process, f"{kernel.record.path}.launch")

    def _reattach(
        self, process: KernelProcess, guardian: ForkServer, record: KernelRecord
    ) -> LocalKernel:
        connection = Connection(path=Path(record.path), key=record.key, client_id=record.client_id)
        walls = Walls(isolation=record.isolation, network=record.network)
        kernel = LocalKernel(process, Channels(connection), connection, walls)
        kernel.find_group()
        kernel.guardian = guardian
        self._kernels.append(kernel)
        process.on_exit(lambda _: self._retire(guardian))
        if record.start == BranchProcess.start:
            process.on_exit(lambda _: self._soon(reap(process.pid, self._kernels)))
        return kernel

    def _retire(self, guardian: ForkServer) -> None:
        """End a fork server of an earlier server that has no kernel of ours any more."""
        alive = (kernel for kernel in self._kernels if kernel.process.exit is None)
        if guardian in (self._server, self._guardian):
            return
        if all(kernel.guardian is not guardian for kernel in alive):
            guardian.end(spare=True)

    async def _passes_test(self, server: ForkServer) -> bool:
        """Say whether a kernel forked from `server` runs code; leave nothing of it."""
        probe = self._new_probe()
        try:
            return await can_fork(server, probe, self._new_connection())
        finally:
            await probe.discard()

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
        starting = list(self._starting)
        for task in starting:
            task.cancel()
        if starting:
            await asyncio.wait(starting)
        for server in self._servers():
            await server.aclose()
        self._close()

    def leave(self) -> None:
        """Go and leave the fork servers with their kernels to the next server."""
        for server in self._servers():
            server.leave()
        self._close()

    def _servers(self) -> list[ForkServer]:
        found = [server for server, _ in self._inherited]
        found += [server for server in (self._server, self._guardian) if server is not None]
        return [server for server in dict.fromkeys(found) if not server.is_closed]

    def _close(self) -> None:
        for task in list(self._starting):
            task.cancel()
        self._lifelines.close()

    async def _start_process(
        self,
        launch: Launch,
        connection: Connection,
        fresh: bool,
        deadline: float,
        began: Callable[[KernelProcess], None],
    ) -> tuple[KernelProcess, ForkServer | None]:
        # A fork server that died is replaced; one that is still starting is not waited for
        # unless nothing else is allowed: a spawned kernel is there sooner.
        died = self._server is not None and self._server.is_closed
        # A box is made around a fresh process only.
        must_spawn = fresh or launch.walls.isolation is Isolation.BOX
        if not must_spawn and (died or self._mode == "fork"):
            await self.ensure_fork_server()
        for _ in range(2):  # it may have died, and this request be the first to notice
            forker = self._server if not must_spawn and is_alive(self._server) else None
            server = forker or await self.ensure_guardian()
            if server is None:
                break
            start = server.spawn if forker is None else server.fork
            try:
                return await start(launch, connection, deadline=deadline, began=began), server
            except KernelStartError:
                if not server.is_closed:
                    raise
            if forker is not None:
                await self.ensure_fork_server()
        return await spawn(launch, connection, deadline=deadline, began=began), None


def is_alive(server: ForkServer | None) -> bool:
    """Say whether there is a fork server, or a guardian, that answers as far as we know."""
    return server is not None and not server.is_closed
