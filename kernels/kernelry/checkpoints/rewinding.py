"""Executions that can be undone: a live checkpoint before each, for a rewind or a rollback.

A session with `rewind` keeps one before each of its newest executions. An execution that is to be
rolled back has one until its end; if it does not complete, however it ends, the session is put
back before anybody hears of that. What it wrote to files, and what other processes and the network
had of it, stays.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from kernelry.crashpoints import crash_point
from kernelry.errors import CheckpointNotFoundError, KernelryError
from kernelry.models import (
    Checkpoint,
    CheckpointReason,
    Execution,
    ExecutionStatus,
    OnError,
    Undone,
)
from kernelry.session import Run, Session
from kernelry.shielding import Unfinished
from kernelry.store import Statements, Store, rows

NAMED = 10  # executions, or files, that a message lists


class Freezer(Protocol):
    """Makes live checkpoints and puts them back, for whoever has the session's turn."""

    #: work that goes on to its end
    unfinished: Unfinished

    async def freeze(
        self, session: Session, reason: CheckpointReason, execution_id: str, count: int, keeps: int
    ) -> "asyncio.Task[Checkpoint]":
        """Make one, which is on its way then; raises KernelryError."""
        ...

    async def bring_back(self, checkpoint: Checkpoint, session: Session) -> tuple[str, ...]:
        """Put one back; raises KernelryError."""
        ...

    async def drop(self, checkpoint_ids: Sequence[str], why: str) -> None:
        """Forget some."""
        ...


class Rewinds:
    """Sees to it that the executions of one service can be undone.

    Args:
        store: Keeps records.
        freezer: Makes live checkpoints.
        sessions: The sessions that there are, by id; kept up to date.
        default: Before how many executions a session can be put back that does not say.
    """

    def __init__(
        self, store: Store, freezer: Freezer, sessions: Mapping[str, Session], default: int
    ) -> None:
        self._store = store
        self._freezer = freezer
        self._sessions = sessions
        self._default = default
        # execution that is under way -> what was before
        self._before: dict[str, Checkpoint | asyncio.Task[Checkpoint]] = {}
        self._making: set[asyncio.Task[Checkpoint]] = set()
        self._cannot: dict[str, str] = {}  # execution -> why it can't be rolled back
        self._told: set[tuple[str, int]] = set()  # kernels of which no copy can be kept
        #: set when what a server before has left is known
        self.recovered = asyncio.Event()

    def keeps(self, session: Session) -> int:
        """Return before how many of its executions a session can be put back."""
        wanted = session.record.rewind
        return self._default if wanted is None else wanted

    async def before(self, session_id: str, run: Run) -> str:
        """Keep a copy before an execution, if that is wanted; see `Undoer`."""
        await self.recovered.wait()
        session, on_error = self._sessions.get(session_id), run.execution.on_error
        if session is None:
            return ""
        keeps = self.keeps(session)
        if not keeps and on_error is OnError.KEEP:
            return ""
        reason = CheckpointReason.REWIND if keeps else CheckpointReason.ROLLBACK
        try:
            count = run.execution.index - 1
            making = await self._freezer.freeze(session, reason, run.id, count, keeps)
            if on_error is OnError.ROLLBACK:  # it must be there for certain
                await asyncio.shield(making)
        except KernelryError as error:
            if on_error is OnError.ROLLBACK:
                return (
                    f"it did not run, since it could not be rolled back: {error} "
                    "on_error='rollback_if_possible' runs it all the same."
                )
            if on_error is OnError.IF_POSSIBLE:
                self._cannot[run.id] = str(error)
            if keeps:
                self._tell(session, run, error)
            return ""
        self._before[run.id] = making
        self._making.add(making)
        making.add_done_callback(self._making.discard)

        def told(done: "asyncio.Task[Checkpoint]") -> None:
            if keeps and not done.cancelled() and (error := done.exception()) is not None:
                self._tell(session, run, error)

        making.add_done_callback(told)
        return ""

    def _tell(self, session: Session, run: Run, error: BaseException) -> None:
        """Say that nothing is kept, once of each kernel."""
        kernel = (session.id, session.record.generation)
        if kernel not in self._told:
            self._told.add(kernel)
            run.add_note(f"Nothing is kept to rewind to: {error}")

    async def after(self, session_id: str, run: Run) -> None:
        """Put a session back if an execution is to be rolled back; see `Undoer`."""
        await self.recovered.wait()
        found, why = self._before.pop(run.id, None), self._cannot.pop(run.id, "")
        session, ran = self._sessions.get(session_id), run.execution
        if ran.on_error is OnError.KEEP or session is None or not (found or why):
            return  # one that was made for a rewind stays
        if ran.status in (ExecutionStatus.COMPLETED, ExecutionStatus.CANCELLED):
            self._freezer.unfinished.begin(self._discard(found))
            return
        try:
            kept = await asyncio.shield(found) if isinstance(found, asyncio.Task) else found
        except KernelryError as error:
            kept, why = None, str(error)
        if kept is None:
            run.add_note(f"Not rolled back: {why}")
            return
        await self._store.finish_execution(ran)  # should we die: the next server rolls it back
        crash_point("rollback.begun")
        run.execution = await self._roll_back(session, ran, kept)
        await self._discard(kept)

    async def _discard(self, found: "Checkpoint | asyncio.Task[Checkpoint] | None") -> None:
        """Forget what was kept for an execution that is over, unless it is kept for a rewind."""
        with suppress(KernelryError):  # then there is nothing
            kept = await asyncio.shield(found) if isinstance(found, asyncio.Task) else found
            if kept is not None and kept.reason is CheckpointReason.ROLLBACK:
                await self._freezer.drop([kept.id], "its execution is over")

    async def settled(self) -> None:
        """Wait until what is on its way is written down, or has failed."""
        if self._making:
            await asyncio.wait(tuple(self._making))

    async def find(self, execution_id: str) -> Checkpoint:
        """Return what was kept before an execution.

        Raises:
            CheckpointNotFoundError: Nothing was, or it is gone.
        """
        await self.settled()
        values = {"id": execution_id}
        found = await self._store.read(
            lambda statements: statements.execute("checkpoint_before", values).fetchone()
        )
        if found is not None:
            return rows.checkpoint(found)
        known = await self._store.read(
            lambda s: [row[0] for row in s.execute("rewindable", {"id": execution_id})]
        )
        named = ", ".join(known[:NAMED]) or "none"
        msg = (
            f"nothing was kept before execution {execution_id[:64]!r}. Executions of its session "
            f"with something kept, the newest first: {named}. create_session with rewind=N keeps "
            "it before the newest N."
        )
        raise CheckpointNotFoundError(msg)

    async def mark_after(self, execution_id: str, session: Session) -> None:
        """Note that what a session ran after an execution is undone; empty: all that it ran."""
        found = await self._store.execution(execution_id) if execution_id else None
        count = found.index if found is not None and found.session_id == session.id else 0
        before = await self.undone(session.id, count)
        await self._mark(count, before, session)

    async def mark(self, checkpoint: Checkpoint, session: Session) -> None:
        """Note which executions are undone now that a session is as in a checkpoint of it."""
        await self._mark(checkpoint.count, checkpoint.undone, session)

    async def _mark(self, count: int, before: Sequence[int], session: Session) -> None:
        values = {"session_id": session.id, "count": count, "undone": rows.numbers(before)}
        await self._store.commit(lambda statements: statements.execute("set_undone", values))
        for run in session.ended:
            ran = run.execution
            is_undone = ran.index > count or ran.index in before
            undone = (ran.undone or Undone.REWIND) if is_undone else Undone.NO
            run.execution = replace(ran, undone=undone)

    async def undone(self, session_id: str, count: int) -> tuple[int, ...]:
        """Return the numbers of a session's first executions that are undone."""
        values = {"session_id": session_id, "count": count}
        return await self._store.read(
            lambda statements: tuple(row[0] for row in statements.execute("undone", values))
        )

    async def recover(self, found: Sequence[Checkpoint]) -> None:
        """Take up what a server before has kept, and do what it did not come to any more."""
        for checkpoint in found:
            session = self._sessions.get(checkpoint.session_id)
            current = session.current if session else None
            if current is not None and current.id == checkpoint.execution_id:
                self._before[current.id] = checkpoint
            elif checkpoint.reason is CheckpointReason.ROLLBACK:
                ran = await self._store.execution(checkpoint.execution_id)
                if session is not None and ran is not None and is_to_be_undone(ran):
                    done = await self._roll_back(session, ran, checkpoint)
                    await self._store.finish_execution(done)
                    for run in session.ended:
                        if run.id == ran.id:
                            run.execution = done
                await self._freezer.drop([checkpoint.id], "its execution is over")
        self.recovered.set()

    async def _roll_back(self, session: Session, ran: Execution, kept: Checkpoint) -> Execution:
        """Put a session back; return the execution with what is to be said of that."""
        try:
            lacks = await self._freezer.bring_back(kept, session)
        except KernelryError as error:
            return noted(ran, f"Not rolled back: {error}")
        crash_point("rollback.done")
        values = {"id": ran.id}
        await self._store.commit(lambda s: s.execute("mark_rolled_back", values))
        files = ran.new_files
        more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
        wrote = f": {', '.join(files[:NAMED])}{more}" if files else ""
        note = (
            f"Rolled back: variables are as before it. What it wrote to files stays{wrote}; so "
            "does what other processes and the network had of it."
        )
        named = f" Not brought back, or shared: {'; '.join(lacks)}." if lacks else ""
        return replace(noted(ran, note + named), undone=Undone.ROLLBACK)

    async def trim(self, session: Session, keeps: int) -> None:
        """Forget what was kept before executions that are not among the newest any more."""
        values = {"session_id": session.id, "keep": keeps}

        def read(statements: Statements) -> list[str]:
            return [row["id"] for row in statements.execute("surplus_rewinds", values)]

        if surplus := await self._store.read(read):
            await self._freezer.drop(surplus, f"only the newest {keeps} are kept")


def is_to_be_undone(ran: Execution) -> bool:
    """Say whether an execution has ended so that it is to be rolled back, and was not."""
    has_failed = ran.status.is_final and ran.status is not ExecutionStatus.COMPLETED
    return has_failed and ran.on_error is not OnError.KEEP and not ran.undone


def noted(ran: Execution, note: str) -> Execution:
    """Return an execution with something more that is said of it."""
    return replace(ran, note=f"{ran.note} {note}" if ran.note else note)
