"""Branches: sessions that begin with all that another one has.

Their kernels are forked from its kernel as it is, where nothing stands against that; else its
variables are saved and restored into kernels of their own, and what can't be saved is named. All
of them come to be, or none. Their packages are its packages at that moment, and so are context,
tags and metadata; their history begins with where they came from.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial

import psutil

from kernelry.checkpoints import Checkpoints, turn
from kernelry.crashpoints import crash_point
from kernelry.engines import LocalKernel, NoCopyError
from kernelry.errors import (
    InvalidArgumentError,
    KernelryError,
    KernelStartError,
    LimitExceededError,
)
from kernelry.launching import KernelSource, check_descriptors
from kernelry.lives.lifecycle import Lifecycle, furnish
from kernelry.lives.suspension import Suspension
from kernelry.models import (
    CheckpointReason,
    Isolation,
    LeftOut,
    SessionRecord,
    SessionSpec,
    SessionStatus,
)
from kernelry.session import Session
from kernelry.shielding import to_the_end
from kernelry.specs import ID, check_spec, check_values

BETWEEN = "branches begin between two executions"
MOST = 100  # branches that are made at once
DEEPEST = 13  # branches of branches behind walls: Linux has 16 layers, the code may want some
ABOVE = 2  # separators in what leads to the area of a session that is no branch
OWN_BYTES = 16 << 20  # of memory that each needs at least; what they share costs nothing
#: what a branch has from its origin, and can't be given otherwise
INHERITED = (
    *("isolation", "network", "limits", "python", "template", "startup"),
    *("parent_session_id", "parent_execution_id"),
)


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Branched:
    """What became of a request for branches."""

    #: the branches, in the order of their ids
    branches: tuple[Branch, ...]
    #: the newest execution of the origin, after which they begin; empty: it had none
    after: str
    #: seconds that its executions were waited for
    waited: float


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

    async def create(
        self,
        origin: Session,
        spec: SessionSpec,
        count: int = 1,
        *,
        patience: float | None = None,
    ) -> Branched:
        """Make sessions that have all that another one has; all of them, or none.

        They begin between two of its executions: behind those that were asked for before.

        Args:
            origin: Which; it goes on as it was.
            spec: What they shall have beyond that. With a count its id is what theirs begin with.
            count: How many.
            patience: Seconds to wait for executions that were asked for before; None: as long
                as they take.

        Raises:
            InvalidArgumentError: They can't be what is asked for.
            SessionExistsError: An id is taken.
            LimitExceededError: There would be too many sessions, or too little memory is left.
            SessionBusyError: The executions took longer.
            KernelDeadError: The kernel is dead: there is nothing to branch from.
            KernelStartError: One did not come to be.
            CheckpointError: The variables can't be saved, or not be restored.
        """
        check(spec, count)
        if is_scarce(count):
            await self._checkpoints.give_way("branches needed the memory")
        check_memory(count)
        check_descriptors(count)
        if origin.record.status is SessionStatus.SUSPENDED:
            await self._suspension.wake(origin, by="branch_of")
        while origin.opening is not None:  # its variables are not back yet
            await origin.opening.over.wait()
        check_values("metadata", {**origin.record.metadata, **spec.metadata})
        check_values("context", {**origin.record.context, **spec.context})
        ids = self._ids(spec.id, origin.id, count)
        async with self._lifecycle.reserved(ids):
            await origin.begin()  # its start-up code, if it has not run anything yet
            began = time.monotonic()
            async with turn(origin, patience, BETWEEN):
                waited = time.monotonic() - began
                after = await self._newest(origin)
                records = [branch_record(name, origin.record, spec, after) for name in ids]
                made = await self._make(origin, records)
            await self._furnish(made, spec)
        return Branched(branches=tuple(made), after=after, waited=waited)

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

    async def _make(self, origin: Session, records: Sequence[SessionRecord]) -> list[Branch]:
        """Make all branches, live if that goes."""
        kernel = await origin.ensure_kernel()
        try:
            made = await self._furnished(origin, self._beside(origin, records), kernel)
        except NoCopyError as error:
            made = await self._furnished(origin, records, error.why)
        for branch in made:
            self._sessions[branch.session.id] = branch.session
        return made

    def _beside(self, origin: Session, records: Sequence[SessionRecord]) -> list[SessionRecord]:
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

    async def _furnished(
        self, origin: Session, records: Sequence[SessionRecord], by: LocalKernel | str
    ) -> list[Branch]:
        """Make the sessions of branches, with packages and kernels; if it fails none is left.

        Args:
            origin: Theirs.
            records: Theirs.
            by: The kernel that they are forked from; or why there can be no live ones.

        Raises:
            NoCopyError: The kernel can't be forked as it is.
        """
        sessions = [self._lifecycle.make(record) for record in records]
        try:
            if isinstance(by, str):
                made = await self._restore(origin, sessions, by)
            else:
                made = await self._fork(origin, by, sessions)
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
        self, origin: Session, kernel: LocalKernel, sessions: Sequence[Session]
    ) -> list[Branch]:
        """Have all forked, beside each other.

        Raises:
            NoCopyError: Something stands against it; nothing is left of those that were.
        """

        async def one(session: Session) -> Branch:
            bring = partial(origin.environment.copy_to, session.environment, origin.walls)
            copy, named = await self._kernels.branch(
                kernel, session.directory, session.environment, session.walls, bring
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

    async def _restore(
        self, origin: Session, sessions: Sequence[Session], why: str
    ) -> list[Branch]:
        """Give each a kernel of its own with the variables that can be saved."""
        for session in sessions:
            await origin.environment.copy_to(session.environment, origin.walls)
        checkpoint = await self._checkpoints.save_now(origin, CheckpointReason.BRANCH)
        made = []
        try:
            for session in sessions:
                await session.take_branch(None)
                done = await self._checkpoints.restore(checkpoint.id, session)
                left_out = (*checkpoint.skipped, *done.failed)
                made.append(
                    Branch(
                        session=session,
                        is_live=False,
                        why=why,
                        named=done.warnings,
                        left_out=left_out,
                    )
                )
        finally:
            with suppress(KernelryError):  # the next start removes it
                await to_the_end(self._checkpoints.delete(checkpoint.id))
        return made

    async def _furnish(self, made: Sequence[Branch], spec: SessionSpec) -> None:
        """Install what they shall have beyond their origin's packages."""
        async with AsyncExitStack() as stack:
            for branch in made:
                stack.push_async_callback(self._lifecycle.discard, branch.session)
            for branch in made if spec.packages else ():
                await furnish(branch.session, spec.packages)
            stack.pop_all()


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
