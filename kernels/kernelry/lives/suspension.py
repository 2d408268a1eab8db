"""Sessions that go and come back: their variables are saved, the kernel ends, and later starts.

A session is suspended on request, when it was not used for long, and when its server stops in
order; whoever runs code in it next finds it as it was, but for what can't be saved. Only one
at a time resumes a session; executions that are asked for meanwhile wait for that.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from kernelry.checkpoints import Checkpoints
from kernelry.crashpoints import crash_point
from kernelry.errors import ConflictError, KernelryError, SessionBusyError
from kernelry.models import CheckpointReason, KernelState, LeftOut, Restoration, SessionStatus
from kernelry.session import Session, steering
from kernelry.specs import check_text
from kernelry.transitions import Opening, changed, check

log = logging.getLogger(__name__)

STOP_WAIT = 30.0  # seconds a paused execution has to end
STOP_GRACE = 0.5  # seconds a kernel has for its exit handlers
SAVE_TIME = 0.8  # seconds that all sessions together have to be saved when the server stops
BUSY = (
    "session '{}' runs code. Wait for it, pause it at a safe point, or interrupt it; then suspend."
)
NAMED = 10  # variables that a note lists
WITHOUT = "none"  # as the id of a checkpoint: restore nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class Suspended:
    """A session that has no kernel now."""

    #: what its variables are in; empty: it had no kernel
    checkpoint_id: str
    #: names of what was saved
    variables: tuple[str, ...]
    #: what could not be
    skipped: tuple[LeftOut, ...]
    #: seconds in which the kernel could do nothing else
    blocked: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Resumed:
    """A session that has a kernel again, or goes on."""

    #: what it was before
    before: SessionStatus
    #: what was put back; None: nothing
    restoration: Restoration | None


class Suspension:
    """Suspends and resumes the sessions of one service.

    Args:
        checkpoints: Their saved namespaces.
        check_room: Raises when no session more may have a kernel.
    """

    def __init__(self, checkpoints: Checkpoints, check_room: Callable[[str], None]) -> None:
        self._checkpoints = checkpoints
        self._check_room = check_room

    async def suspend(
        self,
        session: Session,
        *,
        by: str,
        why: str = "",
        reason: CheckpointReason = CheckpointReason.SUSPEND,
    ) -> Suspended:
        """Save a session's variables and end its kernel.

        A paused execution is stopped where it is held. A cancelled caller leaves the session
        active, or suspended.

        Args:
            session: Which.
            by: Who wants it.
            why: Why, in a line.
            reason: What the checkpoint is for.

        Raises:
            InvalidArgumentError: The reason can't be kept.
            TransitionError: It is over, or suspended already.
            SessionBusyError: It runs code.
            ConflictError: Its kernel is dead, so there is nothing to save.
            CheckpointError: The variables can't be saved; the session is as it was.
        """
        check_text("the reason", why)
        check(session.record, SessionStatus.SUSPENDED)
        if session.record.status is SessionStatus.PAUSED:
            await self._stop_paused(session, by)
        if session.is_busy:
            raise SessionBusyError(BUSY.format(session.id))
        if session.kernel_state is KernelState.DEAD:
            msg = (
                f"the kernel of session '{session.id}' is dead ({session.death}): there is "
                "nothing to save. resume_session brings back the newest checkpoint."
            )
            raise ConflictError(msg)
        if session.kernel is None:
            await self._mark(session, why, {"by": by})
            return Suspended(checkpoint_id="", variables=(), skipped=(), blocked=0.0)
        before = session.record.execution_count
        async with self._checkpoints.holding(session, reason) as checkpoint:
            if session.record.execution_count != before:  # it is not lost, it runs
                raise SessionBusyError(BUSY.format(session.id))
            crash_point("suspend.saved")
            data: dict[str, object] = {
                "by": by,
                "checkpoint": checkpoint.id,
                "skipped": [item.name for item in checkpoint.skipped],
            }
            await self._mark(session, why, data)
            crash_point("suspend.marked")
            await session.stop(grace=STOP_GRACE, why="the session was suspended")
            session.forget_death()
        return Suspended(
            checkpoint_id=checkpoint.id,
            variables=checkpoint.variables,
            skipped=checkpoint.skipped,
            blocked=checkpoint.blocked,
        )

    async def suspend_unused(self, session: Session) -> None:
        """Suspend a session that nobody has used for longer than it may be idle."""
        why = f"it was not used for {session.idle_seconds:.0f} s"
        try:
            await self.suspend(session, by="the idle policy", why=why)
        except SessionBusyError:
            return  # somebody came
        except KernelryError as error:
            session.touch()  # it is tried again when it was idle for as long once more
            log.warning("session %s is not suspended: %s", session.id, error)
            await session.note("session.suspend_failed", {"error": str(error)})

    async def end(self, session: Session, *, save: bool) -> None:
        """End a session's kernel when the server stops, its variables saved if there is time."""
        why = "the server was shut down"
        if save and session.has_variables:
            with suppress(KernelryError, TimeoutError):
                async with asyncio.timeout(SAVE_TIME):
                    reason = CheckpointReason.STOP
                    await self.suspend(session, by="the server", why=why, reason=reason)
        await session.stop(grace=0 if session.current else STOP_GRACE, why=why)

    async def resume(self, session: Session, *, by: str, checkpoint_id: str = "") -> Resumed:
        """Let a session go on: a paused, suspended or failed one, or one whose kernel is gone.

        Args:
            session: Which.
            by: Who wants it.
            checkpoint_id: What to put back; empty: the newest; "none": nothing.

        Raises:
            TransitionError: It is over.
            ConflictError: It needs no resuming, or somebody else is resuming it.
            LimitExceededError: No session more may have a kernel.
            KernelStartError: No kernel could be started; it is as it was.
            CheckpointError: The variables can't be put back; it is as it was.
        """
        before = session.record.status
        if before is SessionStatus.PAUSED:
            await steering.steer(session, "resume", by=by, wait=STOP_WAIT)
            return Resumed(before=before, restoration=None)
        if session.opening is not None:
            since = session.opening.since.isoformat(timespec="seconds")
            msg = f"session '{session.id}' is being resumed since {since} by {session.opening.by}"
            raise ConflictError(msg)
        if before is SessionStatus.ACTIVE:
            if session.kernel is not None and session.kernel_state is not KernelState.DEAD:
                raise ConflictError(f"session '{session.id}' is active: there is nothing to resume")
        else:
            check(session.record, SessionStatus.ACTIVE)
            self._check_room(session.id)
        opening = session.opening = Opening(by)
        try:
            restoration = await self._open(session, before, checkpoint_id)
        finally:
            session.opening = None
            opening.over.set()
        data = {"by": by, "checkpoint": restoration.checkpoint.id if restoration else ""}
        await session.note("session.resumed", data)
        return Resumed(before=before, restoration=restoration)

    async def wake(self, session: Session, *, by: str) -> None:
        """Give a session its kernel if it has none; one that died stays dead.

        Raises:
            As `resume`.
        """
        if session.record.status is SessionStatus.SUSPENDED:
            if session.opening is None:
                await self.resume(session, by=by)
            else:
                await session.opening.over.wait()
        elif session.kernel_state is KernelState.NOT_STARTED:
            await session.ensure_kernel()

    async def _open(
        self, session: Session, before: SessionStatus, checkpoint_id: str
    ) -> Restoration | None:
        """Start a kernel and put the variables back; if that fails all is as it was."""
        async with session.turn(None):  # behind a suspension that has not ended its kernel yet
            record = session.record
        checkpoint_id = await self._choose(session, checkpoint_id)
        if before is not SessionStatus.ACTIVE:
            session.record = changed(record, SessionStatus.ACTIVE)
        try:
            if session.kernel_state is KernelState.DEAD:
                await session.restart("the session was resumed")
            run = await session.begin()
            if run is not None:
                await run.done.wait()
            if not checkpoint_id:
                return None
            restoration = await self._checkpoints.restore(checkpoint_id, session)
        except BaseException:
            if before is not SessionStatus.ACTIVE:
                session.record = replace(
                    session.record,
                    status=record.status,
                    reason=record.reason,
                    ended_at=record.ended_at,
                )
                await session.stop(grace=0, why="its variables could not be put back")
                session.forget_death()
            raise
        left = (*restoration.checkpoint.skipped, *restoration.failed)
        session.stopped_why = told(left, restoration.warnings)
        return restoration

    async def _choose(self, session: Session, checkpoint_id: str) -> str:
        if checkpoint_id == WITHOUT:
            return ""
        if checkpoint_id:
            return (await self._checkpoints.get(checkpoint_id, session.id)).id
        newest = await self._checkpoints.list(session.id)
        return newest[0].id if newest else ""

    async def _stop_paused(self, session: Session, by: str) -> None:
        run = session.current
        with suppress(ConflictError):  # it went on or ended meanwhile
            await steering.steer(session, "stop", by=by, wait=STOP_WAIT)
        if run is not None:
            await run.wait(STOP_WAIT)

    async def _mark(self, session: Session, why: str, data: dict[str, object]) -> None:
        session.record = changed(session.record, SessionStatus.SUSPENDED, why)
        await session.note("session.suspended", {"why": why, **data})


def told(left: tuple[LeftOut, ...], warnings: tuple[str, ...] = ()) -> str:
    """Say to whoever runs code next what did not come back, or not as it was."""
    noted = "".join(f"; {warning}" for warning in warnings)
    if not left:
        return f"the session was resumed from its checkpoint{noted}"
    names = ", ".join(f"{item.name} ({item.type})" for item in left[:NAMED])
    more = f" and {len(left) - NAMED} more" if len(left) > NAMED else ""
    return f"the session was resumed from its checkpoint; not back: {names}{more}{noted}"
