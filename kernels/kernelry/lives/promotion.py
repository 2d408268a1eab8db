"""Promotion: a session becomes what another one is, most often its best branch."""

from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

from kernelry.checkpoints import Checkpoints, check_alike, turn
from kernelry.engines import LocalKernel, NoCopyError
from kernelry.errors import InvalidArgumentError, KernelDeadError
from kernelry.models import CheckpointReason, KernelState, LeftOut
from kernelry.session import Session
from kernelry.shielding import to_the_end

BETWEEN = "a session becomes another one only between two executions of both"


@dataclass(frozen=True, kw_only=True, slots=True)
class Promoted:
    """What a session has become."""

    #: whether its kernel is a copy of the other one's; else the variables came by a checkpoint
    is_live: bool
    #: why it is not; empty if it is
    why: str = ""
    #: variables that did not come along
    left_out: tuple[LeftOut, ...] = ()


async def promote(
    checkpoints: Checkpoints, source: Session, into: Session, patience: float | None
) -> Promoted:
    """Put what a session has in the place of what another one has: variables, packages, context.

    The source goes on as it is. The other one keeps its id and its history, in which what it ran
    since the source was branched from it counts as undone.

    Args:
        checkpoints: The service's.
        source: Which session.
        into: What becomes it; both have the same walls, limits and interpreter.
        patience: Seconds to wait for executions of both that were asked for before.

    Raises:
        InvalidArgumentError: They are one session.
        KernelDeadError: The source has no kernel that lives.
        CheckpointError: They are too different, or the variables can't be brought over.
        SessionBusyError: The executions took longer.
        InstallError: The packages can't be copied; nothing was changed.
    """
    if source is into:
        raise InvalidArgumentError(f"session '{into.id}' can't be promoted into itself")
    check_alike(source, into)
    await source.begin()
    async with AsyncExitStack() as stack:
        for session in sorted((source, into), key=lambda one: one.id):  # two can't wait in a ring
            await stack.enter_async_context(turn(session, patience, BETWEEN))
        if (kernel := source.kernel) is None or kernel.process.exit is not None:
            raise KernelDeadError(f"session '{source.id}' has no kernel: {source.death}")
        # Packages and kernel go together, whoever is cancelled.
        return await to_the_end(_promote(checkpoints, source, into, kernel))


async def _promote(
    checkpoints: Checkpoints, source: Session, into: Session, kernel: LocalKernel
) -> Promoted:
    packages = into.environment.becoming(source.environment, into.walls)
    async with packages:  # as they were if anything fails
        try:
            why = f"session '{source.id}' was promoted"
            await checkpoints.live.become(into, source, kernel, why)
            done = Promoted(is_live=True)
        except NoCopyError as error:
            done = await by_checkpoint(checkpoints, source, into, error.why)
    theirs = source.record
    into.record = replace(
        into.record, context=theirs.context, fresh=into.record.fresh or theirs.fresh
    )
    if theirs.parent_session_id == into.id:
        await checkpoints.rewinds.mark_after(theirs.parent_execution_id, into)
    data = {"from": source.id, "how": "live" if done.is_live else "checkpoint"}
    await into.note("session.promoted", data)
    return done


async def by_checkpoint(
    checkpoints: Checkpoints, source: Session, into: Session, why: str
) -> Promoted:
    """Bring over the variables that can be saved, for whoever has the turn of both."""
    saved = await checkpoints.save_now(source, CheckpointReason.BRANCH)
    try:
        if into.kernel_state is KernelState.DEAD:
            await into.restart(f"session '{source.id}' was promoted")
        found = await checkpoints.put_back(saved, into, clear=True)
    finally:
        await to_the_end(checkpoints.delete(saved.id))
    return Promoted(is_live=False, why=why, left_out=(*saved.skipped, *found.failed))
