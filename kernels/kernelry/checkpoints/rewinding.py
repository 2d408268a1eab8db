"""Executions that can be undone: a live checkpoint before each, for a rewind or a rollback.

A session with `rewind` keeps one before each of its newest executions. An execution that is to be
rolled back has one until its end; if it does not complete, however it ends, the session is put
back before anybody hears of that. What it wrote to files, and what other processes and the network
had of it, stays.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from kernelry.errors import CheckpointNotFoundError, KernelryError
from kernelry.models import Checkpoint, CheckpointReason, ExecutionStatus, OnError, Undone
from kernelry.session import Run, Session
from kernelry.store import Statements, Store, rows

NAMED = 10  # executions, or files, that a message lists


class Freezer(Protocol):
    """Makes live checkpoints and puts them back, for whoever has the session's turn."""

    async def freeze(
        self, session: Session, reason: CheckpointReason, execution_id: str, count: int
    ) -> Checkpoint:
        """Make one; raises KernelryError."""
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
        self._before: dict[str, Checkpoint] = {}  # execution that is under way -> what was before
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
        session, on_error = self._sessions.get(session_id), run.execution.on_error
        if session is None:
            return ""
        keeps = self.keeps(session)
        if not keeps and on_error is OnError.KEEP:
            return ""
        reason = CheckpointReason.REWIND if keeps else CheckpointReason.ROLLBACK
        try:
            count = run.execution.index - 1
            kept = await self._freezer.freeze(session, reason, run.id, count)
        except KernelryError as error:
            if on_error is OnError.ROLLBACK:
                return (
                    f"it did not run, since it could not be rolled back: {error} "
                    "on_error='rollback_if_possible' runs it all the same."
                )
            if on_error is OnError.IF_POSSIBLE:
                self._cannot[run.id] = str(error)
            kernel = (session_id, session.record.generation)
            if keeps and kernel not in self._told:  # once is enough
                self._told.add(kernel)
                run.add_note(f"Nothing is kept to rewind to: {error}")
            return ""
        self._before[run.id] = kept
        if keeps:
            await self._trim(session, keeps)
        return ""

    async def after(self, session_id: str, run: Run) -> None:
        """Put a session back if an execution is to be rolled back; see `Undoer`."""
        await self.recovered.wait()
        kept, why = self._before.pop(run.id, None), self._cannot.pop(run.id, "")
        on_error, session = run.execution.on_error, self._sessions.get(session_id)
        is_wanted = on_error is not OnError.KEEP
        if is_wanted and run.execution.status is not ExecutionStatus.COMPLETED:
            if kept is None or session is None:
                run.add_note(f"Not rolled back: {why or 'nothing was kept of before it'}")
            elif session.is_stopping:
                run.add_note("Not rolled back: its kernel was restarted or ended.")
            else:
                await self._roll_back(session, run, kept)
        if kept is not None and kept.reason is CheckpointReason.ROLLBACK:
            await self._freezer.drop([kept.id], "its execution is over")

    async def find(self, execution_id: str) -> Checkpoint:
        """Return what was kept before an execution.

        Raises:
            CheckpointNotFoundError: Nothing was, or it is gone.
        """
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
        count = found.index if found is not None else 0
        before = [number for number in await self.undone(session.id) if number <= count]
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

    async def undone(self, session_id: str) -> tuple[int, ...]:
        """Return the numbers of a session's executions that are undone."""
        values = {"session_id": session_id}
        return await self._store.read(
            lambda statements: tuple(row[0] for row in statements.execute("undone", values))
        )

    async def recover(self, found: Sequence[Checkpoint]) -> None:
        """Take up what a server before has kept, and forget what is not needed any more."""
        over = []
        for checkpoint in found:
            session = self._sessions.get(checkpoint.session_id)
            current = session.current if session else None
            if current is not None and current.id == checkpoint.execution_id:
                self._before[current.id] = checkpoint
            elif checkpoint.reason is CheckpointReason.ROLLBACK and not (session and session.death):
                over.append(checkpoint.id)
        await self._freezer.drop(over, "its execution is over")
        self.recovered.set()

    async def _roll_back(self, session: Session, run: Run, kept: Checkpoint) -> None:
        try:
            await self._freezer.bring_back(kept, session)
        except KernelryError as error:
            run.add_note(f"Not rolled back: {error}")
            return
        run.execution = replace(run.execution, undone=Undone.ROLLBACK)
        values = {"id": run.id}
        await self._store.commit(lambda s: s.execute("mark_rolled_back", values))
        files = run.execution.new_files
        more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
        wrote = f": {', '.join(files[:NAMED])}{more}" if files else ""
        run.add_note(
            "Rolled back: variables are as before it. What it wrote to files stays"
            + wrote
            + "; so "
            "does what other processes and the network had of it."
        )

    async def _trim(self, session: Session, keeps: int) -> None:
        """Forget what was kept before executions that are not among the newest any more."""
        values = {"session_id": session.id, "keep": keeps}

        def read(statements: Statements) -> list[str]:
            return [row["id"] for row in statements.execute("surplus_rewinds", values)]

        if surplus := await self._store.read(read):
            await self._freezer.drop(surplus, f"only the newest {keeps} are kept")
