"""Live checkpoints: frozen copies of kernels, with everything that these had.

Such a copy is a process that waits: next to nothing at first, and then what its origin changes,
page by page. So they are bounded in number and in memory, the oldest goes first, and all of them
go before a session does. They outlive a server that is killed, and are gone with the machine.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

import psutil

from kernelry.apart import in_thread
from kernelry.engines import FrozenKernel, LocalKernel, NoCopyError
from kernelry.errors import CheckpointError, KernelStartError
from kernelry.launching import KernelSource
from kernelry.models import Checkpoint
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


class LiveCheckpoints:
    """The frozen copies of one service.

    Args:
        kernels: Makes them, and kernels of them.
        count: How many there may be.
        memory: Bytes that all of them may have of their own.
        lost: Called with the id of one whose process has ended, and how.
    """

    def __init__(
        self,
        kernels: KernelSource,
        count: int,
        memory: int,
        lost: Callable[[str, Exit], None],
    ) -> None:
        self._kernels = kernels
        self._count = count
        self._memory = memory
        self._lost = lost
        self._frozen: dict[str, FrozenKernel] = {}  # the oldest first
        self._gone: dict[str, str] = {}

    def __contains__(self, checkpoint_id: str) -> bool:
        """Say whether a checkpoint has its process."""
        return checkpoint_id in self._frozen

    @property
    def is_empty(self) -> bool:
        """Say whether there are none."""
        return not self._frozen

    async def freeze(self, session: Session, kernel: LocalKernel) -> tuple[FrozenKernel, list[str]]:
        """Return a copy of a session's kernel that stays as it is, and what it lacks or shares.

        Raises:
            CheckpointError: It can't be copied as it is; nothing was done.
        """
        if not self._count:
            raise CheckpointError("there are no live checkpoints here (live_checkpoints is 0).")
        try:
            frozen, named = await self._kernels.freeze(
                kernel, session.directory, session.environment, session.walls
            )
        except NoCopyError as error:
            msg = f"no live checkpoint can be made: {error.why}. One without live=true saves what "
            raise CheckpointError(msg + "can be saved.") from error
        except KernelStartError as error:
            raise CheckpointError(f"no live checkpoint was made: {error}") from error
        return frozen, list(named)

    def keep(self, checkpoint_id: str, frozen: FrozenKernel) -> None:
        """Have a copy be a checkpoint's from here on."""
        self._frozen[checkpoint_id] = frozen

        def ended(how: Exit) -> None:
            if self._frozen.get(checkpoint_id) is frozen:
                self._lost(checkpoint_id, how)

        frozen.process.on_exit(ended)

    def adopt(self, found: Mapping[str, FrozenKernel], checkpoints: Iterable[Checkpoint]) -> None:
        """Take over those that a server before has left."""
        for checkpoint in sorted(checkpoints, key=lambda one: one.created_at):
            if frozen := found.get(checkpoint.id):
                self.keep(checkpoint.id, frozen)

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
        if (frozen := self._frozen.get(checkpoint.id)) is None:
            raise CheckpointError(f"live checkpoint {checkpoint.id} {self.why_gone(checkpoint.id)}")
        check_alike(origin, session)

        async def make(end: Callable[[], Awaitable[None]]) -> LocalKernel:
            kernel, _ = await self._kernels.branch(
                frozen, session.directory, session.environment, session.walls, end
            )
            return kernel

        try:
            await session.replace_kernel(make, f"checkpoint {checkpoint.id} was restored")
        except NoCopyError as error:
            raise CheckpointError(f"it can't be restored: {error.why}; nothing was.") from error
        except KernelStartError as error:
            msg = f"its kernel did not come to be: {error} restore_checkpoint tries again."
            raise CheckpointError(msg) from error
        if session is not origin and origin.environment.exists:
            line = f"packages that '{origin.id}' has installed are there as far as they were loaded"
            return (*checkpoint.named, line)
        return checkpoint.named

    async def surplus(self) -> Surplus | None:
        """Return which are too many now, the oldest first; None: all of them may stay."""
        ids = list(self._frozen)
        if len(ids) > self._count:
            many = ids[: len(ids) - self._count]
            return Surplus(tuple(many), f"the oldest of more than {self._count} went")
        if not ids:
            return None
        memory = psutil.virtual_memory()
        if memory.available < PRESSURE * memory.total:
            return Surplus(tuple(ids), f"{quantity(memory.available)} of memory were left")
        sizes = await in_thread(measure, dict(self._frozen), name="live checkpoints")
        used, why = sum(sizes.values()), f"all together had over {quantity(self._memory)}"
        too_large = []
        for name in ids:
            if used > self._memory:
                too_large.append(name)
                used -= sizes[name]
        return Surplus(tuple(too_large), why) if too_large else None

    async def end(self, checkpoint_ids: Iterable[str], why: str) -> None:
        """End the processes of checkpoints, those that have one."""
        going = []
        for name in checkpoint_ids:
            if (frozen := self._frozen.pop(name, None)) is not None:
                self._gone[name] = why
                going.append(frozen.end())
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
        return tuple(self._frozen)

    def leave(self) -> None:
        """Leave all of them for the next server."""
        for frozen in self._frozen.values():
            frozen.leave()
        self._frozen.clear()


def measure(frozen: Mapping[str, FrozenKernel]) -> dict[str, int]:
    """Return the bytes that each copy has of its own; reads files."""
    return {name: one.memory for name, one in frozen.items()}


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
            f"'{origin.id}', whose live checkpoint it is: restore it there, or branch that one."
        )
        raise CheckpointError(msg)
