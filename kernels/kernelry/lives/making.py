"""Make branches: their sessions, with packages and kernels; all of them, or none."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from kernelry.checkpoints import Checkpoints
from kernelry.crashpoints import crash_point
from kernelry.engines import FrozenKernel, LocalKernel, NoCopyError
from kernelry.errors import KernelryError, KernelStartError
from kernelry.launching import KernelSource
from kernelry.lives.lifecycle import Lifecycle
from kernelry.models import Checkpoint, CheckpointReason, Isolation, LeftOut, SessionRecord
from kernelry.session import Session
from kernelry.shielding import to_the_end

DEEPEST = 13  # branches of branches behind walls: Linux has 16 layers, the code may want some
ABOVE = 2  # separators in what leads to the area of a session that is no branch


@dataclass(frozen=True, kw_only=True, slots=True)
class Branch:
    """A session that began with what another one had."""

    #: the session
    session: Session
    #: whether its kernel was forked as it was; else its variables came by a checkpoint
    is_live: bool
    #: why it was not forked; empty if it was
    why: str = ""
    #: what it lacks, or shares with its origin
    named: tuple[str, ...] = ()
    #: variables that did not come along
    left_out: tuple[LeftOut, ...] = ()


class Maker:
    """Makes branches for `Branching`.

    Args:
        kernels: Where kernels come from.
        checkpoints: Saved namespaces.
        lifecycle: Makes and ends sessions.
    """

    def __init__(
        self, kernels: KernelSource, checkpoints: Checkpoints, lifecycle: Lifecycle
    ) -> None:
        self._kernels = kernels
        self._checkpoints = checkpoints
        self._lifecycle = lifecycle

    def beside(self, origin: Session, records: Sequence[SessionRecord]) -> list[SessionRecord]:
        """Return records of live branches: behind walls these are where their origin may write.

        Raises:
            NoCopyError: The walls can't be narrowed once more.
        """
        if origin.walls.isolation is Isolation.PROCESS:
            return list(records)
        launches = origin.services.launches
        if depth_of(origin.record.directory) >= DEEPEST:
            raise NoCopyError(
                f"'{origin.id}' is the {DEEPEST}th branch in a row: walls have no more layers"
            )
        return [
            replace(record, directory=launches.new_branch(origin.directory)) for record in records
        ]

    async def make(
        self,
        origin: Session,
        records: Sequence[SessionRecord],
        by: LocalKernel | FrozenKernel | Checkpoint | str,
        named: tuple[str, ...] = (),
    ) -> list[Branch]:
        """Make the sessions of branches, with packages and kernels; if it fails none is left.

        Args:
            origin: Theirs.
            records: Theirs.
            by: The kernel that they are forked from; or the checkpoint that they begin with; or
                why there can be no live ones.
            named: What the kernel lacks or shares that they are forked from, if that is frozen.

        Raises:
            NoCopyError: The kernel can't be forked as it is.
        """
        sessions = [self._lifecycle.make(record) for record in records]
        try:
            if isinstance(by, str):
                made = await self._save_and_restore(origin, sessions, by)
            elif isinstance(by, Checkpoint):
                made = await self._restore(origin, sessions, by, f"checkpoint {by.id} is durable")
            else:
                made = await self._fork(origin, by, sessions)
                made = [replace(branch, named=named or branch.named) for branch in made]
            for branch in made:
                await branch.session.note("session.branched", about(branch, origin.id))
        except NoCopyError:  # before any of them was anything
            await to_the_end(asyncio.gather(*map(self._lifecycle.remove_folders, sessions)))
            raise
        except BaseException:
            # The ids are taken until they are gone.
            await to_the_end(asyncio.gather(*map(self._undo, sessions), return_exceptions=True))
            raise
        return made

    async def _undo(self, session: Session) -> None:
        """End what there is of a branch that did not come to be, whatever else fails."""
        await session.kill("the branch did not come to be")
        await self._lifecycle.forget(session)

    async def _fork(
        self, origin: Session, kernel: LocalKernel | FrozenKernel, sessions: Sequence[Session]
    ) -> list[Branch]:
        """Have all forked, beside each other.

        Raises:
            NoCopyError: Something stands against it; nothing is left of those that were.
        """

        async def one(session: Session) -> Branch:
            bring = partial(origin.environment.copy_to, session.environment, origin.walls)
            copy, named = await self._kernels.branch(
                *(kernel, session.directory, session.environment, session.walls),
                before=bring,
                other=True,
            )
            crash_point("branch.forked")
            await session.take_branch(copy)
            crash_point("branch.saved")
            return Branch(session=session, is_live=True, named=named)

        first = await one(sessions[0])  # what stands against it does so for each
        rest = await asyncio.gather(*map(one, sessions[1:]), return_exceptions=True)
        for result in rest:
            if isinstance(result, NoCopyError):
                raise KernelStartError(f"{result.why}, since the first of them was made")
            if isinstance(result, BaseException):
                raise result
        return [first, *(branch for branch in rest if isinstance(branch, Branch))]

    async def _save_and_restore(
        self, origin: Session, sessions: Sequence[Session], why: str
    ) -> list[Branch]:
        """Give each a kernel of its own with the variables that can be saved."""
        checkpoint = await self._checkpoints.save_now(origin, CheckpointReason.BRANCH)
        try:
            return await self._restore(origin, sessions, checkpoint, why)
        finally:
            with suppress(KernelryError):  # the next start removes it
                await to_the_end(self._checkpoints.delete(checkpoint.id))

    async def _restore(
        self, origin: Session, sessions: Sequence[Session], checkpoint: Checkpoint, why: str
    ) -> list[Branch]:
        """Give each a kernel of its own with the variables that a checkpoint has."""
        made = []
        for session in sessions:
            await origin.environment.copy_to(session.environment, origin.walls)
            await session.take_branch(None)
            done = await self._checkpoints.restore(checkpoint.id, session)
            made.append(
                Branch(
                    session=session,
                    is_live=False,
                    why=why,
                    named=done.warnings,
                    left_out=(*checkpoint.skipped, *done.failed),
                )
            )
        return made


def depth_of(directory: str) -> int:
    """Return how many origins a session has whose walls are narrowed in its own; see `areas`."""
    return max(directory.count("/") - ABOVE, 0)


def about(branch: Branch, origin: str) -> dict[str, object]:
    """Return what the log says of a branch."""
    return {
        "of": origin,
        "after": branch.session.record.parent_execution_id,
        "how": "live" if branch.is_live else "checkpoint",
        "why": branch.why,
        "named": list(branch.named),
        "left_out": [item.name for item in branch.left_out],
    }
