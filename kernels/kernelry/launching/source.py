"""Where the kernels of a service come from: warm, forked, or spawned; and behind which walls."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from kernelry.config import Config, interpreter
from kernelry.engines import (
    FrozenKernel,
    Launch,
    LocalEngine,
    LocalKernel,
    NoCopyError,
    Started,
    WarmKernel,
    WarmPool,
)
from kernelry.errors import KernelryError, KernelStartError
from kernelry.launching.descriptors import check_descriptors
from kernelry.launching.isolation import Levels, check_network
from kernelry.launching.launches import Launches
from kernelry.packages import SessionEnvironment, check_place
from kernelry.walls import Walls

GUARDIAN_DEADLINE = 10.0  # seconds for a fork server to start, before kernels are left to it


class KernelSource:
    """Starts the kernels of one service.

    Args:
        config: How the service was set up.
        launches: What kernels are started with.
        levels: Which isolation was proved.
    """

    def __init__(self, config: Config, launches: Launches, levels: Levels) -> None:
        self._launches = launches
        self._levels = levels
        self._is_forking = config.kernel_start == "fork"
        # A fork server is outside of all walls: it is none whose code sessions can write.
        self._is_changeable = launches.interpreters.is_changeable(launches.python)
        self.engine = LocalEngine(
            launches.state.runtime,
            launches.profile(),
            launches.fresh,
            mode="spawn" if self._is_changeable else config.kernel_start,
            groups=config.control_groups,
        )
        self._pool = WarmPool(self.engine, config.warm, launches.fresh)

    @property
    def walls(self) -> Walls:
        """What stands between a session and the rest, unless it asked for more."""
        return self._launches.walls

    @property
    def fork_server_pid(self) -> int:
        """The process that kernels are forked from, or that guards them; 0: none yet."""
        return self.engine.fork_server_pid

    @property
    def fork_server(self) -> Started | None:
        """What the fork server said when it started; None: not yet, or never."""
        return self.engine.started

    async def open(self) -> None:
        """Find what a dead server has left, and see to what was asked for explicitly.

        Raises:
            KernelStartError: Kernels can't be forked, and nothing else is allowed.
        """
        if self._is_forking and self._is_changeable:
            msg = (
                f"--kernel-start=fork: sessions can change {self._launches.python}, or packages "
                "of it, so its kernels are spawned within their walls; leave the option out, or "
                "name by --python an interpreter outside of the workspace"
            )
            raise KernelStartError(msg)
        await self.engine.find_inherited()
        self.engine.begin()
        if self._is_forking:  # what can't be had is an error now, not later
            await self.engine.ensure_fork_server()

    async def keep_warm(self) -> None:
        """Start the fork server, then keep kernels ready, until cancelled."""
        await self._pool.run()

    async def wait_until_warm(self) -> None:
        """Wait until the fork server and the warm kernels are there, or can't be had."""
        await self._pool.settled.wait()

    def take_warm(self, walls: Walls) -> WarmKernel | None:
        """Return a kernel that is ready, if there is one behind just these walls."""
        return self._pool.take() if walls == self.walls else None

    async def start(
        self, directory: Path, environment: SessionEnvironment, walls: Walls, *, fresh: bool
    ) -> LocalKernel:
        """Start the kernel of a session, and return it when it can run code.

        Raises:
            LimitExceededError: There are too few file descriptors left.
            ConflictError: The level can't keep it off the network.
            IsolationError: The level can't be proved.
            KernelStartError: It did not start; nothing of it is left.
        """
        check_descriptors()
        check_network(walls)
        await self._levels.require(walls.isolation)
        self._pool.begin_start()
        try:
            launch = self._launches.of(directory, environment, walls)
            if launch.python != self._launches.python:  # forks are of the service's
                fresh = True
                found = await self._launches.interpreters.ask(launch.python)
                launch = replace(launch, reads=found.reads)
            return await self.engine.start(launch, fresh=fresh)
        finally:
            self._pool.end_start()

    async def branch(
        self,
        origin: LocalKernel | FrozenKernel,
        directory: Path,
        environment: SessionEnvironment,
        walls: Walls,
        *,
        before: Callable[[], Awaitable[None]] | None = None,
        other: bool = False,
    ) -> tuple[LocalKernel, tuple[str, ...]]:
        """Have a kernel forked from another as it is; return it, and what it lacks or shares.

        Args:
            origin: The other one.
            directory: The private one of the session that it shall be of.
            environment: The packages of that.
            walls: The walls of that.
            before: Called when there is a process, which has not touched anything yet.
            other: Whether it goes another way than what it is a copy of.

        Raises:
            NoCopyError: Something stands against it; nothing was done.
            LimitExceededError: There are too few file descriptors left.
            KernelStartError: It did not come to be; nothing of it is left.
        """
        launch = self._copied(directory, environment, walls)
        return await self.engine.branch(origin, launch, before=before, other=other)

    async def freeze(
        self,
        origin: LocalKernel,
        directory: Path,
        environment: SessionEnvironment,
        walls: Walls,
        *,
        patience: float | None = None,
    ) -> tuple[FrozenKernel, tuple[str, ...]]:
        """Have a kernel forked to a copy that stays as it is; return it, and what it lacks.

        Args:
            origin: The kernel.
            directory: The private one of its session.
            environment: The packages of that.
            walls: The walls of that.
            patience: Seconds to wait for a safe point of what it runs; None: it runs nothing.

        Raises:
            TimeoutError: It came to no safe point.
            NoCopyError, LimitExceededError, KernelStartError: As `branch`.
        """
        launch = self._copied(directory, environment, walls)
        return await self.engine.freeze(origin, launch, patience=patience)

    def _copied(self, directory: Path, environment: SessionEnvironment, walls: Walls) -> Launch:
        """Return what a copy of a kernel is launched with."""
        check_descriptors()
        launch = self._launches.of(directory, environment, walls)
        if not launch.takes_branches:
            raise NoCopyError("kernels can't be forked as they are on this system")
        return launch

    async def own_python(self, wanted: str) -> str:
        """Return the path of a session's own interpreter, which can run kernels; empty: none.

        Raises:
            InvalidArgumentError: It can't run kernels, or a session could have made it.
        """
        if not wanted:
            return ""
        found = interpreter(Path(wanted))
        check_place(wanted, found, self._launches.state.path)
        if found == self._launches.python:
            return ""
        await self._launches.interpreters.check(found)
        return str(found)

    async def find_guardian(self) -> None:
        """See to it that somebody looks after kernels that are left."""
        with suppress(TimeoutError, KernelryError, OSError):
            async with asyncio.timeout(GUARDIAN_DEADLINE):
                await self.engine.ensure_guardian()

    async def drain(self) -> None:
        """End the kernels that nobody took."""
        await self._pool.drain()

    async def aclose(self) -> None:
        """End the fork servers; all kernels must be down."""
        await self.engine.aclose()

    def leave(self) -> None:
        """Leave the fork servers with their kernels to the next server."""
        self.engine.leave()
