"""The database of one state directory: sessions, executions, outputs, events.

SQLite in WAL mode through one thread, so that every write is in the order it was asked
for and none blocks the event loop. A commit survives a killed server; the last commits
before a power cut may be missing, the file stays sound (synchronous=NORMAL).
"""

import asyncio
import json
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import TypeVar

from carrel import outputs as carrel_outputs
from carrel.errors import StoreError
from carrel.models import Execution, SessionRecord, now
from carrel.store import rows

T = TypeVar("T")


def _load_queries() -> dict[str, str]:
    text = resources.files("carrel.store").joinpath("queries.sql").read_text(encoding="utf-8")
    parts = text.split("-- name: ")[1:]
    return {part.split("\n", 1)[0].strip(): part.split("\n", 1)[1].strip() for part in parts}


def _load_migrations() -> list[str]:
    folder = resources.files("carrel.store").joinpath("migrations")
    files = sorted(
        (file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda f: f.name
    )
    return [file.read_text(encoding="utf-8") for file in files]


_SQL = _load_queries()


class Store:
    """Durable records; every method is one transaction."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="carrel-store")
        self._db: sqlite3.Connection

    async def open(self) -> None:
        """Open the file, bringing an older schema up to date.

        Raises:
            StoreError: It can't be opened, or a newer carrel wrote it.
        """
        try:
            await self._run(self._open)
        except sqlite3.Error as error:
            self._thread.shutdown(wait=False)
            msg = f"can't open {self._path}: {error}. Move it away or name another --state-dir."
            raise StoreError(msg) from error

    async def aclose(self) -> None:
        """Finish what is queued and close the file."""
        await self._run(lambda: self._db.close())
        self._thread.shutdown()

    async def add_session(self, record: SessionRecord) -> None:
        """Write down a new session."""
        await self._write(
            lambda: self._execute("insert_session", rows.session_row(record)),
            lambda: self._event("session.created", record.id),
        )

    async def update_session(self, record: SessionRecord, event: str) -> None:
        """Write down what changed of a session."""
        await self._write(
            lambda: self._execute("update_session", rows.session_row(record)),
            lambda: self._event(event, record.id, data={"generation": record.generation}),
        )

    async def delete_session(self, session_id: str) -> None:
        """Forget a session with its executions; the events stay."""
        await self._write(
            lambda: self._execute("delete_session", {"id": session_id}),
            lambda: self._event("session.deleted", session_id),
        )

    async def sessions(self) -> list[SessionRecord]:
        """Return all sessions in the order of their creation."""
        return await self._run(
            lambda: [rows.session_record(row) for row in self._db.execute(_SQL["sessions"])]
        )

    async def add_execution(self, execution: Execution) -> None:
        """Write down the intent to run code; before it is sent."""
        await self._write(
            lambda: self._execute("insert_execution", rows.execution_row(execution)),
            lambda: self._execute(
                "touch_session",
                {
                    "id": execution.session_id,
                    "execution_count": execution.index,
                    "last_activity_at": execution.created_at.timestamp(),
                },
            ),
        )

    async def start_execution(self, execution: Execution) -> None:
        """Write down that a queued execution is about to be sent."""
        await self._write(lambda: self._execute("start_execution", rows.execution_row(execution)))

    async def finish_execution(self, execution: Execution) -> None:
        """Write down the outcome with its outputs and its event, in one transaction."""
        await self._write(lambda: self._finish(execution))

    async def execution(self, execution_id: str) -> Execution | None:
        """Return one execution with its outputs."""
        return await self._run(lambda: self._read_execution(execution_id))

    async def open_executions(self) -> list[Execution]:
        """Return the executions that have no outcome, without outputs."""
        return await self._run(
            lambda: [rows.execution(row, ()) for row in self._db.execute(_SQL["open_executions"])]
        )

    def _open(self) -> None:
        self._db = sqlite3.connect(self._path, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA foreign_keys = ON")
        self._migrate()

    def _migrate(self) -> None:
        migrations = _load_migrations()
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > len(migrations):
            self._db.close()
            msg = (
                f"{self._path} was written by a newer carrel (schema {version}, this one knows "
                f"{len(migrations)}). Upgrade carrel or name another --state-dir."
            )
            raise StoreError(msg)
        for number, script in enumerate(migrations[version:], version + 1):
            self._db.executescript(f"BEGIN;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")

    def _finish(self, execution: Execution) -> None:
        row = rows.execution_row(execution)
        self._execute("finish_execution", row)
        self._execute("delete_outputs", row)
        self._db.executemany(
            _SQL["insert_output"],
            (
                {
                    "id": execution.id,
                    "position": position,
                    "body": json.dumps(carrel_outputs.to_json(output)),
                }
                for position, output in enumerate(execution.outputs)
            ),
        )
        self._event(
            "execution.ended",
            execution.session_id,
            execution.id,
            {"status": execution.status.value},
        )

    def _read_execution(self, execution_id: str) -> Execution | None:
        row = self._execute("execution", {"id": execution_id}).fetchone()
        if row is None:
            return None
        found = self._execute("outputs", {"id": execution_id})
        outputs = tuple(carrel_outputs.from_json(json.loads(item["body"])) for item in found)
        return rows.execution(row, outputs)

    def _event(
        self,
        type: str,
        session_id: str,
        execution_id: str = "",
        data: dict[str, object] | None = None,
    ) -> None:
        self._execute(
            "insert_event",
            {
                "at": now().timestamp(),
                "type": type,
                "session_id": session_id,
                "execution_id": execution_id,
                "data": json.dumps(data or {}),
            },
        )

    def _execute(self, query: str, values: rows.Row) -> sqlite3.Cursor:
        return self._db.execute(_SQL[query], values)

    async def _write(self, *steps: Callable[[], object]) -> None:
        """Run `steps` in one transaction; a cancelled caller does not stop it."""

        def transaction() -> None:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                for step in steps:
                    step()
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

        # Submitted before the first await: transactions run in the order they are asked for.
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, transaction))

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
