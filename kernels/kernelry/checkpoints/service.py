"""Checkpoints: the namespace of a session, saved and put back.

The kernel does both (kernelry/inside/saving/checkpoints.py); the server never unpickles. Here is
when: each waits for its turn among the session's executions, so that a restore is behind what was
asked for before it and before what comes later. A save holds them up for as long as the
kernel needs to fork; a restore until it is done.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from kernelry.checkpoints import saving
from kernelry.checkpoints.files import CheckpointFiles, under_way
from kernelry.checkpoints.live import LiveCheckpoints
from kernelry.checkpoints.rewinding import Rewinds
from kernelry.checkpoints.turns import turn
from kernelry.config import Config
from kernelry.crashpoints import crash_point
from kernelry.engines import FrozenKernel
from kernelry.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    KernelDeadError,
    StoreError,
)
from kernelry.launching import KernelSource
from kernelry.models import Checkpoint, CheckpointReason, LeftOut, Restoration
from kernelry.processes import Exit
from kernelry.session import Services, Session, isolated
from kernelry.shielding import Unfinished
from kernelry.specs import check_text
from kernelry.store import Statements, rows

log = logging.getLogger(__name__)

BETWEEN = "a namespace is saved and restored only between cells"
SWEEP = "checkpoints"  # whose share of threads removes files
NAMED_IDS = 10  # ids that "unknown checkpoint" lists


class Checkpoints:
    """The checkpoints of one service.

    Args:
        services: What sessions use.
        kernels: Where kernels come from.
        sessions: Those that there are, by id; kept up to date.
        config: How many are kept.
    """

    def __init__(
        self,
        services: Services,
        kernels: KernelSource,
        sessions: Mapping[str, Session],
        config: Config,
    ) -> None:
        self._store = services.store
        self._apart = services.apart
        self._files = CheckpointFiles(services.launches.state.checkpoints)
        self._keep = config.keep_checkpoints
        self._sessions = sessions
        self._spawn = services.spawn
        #: those that are processes
        self.live = LiveCheckpoints(kernels, sessions, config, self._lose)
        self.rewinds = Rewinds(services.store, self, sessions, config.rewind)
        services.undoing.by = self.rewinds
        #: what goes on though nobody may wait for it any more
        self.unfinished = Unfinished()

    async def recover(self, frozen: Mapping[str, FrozenKernel]) -> None:
        """Remove what a server that was killed has left half done.

        Args:
            frozen: The processes that are left of live checkpoints, by id.
        """
        await self.live.adopt(frozen, found := await self.list())
        gone = [one.id for one in found if one.is_live and one.id not in frozen]
        await self.drop(gone, "it was a process, which ended with its server or its machine")
        await self.rewinds.recover([one for one in await self.list() if one.is_live])
        for checkpoint in await self.list():
            if checkpoint.reason is CheckpointReason.BRANCH:  # its branches are there, or never
                await self.delete(checkpoint.id)
        known = [checkpoint.id for checkpoint in await self.list()]
        directories = [session.directory for session in self._sessions.values()]
        await self._apart.run(SWEEP, self._files.sweep, known, directories)

    async def create(
        self,
        session: Session,
        *,
        name: str = "",
        reason: CheckpointReason = CheckpointReason.MANUAL,
        live: bool = False,
        patience: float | None = None,
    ) -> Checkpoint:
        """Save the namespace of a session; returns when it is on disk.

        Executions go on as soon as the kernel has forked. A cancelled caller ends the save.

        Args:
            session: Whose.
            name: What to call it.
            reason: Why; of automatic ones the oldest go.
            live: Freeze a copy of the kernel instead, which has everything and is in memory.
            patience: Seconds to wait for executions that were asked for before; None: as long
                as they take.

        Raises:
            InvalidArgumentError: The name can't be kept.
            SessionBusyError: They took longer.
            KernelDeadError: There is no kernel, or it ended meanwhile.
            CheckpointError: It can't be written, or the kernel can't be copied; nothing is left.
        """
        check_text("the name", name)
        if live:
            await session.begin()  # its start-up code, if it has not run anything yet
            async with turn(session, patience, BETWEEN):
                making = await self.freeze(session, reason, name=name)
            made = await asyncio.shield(making)
            await self.keep_bounds()
            if made.id not in self.live:
                raise CheckpointError(f"the live checkpoint {self.live.why_gone(made.id)}")
            return made
        async with turn(session, patience, BETWEEN):
            begun = await self._begin(session, name, reason)
        return await self._finish(begun)

    async def list(self, session_id: str | None = None) -> Sequence[Checkpoint]:
        """Return the checkpoints of a session, or all, the newest first."""
        return await self._store.read(
            lambda statements: [
                rows.checkpoint(row)
                for row in statements.execute("checkpoints", {"session_id": session_id})
            ]
        )

    async def get(self, checkpoint_id: str, session_id: str = "") -> Checkpoint:
        """Return a checkpoint, by its id or the name that it was given.

        Args:
            checkpoint_id: Which; of several with that name the newest.
            session_id: Whose are meant first.

        Raises:
            CheckpointNotFoundError: There is none.
        """
        wanted = {"id": checkpoint_id, "session_id": session_id}
        found = await self._store.read(
            lambda statements: statements.execute("checkpoint", wanted).fetchone()
        )
        if found is None:
            newest = (await self.list())[:NAMED_IDS]
            named = (f"{item.id} ({item.name})" if item.name else item.id for item in newest)
            known = ", ".join(named) or "none"
            why = (
                gone := self.live.why_gone(checkpoint_id)
            ) and f"checkpoint {checkpoint_id} {gone}"
            msg = f"{why or f'no checkpoint {checkpoint_id[:64]!r}.'} The newest are: {known}."
            raise CheckpointNotFoundError(msg)
        return rows.checkpoint(found)

    async def restore(
        self,
        checkpoint_id: str,
        session: Session,
        *,
        clear: bool = False,
        patience: float | None = None,
    ) -> Restoration:
        """Put a saved namespace into a session, which may be another than it was saved from.

        It comes all at once: variables of the same names are replaced, others stay. A cancelled
        caller stops it, and then nothing is changed. A live one replaces the kernel, also one
        that is dead: everything is then as it was, and what was made since is gone.

        Args:
            checkpoint_id: What, or the name that it was given.
            session: Into which; its kernel is started if it has none.
            clear: Whether to remove the other variables.
            patience: See `create`.

        Raises:
            CheckpointNotFoundError: There is none of this id.
            CheckpointDamagedError: Its file was changed; nothing was restored.
            CheckpointError: It can't be restored; nothing was.
            SessionBusyError: Executions that were asked for before took too long.
            KernelDeadError: The kernel is dead, or ended meanwhile.
        """
        checkpoint = await self.get(checkpoint_id, session.id)
        if checkpoint.is_live:
            async with turn(session, patience, BETWEEN):
                warnings = await self.bring_back(checkpoint, session)
                if session.id == checkpoint.session_id:
                    await self.rewinds.mark(checkpoint, session)
                return await self._restored(checkpoint, session, warnings=warnings)
        await session.ensure_kernel()
        async with turn(session, patience, BETWEEN):
            return await self.put_back(checkpoint, session, clear=clear)

    @asynccontextmanager
    async def holding(
        self, session: Session, reason: CheckpointReason, patience: float | None = None
    ) -> AsyncIterator[Checkpoint]:
        """Save a namespace, and have nothing run in the session meanwhile.

        Raises:
            As `create`.
        """
        async with turn(session, patience, BETWEEN):
            yield await self.save_now(session, reason)

    async def save_now(self, session: Session, reason: CheckpointReason) -> Checkpoint:
        """Save a namespace for somebody who holds the session's turn; see `create`."""
        return await self._finish(await self._begin(session, "", reason))

    async def restart(self, session: Session, why: str, patience: float | None) -> Restoration:
        """Give a session a new kernel with the namespace of the old one.

        Raises:
            SessionBusyError: Executions that were asked for before took too long.
            KernelDeadError: There is no kernel whose namespace could be saved.
            CheckpointError: It can't be saved: the kernel is the old one; or not be restored:
                the kernel is new, and the message names the checkpoint.
        """
        async with self.holding(session, CheckpointReason.RESTART, patience) as checkpoint:
            await session.restart(why)
            try:
                return await self.put_back(checkpoint, session)
            except (CheckpointError, KernelDeadError) as error:
                msg = (
                    f"the kernel was restarted, but its variables are not back: {error} They are "
                    f"in checkpoint {checkpoint.id}: restore_checkpoint tries again."
                )
                raise CheckpointError(msg) from error

    async def delete(self, checkpoint_id: str) -> None:
        """Forget a checkpoint and remove its file.

        Raises:
            CheckpointNotFoundError: There is none of this id.
        """
        found = (await self.get(checkpoint_id)).id

        async def forget() -> None:
            await self._store.commit(lambda s: s.execute("delete_checkpoint", {"id": found}))
            await self.remove_files([found])

        await self.unfinished.finish(forget())

    async def keep_bounds(self) -> None:
        """End live checkpoints that are too many, or too large by what changed since."""
        while (surplus := await self.live.surplus()) is not None:
            await self.drop(surplus.ids, surplus.why)

    async def give_way(self, why: str) -> None:
        """End all live checkpoints: somebody needs their memory."""
        await self.drop(self.live.ids, why)

    async def close(self, *, leave: bool) -> None:
        """End the live checkpoints, or leave them for the next server."""
        if leave:
            self.live.leave()
        await self._drop(self.live.ids, "the server was shut down")

    async def known(self, session_id: str) -> Sequence[str]:
        """Return the ids of a session's checkpoints; none if they can't be read now."""
        with suppress(StoreError):
            return [one.id for one in await self.list(session_id)]
        return []

    async def remove_files(self, checkpoint_ids: Iterable[str], of: str = "") -> None:
        """Remove what there is of checkpoints whose records are gone; a start does so, too.

        Args:
            checkpoint_ids: Which.
            of: A session that is gone, of which all live ones are meant.
        """
        ids = list(checkpoint_ids)
        await self.live.end([*ids, *self.live.of(of)], "it was deleted")
        await self._apart.run(SWEEP, self._files.remove, *ids)

    async def freeze(
        self,
        session: Session,
        reason: CheckpointReason,
        execution_id: str = "",
        count: int | None = None,
        keeps: int = 0,
        name: str = "",
    ) -> "asyncio.Task[Checkpoint]":
        """Make a live checkpoint for whoever has the session's turn.

        Args:
            session: Whose.
            reason: Why.
            execution_id: The execution before which it is made.
            count: How many executions the session has had; None: all but those still to run.
            keeps: How many of those before executions are kept; 0: it comes and goes.
            name: What to call it.

        Returns:
            It, when it is written down; the session may go on before that.

        Raises:
            KernelDeadError: There is no kernel.
            CheckpointError: The kernel can't be copied as it is; nothing was done.
        """
        kernel, began = saving.kernel_of(session), time.monotonic()
        if count is None:
            following = session.next
            count = following.execution.index - 1 if following else session.record.execution_count
        # As it is now: the session may be put back before it is written down.
        undone = asyncio.ensure_future(self.rewinds.undone(session.id, count))
        frozen, named = await self.live.freeze(session, kernel)
        crash_point("live.frozen")
        blocked = time.monotonic() - began

        async def keep() -> Checkpoint:
            try:
                await self.live.settled(frozen)
                checkpoint = Checkpoint(
                    id=self._files.free_id(),
                    session_id=session.id,
                    name=name,
                    reason=reason,
                    blocked=blocked,
                    process=frozen.record,
                    named=named,
                    execution_id=execution_id,
                    count=count,
                    undone=await undone,
                )
                await self._store.commit(lambda statements: self._write(statements, checkpoint))
            except BaseException:
                await frozen.end()
                raise
            crash_point("live.kept")
            self.live.keep(checkpoint, frozen)
            if keeps:
                await self.rewinds.trim(session, keeps)
            return checkpoint

        return self.unfinished.begin(keep())

    async def bring_back(self, checkpoint: Checkpoint, session: Session) -> tuple[str, ...]:
        """Put a live checkpoint back for whoever has the session's turn; see `restore`."""
        origin = self._sessions.get(checkpoint.session_id, session)
        return await self.live.put_back(checkpoint, origin, session)

    async def drop(self, checkpoint_ids: Sequence[str], why: str) -> None:
        """Forget live checkpoints, and say in the log why; to the end, whoever is cancelled."""
        if checkpoint_ids:
            await self.unfinished.finish(self._drop(checkpoint_ids, why))

    async def _drop(self, checkpoint_ids: Sequence[str], why: str) -> None:
        def write(statements: Statements) -> None:
            for name in checkpoint_ids:
                row = statements.execute("checkpoint", {"id": name, "session_id": ""}).fetchone()
                if row is not None:
                    data: dict[str, object] = {"checkpoint": name, "why": why}
                    statements.event("checkpoint.ended", row["session_id"], data=data)
                    statements.execute("delete_checkpoint", {"id": name})

        try:
            await self._store.commit(write)
        except StoreError as error:  # the next start forgets them
            log.warning("live checkpoints that go are still listed: %s", error)
        await self.live.end(checkpoint_ids, why)

    def _lose(self, checkpoint_id: str, how: Exit) -> None:
        """Forget a live checkpoint whose process has ended without us."""
        work = isolated(self.drop([checkpoint_id], f"its process ended ({how})"), "a checkpoint")
        self._spawn(work, name=f"end of {checkpoint_id}")

    async def _begin(self, session: Session, name: str, reason: CheckpointReason) -> saving.Begun:
        kernel, free = saving.kernel_of(session), self._files.free_id()
        checkpoint = Checkpoint(id=free, session_id=session.id, name=name, reason=reason)
        begun = saving.Begun(checkpoint, session, kernel)
        async with self._abandoning(begun):
            path = session.directory / under_way(checkpoint.id)
            blocked = await saving.begin(kernel, checkpoint.id, str(path))
            crash_point("checkpoint.forked")
            return replace(begun, checkpoint=replace(checkpoint, blocked=blocked))

    async def _finish(self, begun: saving.Begun) -> Checkpoint:
        async with self._abandoning(begun):
            outcome = await saving.finish(begun.kernel, begun.checkpoint.id)
            done = replace(
                begun.checkpoint,
                python=outcome.python,
                variables=outcome.variables,
                skipped=outcome.skipped,
            )
        # From here on it comes to be, whoever is gone.
        return await self.unfinished.finish(self._keep_it(done, begun.session))

    async def _keep_it(self, checkpoint: Checkpoint, session: Session) -> Checkpoint:
        crash_point("checkpoint.written")
        digest, size = await self._apart.run(
            session.id,
            self._files.take,
            session.directory,
            checkpoint.id,
            seconds=saving.SAVE_DEADLINE,
        )
        crash_point("checkpoint.taken")
        checkpoint = replace(checkpoint, digest=digest, size=size)
        try:
            surplus = await self._store.commit(
                lambda statements: self._write(statements, checkpoint)
            )
        except BaseException:
            await self.remove_files([checkpoint.id])
            raise
        crash_point("checkpoint.kept")
        await self.remove_files(surplus)
        return checkpoint

    def _write(self, statements: Statements, checkpoint: Checkpoint) -> Sequence[str]:
        """Write a checkpoint down; return the ids of those that it replaces.

        Raises:
            CheckpointError: Its session is gone, or about to be.
        """
        session = {"id": checkpoint.session_id}
        if statements.execute("lives", session).fetchone() is None:
            msg = f"session '{checkpoint.session_id}' was deleted before its checkpoint was kept."
            raise CheckpointError(msg)
        statements.execute("insert_checkpoint", rows.checkpoint_row(checkpoint))
        data: dict[str, object] = {"checkpoint": checkpoint.id, "reason": checkpoint.reason.value}
        statements.event("checkpoint.created", checkpoint.session_id, data=data)
        values = {"session_id": checkpoint.session_id, "keep": self._keep}
        surplus = [row["id"] for row in statements.execute("surplus_checkpoints", values)]
        for checkpoint_id in surplus:
            statements.execute("delete_checkpoint", {"id": checkpoint_id})
        return surplus

    async def put_back(
        self, checkpoint: Checkpoint, session: Session, *, clear: bool = False
    ) -> Restoration:
        """Put a saved namespace back for whoever has the session's turn; see `restore`."""
        kernel = await session.ensure_kernel()
        lending = self._apart.run(
            session.id,
            self._files.lend,
            checkpoint,
            session.directory,
            seconds=saving.RESTORE_DEADLINE,
        )
        try:
            path = await self.unfinished.finish(lending)
            content = {"path": str(path), "clear": clear}
            told = await saving.restore(kernel, content)
        finally:
            self._files.take_back(checkpoint.id, session.directory)
        return await self._restored(checkpoint, session, told.restored, told.failed, told.warnings)

    async def _restored(
        self,
        checkpoint: Checkpoint,
        session: Session,
        restored: tuple[str, ...] = (),
        failed: tuple[LeftOut, ...] = (),
        warnings: tuple[str, ...] = (),
    ) -> Restoration:
        """Write a restore down, and return it."""
        session.touch()
        data: dict[str, object] = {"checkpoint": checkpoint.id}
        with suppress(StoreError):  # it is restored all the same
            await self._store.commit(
                lambda statements: statements.event("checkpoint.restored", session.id, data=data)
            )
        return Restoration(
            checkpoint=checkpoint,
            session_id=session.id,
            restored=restored,
            failed=failed,
            warnings=warnings,
        )

    @asynccontextmanager
    async def _abandoning(self, begun: saving.Begun) -> AsyncIterator[None]:
        """End a save that does not come to its end, and remove what is there of it."""
        try:
            async with saving.abandoning(begun.kernel, begun.checkpoint.id):
                yield
        except BaseException:
            self._files.take_back(begun.checkpoint.id, begun.session.directory)
            raise
