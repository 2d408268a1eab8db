"""The engine for kernels on this machine: ipc channels to processes that we start.

A kernel is forked from the fork server, taken warm from a pool of such, or spawned as a
fresh process. It is ready when it has answered on its control channel *and* its IOPub
reaches us, so that no output of the first execution can be missed. There is no polling in
it: the process says when its sockets are bound, and each wait ends with its event.
"""

import asyncio
import secrets
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import psutil

from kernelry.engines.branching import Copy, Wanted, copy_of, reap
from kernelry.engines.forkserver import ForkServer, Profile
from kernelry.engines.frozen import FrozenKernel
from kernelry.engines.guardians import Started
from kernelry.engines.kernel import LocalKernel, handshake, is_same_process, prove, remove_files
from kernelry.engines.launch import Launch
from kernelry.engines.servers import ForkServers
from kernelry.engines.spawn import spawn
from kernelry.errors import KernelStartError
from kernelry.messaging import BRANCHES, PORTS, Channels, Connection, new_id
from kernelry.models import Isolation, KernelRecord, Limits
from kernelry.paths import private_directory
from kernelry.processes import (
    FAMILY_DEADLINE,
    BranchProcess,
    Exit,
    Grouping,
    KernelProcess,
    exit_code,
    kill_family,
    known_group,
    remove_unused,
    set_oom_score,
)
from kernelry.shielding import to_the_end
from kernelry.walls import Walls

CHANNELS = [PORTS[name] for name in ("shell", "iopub", "control")]  # no kernel is without
START_DEADLINE = 60.0  # seconds from the start of a process to its answer


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
        self._mode = mode
        self._kernels: list[LocalKernel | FrozenKernel] = []
        self._servers = ForkServers(
            *(runtime, profile, new_probe, self._new_connection, mode, self._kernels)
        )
        self._claimed: set[int] = set()
        self._killed: list[psutil.Process] = []

    @property
    def fork_server_pid(self) -> int:
        """The process that kernels are forked from, or else that guards them; 0: none yet."""
        return self._servers.pid

    @property
    def can_fork(self) -> bool:
        """Say whether a kernel can be forked at once."""
        return self._servers.can_fork

    @property
    def guardian_pids(self) -> tuple[int, ...]:
        """The processes that look after kernels when this one is gone."""
        return tuple(server.pid for server in self._servers.all())

    @property
    def started(self) -> Started | None:
        """What the fork server said when it started; None: it has not been started."""
        return self._servers.started

    def begin(self) -> None:
        """Start the guardian, beside what else is to be done; kernels that start wait for it."""
        self._servers.begin()

    async def find_inherited(self) -> None:
        """Connect to the fork servers that an earlier server of this runtime directory left."""
        await self._servers.find_inherited()

    async def ensure_fork_server(self) -> bool:
        """See `ForkServers.ensure_fork_server`."""
        return await self._servers.ensure_fork_server()

    async def ensure_guardian(self) -> ForkServer | None:
        """See `ForkServers.ensure_guardian`."""
        return await self._servers.ensure_guardian()

    async def aclose(self) -> None:
        """End the fork servers and give everything back; all kernels must be down."""
        await self._servers.aclose()

    def leave(self) -> None:
        """Go and leave the fork servers with their kernels to the next server."""
        self._servers.leave()

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
        self._servers.lifelines.hold()
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
        self,
        origin: LocalKernel | FrozenKernel,
        launch: Launch,
        *,
        before: Callable[[], Awaitable[None]] | None = None,
        other: bool = False,
        deadline: float = START_DEADLINE,
    ) -> tuple[LocalKernel, tuple[str, ...]]:
        """Have a kernel fork itself; return the copy when it has run code, and what it lacks.

        Args:
            origin: Which; it runs nothing.
            launch: What the copy shall be.
            before: Called when there is a process, which has not touched anything yet.
            other: Whether it goes another way than what it is a copy of: it draws other numbers.
            deadline: Seconds it may take.

        Raises:
            NoCopyError: Something stands against it; nothing was done.
            KernelStartError: It did not get that far; nothing of it is left.
        """
        if isinstance(origin, FrozenKernel):
            await origin.settled()
        begun = await self._copy(origin, launch, deadline, Wanted(branch=other), before)
        await listening(begun, deadline)
        grouping, connection, copy = begun
        kernel = await self._stand(
            copy.process, origin.guardian, connection, launch, grouping, deadline
        )
        try:
            if origin.group is not None and kernel.group is None:
                raise KernelStartError("no control group can be made for a copy of the kernel")
            await prove(kernel, deadline)
        except BaseException:
            await to_the_end(kernel.shutdown(grace=0))
            raise
        return kernel, copy.named

    async def freeze(
        self,
        origin: LocalKernel,
        launch: Launch,
        *,
        patience: float | None = None,
        deadline: float = START_DEADLINE,
    ) -> tuple[FrozenKernel, tuple[str, ...]]:
        """Have a kernel fork itself to a copy that stays as it is; return it, and what it lacks.

        It is what it was then, and the kernel may go on; what is still to be done for it goes on
        beside (`FrozenKernel.settled`).

        Args:
            origin: Which.
            launch: What it was launched with.
            patience: Seconds to wait for a safe point of what it runs; None: it runs nothing.
            deadline: Seconds it may take.

        Raises:
            As `branch`.
        """
        launch = replace(launch, walls=replace(launch.walls, limits=Limits()))
        at = "" if patience is None else "safe_point"
        wanted = Wanted(frozen=True, at=at, patience=patience or 0.0)
        begun = await self._copy(origin, launch, deadline, wanted)
        frozen = FrozenKernel(begun.copy.process, begun.connection, origin.walls, origin.guardian)
        frozen.inside = begun.copy.inside
        if origin.group is not None:  # it is in that, yet, and the kernel goes on at once
            frozen.borrow(origin.group)
        settling = frozen.settle(self._settle(frozen, begun, origin, deadline))
        origin.wait_for(settling)  # what is in its group yet is not to be ended with it
        self._keep(frozen)
        return frozen, begun.copy.named

    async def _settle(
        self, frozen: FrozenKernel, begun: "Begun", origin: LocalKernel, deadline: float
    ) -> None:
        """See to it that a copy listens, and is in a control group of its own."""
        await listening(begun, deadline)
        try:
            frozen.group = await begun.grouping.group()
            if origin.group is not None and frozen.group is None:
                raise KernelStartError("no control group can be made for a copy of the kernel")
        except BaseException:
            await to_the_end(frozen.process.kill())
            begun.grouping.give_up()
            raise

    async def _copy(
        self,
        origin: LocalKernel | FrozenKernel,
        launch: Launch,
        deadline: float,
        wanted: Wanted,
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> "Begun":
        """Have a kernel fork itself; return the copy when it is looked after."""
        self._servers.lifelines.hold()
        try:
            private_directory(self._runtime)  # somebody may have cleaned up
            connection = self._new_connection()
        except OSError as error:
            raise KernelStartError(f"a copy has no place for its sockets: {error}") from error
        grouping = Grouping(connection.path.name, launch.walls.limits.memory)

        async def began(process: BranchProcess) -> None:
            process.on_exit(lambda _: self._servers.soon(reap(process, self._kernels)))
            if self._groups or origin.group is not None:
                grouping.begin(process.pid)
            # To whom it goes when its origin ends is one of these, which must know of it by then.
            launch_file = f"{connection.path}.launch"
            await asyncio.gather(
                *(
                    server.watch(process, launch_file, origin.process.pid)
                    for server in self._servers.all()
                )
            )
            if wanted.frozen or isinstance(origin, FrozenKernel):
                set_oom_score(process, frozen=wanted.frozen)
            if before is not None:
                await before()

        try:
            copy = await copy_of(
                *(origin.process, Path(origin.record.path), launch, connection),
                deadline=deadline,
                began=began,
                wanted=wanted,
            )
        except BaseException:
            grouping.give_up()
            remove_files(connection)
            raise
        return Begun(grouping, connection, copy)

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
                # Without the first process in the box: it may have to live for other kernels.
                grouping.begin(process.pid, process.leader)
            await handshake(kernel, deadline)
            kernel.group = await grouping.group()
        except BaseException:
            await to_the_end(process.kill())
            grouping.give_up()
            kernel.release()
            raise
        await self._note(kernel)
        return kernel

    def _keep(self, kernel: LocalKernel | FrozenKernel) -> None:
        """Keep a kernel in mind."""
        self._kernels[:] = [k for k in self._kernels if k.process.exit is None] + [kernel]
        if (its := kernel.guardian) is not None and not self._servers.is_ours(its):
            kernel.process.on_exit(lambda _: self._retire(its))

    async def _note(self, kernel: LocalKernel) -> None:
        """Keep a kernel in mind, and see to it that whoever looks after kernels does."""
        self._keep(kernel)
        guardian = self._servers.guardian
        if guardian is not None and guardian is not kernel.guardian:
            # Should the fork server go together with us, somebody else must know of it.
            await guardian.watch(kernel.process, f"{kernel.record.path}.launch")

    def adopt(self, record: KernelRecord) -> LocalKernel | Exit:
        """Take over a kernel of an earlier server; say how it ended if it has.

        It is the same process if pid, start time and boot are, and if its guardian knows it
        by the name that only it has. A kernel whose guardian or whose sockets are gone or out
        of reach can't be kept, and is ended.
        """
        found = self._claim(record, CHANNELS)
        if isinstance(found, Exit):
            return found
        server, process = found
        connection, walls = known(record)
        kernel = LocalKernel(process, Channels(connection), connection, walls)
        kernel.group = known_group(connection.path.name)
        kernel.guardian = server
        self._kernels.append(kernel)
        self._look_after(process, record, server)
        return kernel

    def adopt_frozen(self, record: KernelRecord) -> FrozenKernel | None:
        """Take over a frozen copy of an earlier server; None: it has ended."""
        found = self._claim(record, [BRANCHES])
        if isinstance(found, Exit):
            return None
        server, process = found
        frozen = FrozenKernel(process, *known(record), server)
        frozen.group = known_group(Path(record.path).name)
        self._kernels.append(frozen)
        self._look_after(process, record, server)
        return frozen

    def _claim(
        self, record: KernelRecord, ports: Sequence[int]
    ) -> tuple[ForkServer, KernelProcess] | Exit:
        """Return who looks after a process of an earlier server, and it; or how it ended."""
        launch = f"{record.path}.launch"
        is_reachable = all(Path(f"{record.path}-{port}").is_socket() for port in ports)
        mine = is_same_process(record)
        # Its parent is asked first, which knows how it ends.
        for server, inventory in sorted(
            self._servers.inherited, key=lambda found: record.pid in found[1].strangers
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
                    return server, process
        if not mine:
            return Exit(None)
        if (code := exit_code(record.pid, record.started)) is not None:
            return Exit(code)  # its origin has not waited for it
        self._killed += kill_family(record.pid)
        return Exit(-signal.SIGKILL)

    def _look_after(
        self, process: KernelProcess, record: KernelRecord, guardian: ForkServer
    ) -> None:
        """See to what is to be done when a process of an earlier server ends."""
        process.on_exit(lambda _: self._retire(guardian))
        if record.start == BranchProcess.start:
            process.on_exit(lambda _: self._servers.soon(reap(process, self._kernels)))

    async def end_unclaimed(self) -> int:
        """End inherited kernels that nobody adopted, and fork servers without any; count them."""
        ended = 0
        remove_unused()
        await asyncio.to_thread(psutil.wait_procs, self._killed, timeout=FAMILY_DEADLINE)
        for server, inventory in self._servers.inherited:
            for pid in set(inventory.kernels.values()) - self._claimed:
                started, is_child = inventory.started[pid], pid not in inventory.strangers
                with suppress(ProcessLookupError):
                    await server.adopt(pid, started, "", knows_exit=is_child).kill()
                    ended += 1
            if not self._servers.is_ours(server) and not self._claimed & set(
                inventory.kernels.values()
            ):
                await server.aclose()
        return ended

    def _retire(self, guardian: ForkServer) -> None:
        """End a fork server of an earlier server that has no kernel of ours any more."""
        alive = (kernel for kernel in self._kernels if kernel.process.exit is None)
        if self._servers.is_ours(guardian):
            return
        if all(kernel.guardian is not guardian for kernel in alive):
            guardian.end(spare=True)

    def _new_connection(self) -> Connection:
        """Make a directory for the sockets of one kernel, which no other can reach."""
        name = secrets.token_hex(4)
        return Connection(
            path=private_directory(self._runtime / name) / name,
            key=secrets.token_hex(32),
            client_id=new_id(),
        )

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
        # A box is made around a fresh process only.
        servers = self._servers
        must_spawn = fresh or launch.walls.isolation is Isolation.BOX
        if not must_spawn and (servers.has_died or self._mode == "fork"):
            await servers.ensure_fork_server()
        for _ in range(2):  # it may have died, and this request be the first to notice
            forker = servers.forker if not must_spawn else None
            server = forker or await servers.ensure_guardian()
            if server is None:
                break
            start = server.spawn if forker is None else server.fork
            try:
                return await start(launch, connection, deadline=deadline, began=began), server
            except KernelStartError:
                if not server.is_closed:
                    raise
            if forker is not None:
                await servers.ensure_fork_server()
        return await spawn(launch, connection, deadline=deadline, began=began), None


class Begun(NamedTuple):
    """A copy of a kernel that was forked, and is looked after."""

    #: makes its control group
    grouping: Grouping
    #: where it will be reached
    connection: Connection
    #: the copy
    copy: Copy


async def listening(begun: Begun, deadline: float) -> None:
    """Wait until a copy listens.

    Raises:
        KernelStartError: It does not; nothing of it is left.
    """
    try:
        await begun.copy.listens(deadline)
    except BaseException:
        begun.grouping.give_up()
        remove_files(begun.connection)
        raise


def known(record: KernelRecord) -> tuple[Connection, Walls]:
    """Return how a kernel of an earlier server is reached, and what it stands behind."""
    connection = Connection(path=Path(record.path), key=record.key, client_id=record.client_id)
    return connection, Walls(isolation=record.isolation, network=record.network)
