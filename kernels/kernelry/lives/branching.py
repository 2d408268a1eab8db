"""Branches: sessions that begin with all that another one has.

Their kernels are forked from its kernel as it is, where nothing stands against that; else its
variables are saved and restored into kernels of their own, and what can't be saved is named. All
of them come to be, or none. Their packages are its packages at that moment, and so are context,
tags and metadata; their history begins with where they came from.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TypeAlias

import psutil

from kernelry.checkpoints import Checkpoints, turn
from kernelry.engines import NoCopyError
from kernelry.errors import (
    CheckpointError,
    InvalidArgumentError,
    LimitExceededError,
    SessionBusyError,
)
from kernelry.launching import KernelSource, check_descriptors
from kernelry.lives.lifecycle import Lifecycle, furnish
from kernelry.lives.making import Branch, Maker
from kernelry.lives.suspension import Suspension
from kernelry.models import (
    Checkpoint,
    SessionRecord,
    SessionSpec,
    SessionStatus,
)
from kernelry.session import Run, Session
from kernelry.specs import ID, check_spec, check_values

BETWEEN = "branches begin between two executions"
SHORTEST, LONGEST = 0.1, 365 * 86400.0  # seconds that a safe point is waited for
MOST = 100  # branches that are made at once
OWN_BYTES = 16 << 20  # of memory that each needs at least; what they share costs nothing
#: what a branch has from its origin, and can't be given otherwise
INHERITED = (
    *("isolation", "network", "limits", "python", "template", "startup"),
    *("parent_session_id", "parent_execution_id"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Branched:
    """What became of a request for branches."""

    #: the branches, in the order of their ids
    branches: tuple[Branch, ...]
    #: the newest execution of the origin, after which they begin; empty: it had none
    after: str
    #: seconds that its executions, or a safe point of one, were waited for
    waited: float
    #: the execution at whose safe point they were made; empty: between two
    inside: str = ""
    #: the checkpoint that they begin with; None: they begin with their origin as it is
    checkpoint: Checkpoint | None = None


class Branching:
    """Makes branches of the sessions of one service.

    Args:
        sessions: Those that there are, by id; kept up to date.
        kernels: Where kernels come from.
        checkpoints: Saved namespaces.
        lifecycle: Makes and ends sessions.
        suspension: Brings back those that are suspended.
    """

    def __init__(
        self,
        sessions: dict[str, Session],
        kernels: KernelSource,
        checkpoints: Checkpoints,
        lifecycle: Lifecycle,
        suspension: Suspension,
    ) -> None:
        self._sessions = sessions
        self._kernels = kernels
        self._checkpoints = checkpoints
        self._lifecycle = lifecycle
        self._suspension = suspension
        self._maker = Maker(kernels, checkpoints, lifecycle)

    async def create(
        self,
        origin: Session,
        spec: SessionSpec,
        count: int = 1,
        *,
        patience: float | None = None,
        inside: bool = False,
        checkpoint: Checkpoint | None = None,
    ) -> Branched:
        """Make sessions that have all that another one has; all of them, or none.

        They begin between two of its executions, behind those that were asked for before; or in the
        middle of one; or with a checkpoint.

        Args:
            origin: Which; it goes on as it was.
            spec: What they shall have beyond that. With a count its id is what theirs begin with.
            count: How many.
            patience: Seconds to wait for executions that were asked for before; None: as long
                as they take.
            inside: Whether they begin at the next safe point of what the origin runs, if it does;
                where no live ones can be made there, behind it.
            checkpoint: One of the origin's, to begin with what is in that instead.

        Raises:
            InvalidArgumentError: They can't be what is asked for.
            SessionExistsError: An id is taken.
            LimitExceededError: There would be too many sessions, or too little memory is left.
            SessionBusyError: The executions took longer.
            KernelDeadError: The kernel is dead: there is nothing to branch from.
            KernelStartError: One did not come to be.
            CheckpointError: The variables can't be saved, or not be restored.
        """
        if inside and checkpoint is not None:
            raise InvalidArgumentError("a checkpoint has no safe points: leave `at` out")
        check(spec, count)
        # What they are to begin with does not give way to them.
        if is_scarce(count) and (checkpoint is None or not checkpoint.is_live):
            await self._checkpoints.give_way("branches needed the memory")
        check_memory(count)
        check_descriptors(count)
        if checkpoint is None:
            await self._wake(origin)
        check_values("metadata", {**origin.record.metadata, **spec.metadata})
        check_values("context", {**origin.record.context, **spec.context})
        ids = self._ids(spec.id, origin.id, count)

        def records(after: str) -> list[SessionRecord]:
            return [branch_record(name, origin.record, spec, after) for name in ids]

        async with self._lifecycle.reserved(ids):
            if checkpoint is not None:
                done = await self._from_checkpoint(origin, checkpoint, records(""))
            else:
                await origin.begin()  # its start-up code, if it has not run anything yet
                began = time.monotonic()
                found = await self._inside(origin, records, patience) if inside else None
                left = None if patience is None else patience - (time.monotonic() - began)
                done = found or await self._between(origin, records, left)
            await self._furnish(done.branches, spec)
        return done

    async def _wake(self, origin: Session) -> None:
        """See to it that a session has its variables."""
        if origin.record.status is SessionStatus.SUSPENDED:
            await self._suspension.wake(origin, by="branch_of")
        while origin.opening is not None:
            await origin.opening.over.wait()

    async def _between(
        self, origin: Session, records: "Records", patience: float | None
    ) -> Branched:
        """Make branches between two executions of their origin."""
        began = time.monotonic()
        async with turn(origin, patience, BETWEEN):
            waited = time.monotonic() - began
            after = await self._newest(origin)
            made = await self._make(origin, records(after))
        return Branched(branches=made, after=after, waited=waited)

    async def _inside(
        self, origin: Session, records: "Records", patience: float | None
    ) -> Branched | None:
        """Make branches at the next safe point of what runs; None: nothing does, or they can't be.

        All of them are forked from one copy that stays as it is, so they begin with the same.
        """
        kernel, running = await origin.ensure_kernel(), origin.next
        if running is None:
            return None
        began = time.monotonic()
        try:
            async with asyncio.timeout(patience):
                await has_begun(running)
            left = LONGEST if patience is None else patience - (time.monotonic() - began)
            frozen, named = await self._kernels.freeze(
                *(kernel, origin.directory, origin.environment, origin.walls),
                patience=max(left, SHORTEST),
            )
        except NoCopyError:
            return None
        except TimeoutError as error:
            msg = (
                f"what '{origin.id}' runs came to no safe point (kernelry_session.checkpoint()) in "
                f"{patience:g} s: nothing was made. Leave `at` out to branch when it has ended."
            )
            raise SessionBusyError(msg) from error
        waited = time.monotonic() - began
        inside = frozen.inside  # empty: it had ended by then
        try:
            after = inside or await self._newest(origin)
            beside = self._maker.beside(origin, records(after))
            made = self._known(await self._maker.make(origin, beside, frozen, named))
        except NoCopyError:
            return None
        finally:
            await frozen.end()
        return Branched(branches=made, after=after, waited=waited, inside=inside)

    def _known(self, made: Sequence[Branch]) -> tuple[Branch, ...]:
        """Have branches be sessions like any other; return them."""
        for branch in made:
            self._sessions[branch.session.id] = branch.session
        return tuple(made)

    async def _from_checkpoint(
        self, origin: Session, checkpoint: Checkpoint, records: Sequence[SessionRecord]
    ) -> Branched:
        """Make branches that begin with what a checkpoint of their origin has."""
        if checkpoint.is_live:
            try:
                beside = self._maker.beside(origin, records)
                frozen = self._checkpoints.live.process_of(checkpoint)
                made = await self._maker.make(origin, beside, frozen, checkpoint.named)
            except NoCopyError as error:
                msg = f"no session can begin with live checkpoint {checkpoint.id}: {error.why}."
                raise CheckpointError(msg) from error
        else:
            made = await self._maker.make(origin, records, checkpoint)
        return Branched(branches=self._known(made), after="", waited=0.0, checkpoint=checkpoint)

    def _ids(self, wanted: str, origin: str, count: int) -> list[str]:
        """Return the ids that the branches get: the wanted one, or numbered ones.

        Raises:
            InvalidArgumentError: They would be too long.
        """
        if wanted and count == 1:
            return [wanted]
        stem = wanted or origin
        numbers = (number for number in range(1, 10**9) if self._is_free(f"{stem}.{number}"))
        found = (
            [f"{stem}.{number}" for number in range(1, count + 1)]
            if wanted
            else [f"{stem}.{next(numbers)}" for _ in range(count)]
        )
        if not ID.fullmatch(found[-1]):
            msg = f"'{found[-1][:80]}' is too long for an id: pass a session_id that is shorter"
            raise InvalidArgumentError(msg)
        return found

    def _is_free(self, session_id: str) -> bool:
        return session_id not in self._sessions and not self._lifecycle.is_reserved(session_id)

    async def _newest(self, origin: Session) -> str:
        found = await origin.services.store.newest_execution(origin.id)
        return found.id if found else ""

    async def _make(self, origin: Session, records: Sequence[SessionRecord]) -> tuple[Branch, ...]:
        """Make all branches, live if that goes."""
        kernel = await origin.ensure_kernel()
        try:
            made = await self._maker.make(origin, self._maker.beside(origin, records), kernel)
        except NoCopyError as error:
            made = await self._maker.make(origin, records, error.why)
        return self._known(made)

    async def _furnish(self, made: Sequence[Branch], spec: SessionSpec) -> None:
        """Install what they shall have beyond their origin's packages."""
        async with AsyncExitStack() as stack:
            for branch in made:
                stack.push_async_callback(self._lifecycle.discard, branch.session)
            for branch in made if spec.packages else ():
                await furnish(branch.session, spec.packages)
            stack.pop_all()


#: what is kept of the branches that are to be, by the execution after which they begin
Records: TypeAlias = Callable[[str], list[SessionRecord]]


async def has_begun(run: Run) -> None:
    """Wait until a kernel has taken an execution up, or never will."""
    waits = [asyncio.ensure_future(event.wait()) for event in (run.begun, run.ended, run.done)]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def check(spec: SessionSpec, count: int) -> None:
    """Refuse what branches can't be.

    Raises:
        InvalidArgumentError: With what to do instead.
    """
    check_spec(spec)
    if not 1 <= count <= MOST:
        raise InvalidArgumentError(f"count is {count}: 1 to {MOST} branches are made at once")
    if given := [name for name in INHERITED if getattr(spec, name) not in (None, "", {})]:
        msg = f"a branch has {', '.join(given)} from its origin: leave that out"
        raise InvalidArgumentError(msg)


def is_scarce(count: int) -> bool:
    """Say whether there is no memory for so many branches."""
    return bool(psutil.virtual_memory().available < count * OWN_BYTES)


def check_memory(count: int) -> None:
    """Refuse branches that there is no memory for.

    Raises:
        LimitExceededError: Too little is left.
    """
    if is_scarce(count):
        left = psutil.virtual_memory().available
        msg = (
            f"{count} branches need {count * OWN_BYTES >> 20} MiB of memory of their own at least, "
            f"and {left >> 20} MiB are left: make fewer, or delete sessions"
        )
        raise LimitExceededError(msg)


def branch_record(name: str, origin: SessionRecord, spec: SessionSpec, after: str) -> SessionRecord:
    """Return what is kept of a branch: what its origin has, and what was asked for beyond."""
    return SessionRecord(
        id=name,
        description=spec.description or origin.description,
        tags=spec.tags or origin.tags,
        metadata={**origin.metadata, **spec.metadata},
        fresh=origin.fresh,
        isolation=origin.isolation,
        network=origin.network,
        limits=origin.limits,
        python=origin.python,
        parent_session_id=origin.id,
        parent_execution_id=after,
        context={**origin.context, **spec.context},
        stdin=spec.stdin or origin.stdin,
        template=origin.template,
        startup=origin.startup,
        rewind=origin.rewind if spec.rewind is None else spec.rewind,
    )
