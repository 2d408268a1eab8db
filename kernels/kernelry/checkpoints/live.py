"""Live checkpoints: frozen copies of kernels, with everything that these had.

Such a copy is a process that waits: next to nothing at first, and then what its origin changes,
page by page. So they are bounded in number and in memory, the oldest goes first, and all of them
go before a session does. They outlive a server that is killed, and are gone with the machine.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import psutil

from kernelry.apart import in_thread
from kernelry.config import Config
from kernelry.engines import FrozenKernel, LocalKernel, NoCopyError, held
from kernelry.errors import CheckpointError, KernelStartError
from kernelry.launching import KernelSource
from kernelry.models import Checkpoint, Isolation
from kernelry.processes import Exit
from kernelry.session import Session
from kernelry.usage import quantity

REMEMBERED = 100  # checkpoints that went, of which is known why
PRESSURE = 0.05  # of the machine's memory: when less is left, all of them go


@dataclass(frozen=True, slots=True)
class Surplus:
    """Live checkpoints that are too many, or too large."""

    #: which
    ids: tuple[str, ...]
    #: why, in a line
    why: str


#: a frozen copy, and what it lacks or shares
Frozen: TypeAlias = tuple[FrozenKernel, tuple[str, ...]]


class Kept(NamedTuple):
    """A live checkpoint."""

    #: what it is
    checkpoint: Checkpoint
    #: its process
    frozen: FrozenKernel


class LiveCheckpoints:
    """The frozen copies of one service.

    Args:
        kernels: Makes them, and kernels of them.
        sessions: Those that there are, by id; kept up to date.
        config: How many there may be, and how much of their own they may have.
        lost: Called with the id of one whose process has ended, and how.
    """

    def __init__(
        self,
        kernels: KernelSource,
        sessions: Mapping[str, Session],
        config: Config,
        lost: Callable[[str, Exit], None],
    ) -> None:
        self._kernels = kernels
        self._sessions = sessions
        self._count = config.live_checkpoints
        self._memory = config.live_memory
        self._lost = lost
        self._kept: dict[str, Kept] = {}  # the oldest first
        self._gone: dict[str, str] = {}  # id or name -> why
        #: set when the server stops
        self.is_closed = False

    def __contains__(self, checkpoint_id: str) -> bool:
        """Say whether a checkpoint has its process."""
        return checkpoint_id in self._kept

    @property
    def is_empty(self) -> bool:
        """Say whether there are none."""
        return not self._kept

    async def freeze(self, session: Session, kernel: LocalKernel) -> Frozen:
        """Return a copy of a session's kernel that stays as it is, and what it lacks or shares.

        It outlives the kernel: whoever ends that finds it no more.

        Raises:
            CheckpointError: It can't be copied as it is; nothing was done.
        """
        if not self._count:
            raise CheckpointError("there are no live checkpoints here (live_checkpoints is 0).")
        try:
            return await self._kernels.freeze(
                kernel, session.directory, session.environment, session.walls
            )
        except NoCopyError as error:
            msg = f"no live checkpoint can be made: {error.why}. One without live=true saves what "
            raise CheckpointError(msg + "can be saved.") from error
        except KernelStartError as error:
            raise CheckpointError(f"no live checkpoint was made: {error}") from error

    async def settled(self, frozen: FrozenKernel) -> None:
        """Wait until a copy can be restored.

        Raises:
            CheckpointError: It did not get that far.
        """
        try:
            await frozen.settled()
        except KernelStartError as error:
            raise CheckpointError(f"no live checkpoint was made: {error}") from error

    def keep(self, checkpoint: Checkpoint, frozen: FrozenKernel) -> None:
        """Have a copy be a checkpoint's from here on."""
        self._kept[checkpoint.id] = kept = Kept(checkpoint, frozen)
        self._gone.pop(checkpoint.name, None)

        def ended(how: Exit) -> None:
            if self._kept.get(checkpoint.id) is kept and not self.is_closed:
                self._lost(checkpoint.id, how)

        frozen.process.on_exit(ended)

    async def adopt(
        self, found: Mapping[str, FrozenKernel], checkpoints: Iterable[Checkpoint]
    ) -> None:
        """Take over those that a server before has left, and end those of no checkpoint."""
        for checkpoint in sorted(checkpoints, key=lambda one: one.created_at):
            if frozen := found.get(checkpoint.id):
                self.keep(checkpoint, frozen)
        await asyncio.gather(*(one.end() for name, one in found.items() if name not in self._kept))

    def process_of(self, checkpoint: Checkpoint) -> FrozenKernel:
        """Return the process that a checkpoint is.

        Raises:
            CheckpointError: It is gone.
        """
        if (kept := self._kept.get(checkpoint.id)) is None:
            raise CheckpointError(f"live checkpoint {checkpoint.id} {self.why_gone(checkpoint.id)}")
        return kept.frozen

    def of(self, session_id: str) -> list[str]:
        """Return those of a session."""
        return [name for name, one in self._kept.items() if one.checkpoint.session_id == session_id]

    async def put_back(
        self, checkpoint: Checkpoint, origin: Session, session: Session
    ) -> tuple[str, ...]:
        """Give a session a kernel with all that a checkpoint has; return what is different.

        Args:
            checkpoint: Which.
            origin: Whose it is.
            session: Somebody has its turn.

        Raises:
            CheckpointError: That can't be; the session is as it was, or its kernel is dead.
        """
        frozen = self.process_of(checkpoint)
        check_alike(origin, session)
        try:
            await self.become(session, origin, frozen, f"checkpoint {checkpoint.id} was restored")
        except NoCopyError as error:
            msg = f"it can't be restored: {error.why}; nothing was."
            if session is not origin:
                msg += f" Restore it into '{origin.id}'; one without live=true goes to any session."
            raise CheckpointError(msg) from error
        except KernelStartError as error:
            msg = f"its kernel did not come to be: {error} restore_checkpoint tries again."
            raise CheckpointError(msg) from error
        if session is not origin and origin.environment.exists:
            line = f"packages that '{origin.id}' has installed are there as far as they were loaded"
            return (*checkpoint.named, line)
        return checkpoint.named

    async def become(
        self, session: Session, origin: Session, of: LocalKernel | FrozenKernel, why: str
    ) -> None:
        """Give a session a copy of a kernel instead of its own; somebody has its turn.

        Args:
            session: Which.
            origin: Whose kernel it is.
            of: The kernel.
            why: In a line, for the log.

        Raises:
            NoCopyError: Something stands against it; nothing was done.
            KernelStartError: The copy did not come to be, and the session's kernel is dead.
        """
        if session is not origin and session.walls.isolation is not Isolation.PROCESS:
            raise NoCopyError(
                f"the walls of a kernel of '{origin.id}' can't become those of '{session.id}'"
            )

        async def make(end: Callable[[], Awaitable[None]]) -> LocalKernel:
            kernel, _ = await self._kernels.branch(
                of, session.directory, session.environment, session.walls, before=end
            )
            return kernel

        await session.replace_kernel(make, why)

    async def surplus(self) -> Surplus | None:
        """Return which are too many now, the oldest first; None: all of them may stay."""
        # Those before executions are bounded by themselves.
        counted = [name for name, one in self._kept.items() if not one.checkpoint.execution_id]
        if len(counted) > self._count:
            many = counted[: len(counted) - self._count]
            return Surplus(tuple(many), f"the oldest of more than {self._count} went")
        if not self._kept:
            return None
        memory = psutil.virtual_memory()
        if memory.available < PRESSURE * memory.total:
            return Surplus(self.ids, f"{quantity(memory.available)} of memory were left")
        oldest = next(iter(self._kept))
        copies = [one.frozen.process.pid for one in self._kept.values()]
        sessions = {one.checkpoint.session_id for one in self._kept.values()}
        kernels = [
            session.kernel.process.leader
            for session in map(self._sessions.get, sessions)
            if session is not None and session.kernel is not None
        ]
        if await in_thread(held, copies, kernels, name="live checkpoints") > self._memory:
            return Surplus((oldest,), f"all together had over {quantity(self._memory)}")
        return None

    async def end(self, checkpoint_ids: Iterable[str], why: str) -> None:
        """End the processes of checkpoints, those that have one."""
        going = []
        for name in checkpoint_ids:
            if (kept := self._kept.pop(name, None)) is not None:
                self._gone |= {one: why for one in (name, kept.checkpoint.name) if one}
                going.append(asyncio.ensure_future(kept.frozen.end()))
        while len(self._gone) > REMEMBERED:
            del self._gone[next(iter(self._gone))]
        await asyncio.gather(*going)

    def why_gone(self, checkpoint_id: str) -> str:
        """Say why a checkpoint is not there any more; empty: nothing is known of it."""
        why = self._gone.get(checkpoint_id, "")
        return f"is gone: {why}." if why else ""

    @property
    def ids(self) -> tuple[str, ...]:
        """All that there are, the oldest first."""
        return tuple(self._kept)

    def leave(self) -> None:
        """Leave all of them for the next server."""
        for one in self._kept.values():
            one.frozen.leave()
        self._kept.clear()


def check_alike(origin: Session, session: Session) -> None:
    """Refuse a session in which a copy of another one's kernel would not be what was asked for.

    Raises:
        CheckpointError: With what to do instead.
    """
    different = [
        name
        for name, mine, other in (
            ("walls or limits", origin.walls, session.walls),
            ("interpreter", origin.environment.parent, session.environment.parent),
        )
        if mine != other
    ]
    if different:
        msg = (
            f"session '{session.id}' has another {' and another '.join(different)} than "
            f"'{origin.id}': what is live can't move there. Use '{origin.id}' or a branch of it."
        )
        raise CheckpointError(msg)
