"""The database of one state directory: sessions, executions, outputs, events.

SQLite in WAL mode through one thread, so that every write is in the order it was asked
for and none blocks the event loop. A commit survives a killed server; the last commits
before a power cut may be missing, the file stays sound (synchronous=NORMAL).

A write that the disk refuses raises nothing: it waits in memory and is tried again, about
once a second and before each later write, and `degraded` and `unsaved` say so.
"""

import asyncio
import json
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from kernelry.errors import IdTakenError, StoreError
from kernelry.models import Execution, ExecutionStatus, KernelRecord, SessionRecord, now
from kernelry.output import fold, saved_files
from kernelry.store import rows
from kernelry.store.backlog import Change, Step
from kernelry.store.database import UNREADABLE, Database
from kernelry.store.statements import Statements, migrations
from kernelry.store.writer import Writer

T = TypeVar("T")

RETRY_PERIOD = 1.0  # seconds between attempts to write what waits


def _generation(record: SessionRecord) -> dict[str, object]:
    return {"generation": record.generation}


class Store:
    """Durable records; every method is one transaction."""

    def __init__(self, path: Path, claim: Callable[[], object] | None = None) -> None:
        """Keep what `open` needs.

        Args:
            path: The file.
            claim: See `Database`.
        """
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kernelry-store")
        self._database = Database(
            path,
            migrations=migrations(),
            queries=Statements.all(),
            read=self._read_records,
            claim=claim,
        )
        self._statements = Statements(lambda: self._database.connection)
        self._writer = Writer(self._database)
        self._loop: asyncio.AbstractEventLoop
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False
        #: set, and replaced, when something was written
        self.changed = asyncio.Event()

    @property
    def degraded(self) -> str:
        """Why records can't be written now and what helps, in one line; empty: they can."""
        return self._writer.degraded

    @property
    def unsaved(self) -> int:
        """How many transactions are in memory only."""
        return len(self._writer.backlog)

    @property
    def moved_aside(self) -> Path | None:
        """Where a damaged database was moved when this one was opened."""
        return self._database.moved_aside

    async def open(self) -> None:
        """Open the file, bringing an older schema up to date.

        A damaged file is moved aside and a new one begun: see `moved_aside`.

        Raises:
            StoreError: It can't be used, or a newer kernelry wrote it.
        """
        self._loop = asyncio.get_running_loop()
        try:
            await self._in_thread(self._database.open)
        except BaseException:
            self._thread.shutdown(wait=False)
            raise

    async def aclose(self) -> None:
        """Finish what is queued, try again to write what waits, and close the file.

        What can't be written is lost then; the log names each change.
        """
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        try:
            await self._in_thread(self._writer.give_up)
        finally:
            await self._in_thread(self._database.close)
            self._thread.shutdown()

    async def save_session(
        self, record: SessionRecord, *events: str, kernel: KernelRecord | None = None
    ) -> None:
        """Write down a new session or what changed of one, and its kernel if it has a new one.

        Raises:
            StoreError: It is new and too much waits to be written (retryable).
        """
        steps: list[Callable[[], object]] = [
            lambda: self._execute("save_session", rows.session_row(record))
        ]
        if kernel is not None:
            row = rows.kernel_row(record.id, kernel)
            steps.append(lambda: self._execute("save_kernel", row))
        steps += [
            partial(self._statements.event, event, record.id, data=_generation(record))
            for event in events
        ]
        await self._write(*steps, session=record, intent="session.created" in events)

    async def note(
        self,
        record: SessionRecord,
        type: str,
        data: object = None,
        *,
        execution_id: str = "",
        key: str | None = None,
    ) -> None:
        """Write down that something happened in a session, and how that leaves it.

        Args:
            record: The session as it is afterwards.
            type: What happened, like "session.suspended".
            data: More of it, as JSON knows it.
            execution_id: The execution in which it happened; empty: in none.
            key: Names it; a second event of the same name is not written.
        """
        row = rows.session_row(record)
        await self._write(
            lambda: self._execute("update_session", row),
            lambda: self._statements.event(type, record.id, execution_id, data, key),
            session=record,
        )

    async def event_keys(self, execution_id: str) -> set[str]:
        """Return the names of the events of an execution that have one."""
        found = {"execution_id": execution_id}
        return await self._run(lambda: {row["key"] for row in self._execute("event_keys", found)})

    async def forget_kernel(self, session_id: str) -> None:
        """Write down that a session's kernel is not to be taken over; before it is ended."""
        await self._write(lambda: self._execute("forget_kernel", {"id": session_id}))

    async def begin_deletion(self, session_id: str) -> None:
        """Write down that a session is to go, so that the next server can finish that."""
        await self._write(
            lambda: self._execute("begin_deletion", {"id": session_id}), deletes=session_id
        )

    async def deletions(self) -> list[SessionRecord]:
        """Return the sessions whose deletion has begun; `sessions` has none of them."""
        return await self._run(
            lambda: [rows.session_record(row) for row in self._execute("deletions")]
        )

    async def kernels(self) -> dict[str, KernelRecord]:
        """Return the kernels that are to be taken over, by their sessions' ids."""
        return await self._run(
            lambda: {row["session_id"]: rows.kernel_record(row) for row in self._execute("kernels")}
        )

    async def live_checkpoints(self) -> dict[str, KernelRecord]:
        """Return the processes of live checkpoints, by the ids of these."""
        return await self._run(
            lambda: {
                row["id"]: rows.kernel_record(json.loads(row["process"]))
                for row in self._execute("live_checkpoints")
            }
        )

    async def newest_execution(self, session_id: str) -> Execution | None:
        """Return a session's last execution, with its outputs."""

        def read() -> Execution | None:
            row = self._execute("newest_execution", {"id": session_id}).fetchone()
            known = self._writer.backlog.executions(session_id)
            if row and (stored := self._read_execution(row["id"])):
                known.append(stored)
            return max(known, key=lambda execution: execution.index, default=None)

        return await self._run(read)

    async def executions(self, session_id: str) -> list[Execution]:
        """Return all executions of a session in their order, with outputs."""

        def read() -> list[Execution]:
            stored = self._execute("session_executions", {"id": session_id})
            ids = [row["id"] for row in stored]
            waiting = [run.id for run in self._writer.backlog.executions(session_id)]
            found = map(self._read_execution, dict.fromkeys(ids + waiting))
            return sorted(filter(None, found), key=lambda execution: execution.index)

        return await self._run(read)

    async def archive_session(self, session_id: str) -> str:
        """Forget a session but for its executions; return the id under which these are found.

        Raises:
            StoreError: It can't be written now.
        """

        def archive(statements: Statements) -> str:
            pattern = {"pattern": f"{session_id}~[0-9]*"}
            taken = {row["id"] for row in statements.execute("archived_ids", pattern)}
            free = next(n for n in count(1) if f"{session_id}~{n}" not in taken)
            renamed = {"id": session_id, "archived_id": f"{session_id}~{free}"}
            statements.execute("delete_artifacts", {"id": session_id})
            statements.execute("defer_foreign_keys")
            statements.execute("archive_session", {**renamed, "at": statements.at})
            statements.execute("archive_executions", renamed)
            statements.execute("delete_checkpoints", {"session_id": session_id})
            statements.execute("forget_kernel", {"id": session_id})
            statements.event(
                "session.deleted", session_id, data={"kept_as": f"{session_id}~{free}"}
            )
            return f"{session_id}~{free}"

        return await self.commit(archive)

    async def execution_ids(self, session_id: str) -> set[str]:
        """Return the ids of a session's executions."""
        return await self._run(
            lambda: (
                {row["id"] for row in self._execute("execution_ids", {"id": session_id})}
                | {execution.id for execution in self._writer.backlog.executions(session_id)}
            )
        )

    async def add_event(self, type: str, data: dict[str, object]) -> None:
        """Write down something that happened to the server itself."""
        await self._write(lambda: self._statements.event(type, "", data=data))

    async def delete_session(self, session_id: str) -> None:
        """Forget a session with its executions; the events stay."""
        await self._write(
            lambda: self._execute("delete_session", {"id": session_id}),
            lambda: self._statements.event("session.deleted", session_id),
            deletes=session_id,
        )

    async def sessions(self) -> list[SessionRecord]:
        """Return all sessions in the order of their creation."""
        return await self._run(
            lambda: self._writer.backlog.over_sessions(
                [rows.session_record(row) for row in self._execute("sessions")]
            )
        )

    async def add_execution(self, execution: Execution) -> None:
        """Write down the intent to run code; before it is sent.

        Raises:
            StoreError: Too much waits to be written already (retryable); or it is because of an
                `IdTakenError`.
        """
        begun = "started" if execution.status is ExecutionStatus.RUNNING else "queued"

        def insert() -> None:
            row = rows.execution_row(execution)
            if self._execute("insert_execution", row).rowcount == 0:
                raise IdTakenError(f"there is an execution {execution.id}")
            self._statements.event(
                f"execution.{begun}", execution.session_id, execution.id, {"index": execution.index}
            )

        await self._write(
            insert,
            lambda: self._execute(
                "touch_session",
                {
                    "id": execution.session_id,
                    "execution_count": execution.index,
                    "last_activity_at": execution.created_at.timestamp(),
                },
            ),
            execution=execution,
            intent=True,
        )

    async def start_execution(self, execution: Execution) -> None:
        """Write down that a queued execution is about to be sent."""
        name, number = execution.session_id, {"index": execution.index}
        await self._write(
            lambda: self._execute("start_execution", rows.execution_row(execution)),
            lambda: self._statements.event("execution.started", name, execution.id, number),
            execution=execution,
        )

    async def finish_execution(self, execution: Execution, *, capture: bool = False) -> None:
        """Write down the outcome with its outputs and its event, in one transaction.

        With `capture` it is noted that the outputs are to become artifacts.

        While nothing can be written it is kept without a limit of its own; only its outputs
        are dropped, and its note says so, when far too much waits already.
        """
        await self._write(
            lambda: self._finish(execution, capture),
            execution=execution,
            without_outputs=lambda bare: (lambda: self._finish(bare),),
        )

    async def execution(self, execution_id: str) -> Execution | None:
        """Return one execution with its outputs; None: there is none.

        Raises:
            StoreError: Its record is damaged or can't be read now.
        """
        return await self._run(lambda: self._read_execution(execution_id))

    async def open_executions(self) -> list[Execution]:
        """Return the executions that have no outcome, without outputs."""
        return await self._run(
            lambda: self._writer.backlog.over_open_executions(
                [rows.execution(row, ()) for row in self._execute("open_executions")]
            )
        )

    async def read(self, work: Callable[[Statements], T]) -> T:
        """Read with `work`, which runs in the store's thread.

        Raises:
            StoreError: A record is damaged or the file can't be read.
        """
        return await self._run(lambda: work(self._statements))

    async def commit(self, work: Callable[[Statements], T]) -> T:
        """Change the database with `work`, in one transaction: now, or not at all.

        For what is asked for by somebody who can be told that it did not work; a cancelled
        caller does not stop it.

        Returns:
            What `work` returned.

        Raises:
            StoreError: It can't be written now.
        """
        asked = now().timestamp()
        results: list[T] = []

        def step() -> None:
            self._statements.at = asked
            results.append(work(self._statements))

        await asyncio.shield(self._in_thread(lambda: self._try(self._writer.commit, step)))
        self._tell_change()
        return results[-1]

    def _read_records(self) -> None:
        """Read what a start reads; raises what a bad row raises."""
        for query in ("sessions", "deletions"):
            for row in self._execute(query):
                rows.session_record(row)
        for row in self._execute("kernels"):
            rows.kernel_record(row)
        for row in self._execute("open_executions"):
            rows.execution(row, ())

    def _finish(self, execution: Execution, capture: bool = False) -> None:
        row = rows.execution_row(execution)
        if self._execute("finish_execution", row).rowcount == 0:
            return  # its session was deleted meanwhile, and so was it
        for statement in ("delete_outputs", "forget_result", "forget_written"):
            self._execute(statement, row)
        if (result := rows.result_row(execution)) is not None:
            self._execute("insert_result", result)
        files = [*execution.new_files, *(path for _, path in saved_files(execution.outputs))]
        self._statements.execute_many(
            "insert_written", ({"id": execution.id, "path": path} for path in files)
        )
        if capture:
            self._execute("note_uncaptured", {"id": execution.id})
        self._statements.execute_many(
            "insert_output",
            (
                {
                    "id": execution.id,
                    "position": position,
                    "body": json.dumps(fold.to_json(output)),
                }
                for position, output in enumerate(execution.outputs)
            ),
        )
        self._statements.event(
            "execution.ended",
            execution.session_id,
            execution.id,
            rows.outcome(execution),
        )

    def _read_execution(self, execution_id: str) -> Execution | None:
        backlog = self._writer.backlog
        if (waiting := backlog.over_execution(execution_id, None)) is not None:
            return waiting
        row = self._execute("execution", {"id": execution_id}).fetchone()
        if row is None:
            return None
        found = self._execute("outputs", {"id": execution_id})
        outputs = tuple(fold.from_json(json.loads(item["body"])) for item in found)
        return backlog.over_execution(execution_id, rows.execution(row, outputs))

    def _execute(self, statement: str, values: rows.Row | None = None) -> sqlite3.Cursor:
        return self._statements.execute(statement, values)

    async def _write(
        self,
        *steps: Step,
        intent: bool = False,
        execution: Execution | None = None,
        session: SessionRecord | None = None,
        deletes: str = "",
        without_outputs: Callable[[Execution], tuple[Step, ...]] | None = None,
    ) -> None:
        """Run `steps` in one transaction, now or as soon as the disk lets us.

        A cancelled caller does not stop it. The rest is what readers shall see of it while
        it waits: see `Change`.
        """
        asked = now().timestamp()

        def stamp() -> None:
            self._statements.at = asked

        change = Change(
            steps=(stamp, *steps),
            intent=intent,
            execution=execution,
            session=session,
            deletes=deletes,
            without_outputs=without_outputs and (lambda bare: (stamp, *without_outputs(bare))),
        )
        # Submitted before the first await: transactions run in the order they are asked for.
        await asyncio.shield(self._in_thread(lambda: self._try(self._writer.write, change)))
        self._tell_change()

    async def _run(self, work: Callable[[], T]) -> T:
        """Read.

        Raises:
            StoreError: A record is damaged or the file can't be read.
        """
        try:
            return await self._in_thread(work)
        except sqlite3.Error as error:
            raise StoreError(f"can't read {self._path}: {error}") from error
        except UNREADABLE as error:
            raise StoreError(f"a record in {self._path} is damaged: {error!r}") from error

    def _tell_change(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    def _in_thread(self, work: Callable[[], T]) -> asyncio.Future[T]:
        return self._loop.run_in_executor(self._thread, work)

    def _try(self, work: Callable[..., None], *args: Any) -> None:
        """Write in the store's thread; see that what could not be written is tried again."""
        try:
            work(*args)
        finally:
            if self.unsaved:
                self._loop.call_soon_threadsafe(self._wait_to_retry)

    def _wait_to_retry(self) -> None:
        if self._timer is None and not self._closing:
            self._timer = self._loop.call_later(RETRY_PERIOD, self._retry)

    def _retry(self) -> None:
        self._timer = None
        self._thread.submit(self._try, self._writer.retry)
