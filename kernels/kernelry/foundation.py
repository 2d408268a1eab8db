"""What a service stands on: its state directory, the records and blobs in it, and the walls.

Opened as a whole or not at all, and released in the opposite order.
"""

import asyncio
import os
from pathlib import Path

from kernelry.apart import in_thread
from kernelry.artifacts import Artifacts, Keeper
from kernelry.config import Config, interpreter
from kernelry.crashpoints import crash_point
from kernelry.errors import KernelStartError
from kernelry.launching import Launches, Levels, check_workspace, writable
from kernelry.models import Isolation
from kernelry.packages import Installer, Interpreters
from kernelry.paths import StateDirectory, Workspace, claim_state_directory
from kernelry.shielding import to_the_end
from kernelry.store import Store
from kernelry.walls import Walls
from kernelry.workspace import Watch
from kernelry.yielding import yielding


class Foundation:
    """The ground of one service.

    Args:
        config: How the service is set up.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.workspace = Workspace(config.workspace.expanduser().absolute())
        #: the isolation that can be had
        self.levels = Levels(self.workspace.root)
        #: the state directory that was taken
        self.state: StateDirectory
        #: keeps records
        self.store: Store
        #: data that sessions keep
        self.artifacts: Artifacts
        #: makes artifacts of what executions leave
        self.keeper: Keeper
        #: what kernels are started with
        self.launches: Launches
        #: sees which files of the workspace change
        self.watch = Watch(self.workspace.root)
        self._python = interpreter(config.python)

    async def open(self) -> None:
        """Take the state directory and open what is in it, while the isolation is being tried.

        Raises:
            KernelStartError: There is no interpreter to run kernels with.
            IsolationError: The level that was asked for can't be had, or the workspace and what
                is nobody else's lie in each other; nothing was made.
            StoreError: The state directory can't be used.
        """
        if not os.access(self._python, os.X_OK):
            msg = f"there is no interpreter {self._python} to run kernels with (--python)"
            raise KernelStartError(msg)
        check_workspace(self.config)
        self.workspace.create()
        choosing = asyncio.ensure_future(self.levels.choose(self.config))
        try:
            if self.config.isolation != "auto":  # what can't be had leaves nothing behind
                await choosing
            await self._open(choosing)
        finally:
            if not choosing.done():  # else a cancel here would come when all is open
                choosing.cancel()
                await to_the_end(asyncio.wait([choosing]))
        yielding.begin()
        self._watching = in_thread(self.watch.start, name="watch")
        crash_point("store.opened")

    async def release(self, *, leave: bool) -> None:
        """Close everything.

        Args:
            leave: Whether kernels stay for the next server.
        """
        await self.artifacts.aclose()
        await self.store.aclose()
        self.state.release(keep_runtime=leave)
        await self._watching
        self.watch.close()
        yielding.end()

    async def _open(self, choosing: "asyncio.Future[Walls]") -> None:
        path = self.config.state_dir.expanduser().absolute()
        self.state = claim_state_directory(path, explicit=self.config.state_dir_named)
        try:
            self.store = Store(self.state.database, self.state.reclaim)
            await self.store.open()
            try:
                walls = await choosing
                interpreters = Interpreters(walls, self._changeable(walls))
                reads = (await interpreters.ask(self._python)).reads
                folder = self.state.path / "installs"
                installer = Installer(folder, self.config.allow_sdist, walls, interpreters)
                await asyncio.to_thread(installer.recover)
                self.artifacts = Artifacts(
                    *(self.store, self.state.blobs, self.workspace.root, self.config.artifacts)
                )
                await self.artifacts.open()
                self.keeper = Keeper(self.artifacts, self.store, self.workspace.root)
                await self.keeper.open()
            except BaseException:
                await self.store.aclose()
                raise
        except BaseException:
            # Kernels of a dead server may wait there for one that can start.
            self.state.release(keep_runtime=True)
            raise
        root = self.workspace.root
        self.launches = Launches(
            self.config, self._python, self.state, root, walls, reads, installer, interpreters
        )

    def _changeable(self, walls: Walls) -> tuple[Path, ...]:
        """Return where sessions can write though they have walls."""
        if walls.isolation is Isolation.PROCESS:
            return ()
        return tuple(path for _, path in writable(self.config))
