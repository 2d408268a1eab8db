"""What a session uses of the service that it belongs to."""

import asyncio
import logging
from collections.abc import Awaitable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from kernelry.apart import Apart
from kernelry.artifacts import Artifacts, Keeper
from kernelry.engines import LocalKernel
from kernelry.launching import Launches
from kernelry.packages import SessionEnvironment
from kernelry.paths import Workspace
from kernelry.session.undoing import Undoing
from kernelry.store import Store
from kernelry.usage import Scripts
from kernelry.walls import Walls
from kernelry.workspace import Watch

log = logging.getLogger(__name__)


class Spawner(Protocol):
    """Starts a task that the service owns."""

    def __call__(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Start it."""
        ...


async def isolated(work: Coroutine[Any, Any, None], name: str) -> None:
    """Do something of which a failure is one session's, not that of all others."""
    try:
        await work
    except Exception:  # whatever it is: nobody awaits this
        log.exception("%s failed in kernelry", name)


class KernelStarter(Protocol):
    """Starts the kernel of a session."""

    def __call__(
        self, directory: Path, environment: SessionEnvironment, walls: Walls, *, fresh: bool
    ) -> Awaitable[LocalKernel]:
        """Start it, and return it when it can run code."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """What a session uses of the service that it belongs to."""

    #: keeps records
    store: Store
    #: keeps data of sessions
    artifacts: Artifacts
    #: makes artifacts of output
    keeper: Keeper
    #: starts tasks
    spawn: Spawner
    #: the shared folder
    workspace: Workspace
    #: sees which files of it change
    watch: Watch
    #: starts kernels
    start_kernel: KernelStarter
    #: sees to it that executions can be undone
    undoing: Undoing = field(default_factory=Undoing)
    #: the scripts of its sessions that run
    scripts: Scripts = field(default_factory=Scripts)
    #: does what a session's files ask for
    apart: Apart
    #: what the kernels are started with
    launches: Launches
