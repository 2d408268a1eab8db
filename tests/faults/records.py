"""Records to fill a store with; run as a script, the process whose writes strace breaks.

    python -m tests.faults.records PATH COUNT SECONDS

writes COUNT executions of session "s" into the database at PATH, prints the id of each once
the store says that everything is saved, and in the end `unsaved N`: after SECONDS in which the
disk is given to work again, or when everything is saved.
"""

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

from kernelry.models.executions import Execution, ExecutionStatus
from kernelry.models.sessions import SessionRecord, now
from kernelry.output.fold import Stream
from kernelry.store import Store


def queued(number: int, session_id: str = "s", code: str = "print(1)") -> Execution:
    """Return the `number`-th execution of a session as it is asked for."""
    return Execution(
        id=f"{session_id}-{number}",
        session_id=session_id,
        index=number,
        generation=1,
        code=code,
    )


def ended(execution: Execution, text: str = "1\n") -> Execution:
    """Return it with an outcome."""
    return replace(
        execution,
        status=ExecutionStatus.COMPLETED,
        started_at=execution.started_at or now(),
        ended_at=now(),
        duration=0.5,
        outputs=(Stream("stdout", text),),
    )


async def add(store: Store, number: int, text: str = "1\n", session_id: str = "s") -> Execution:
    """Write an execution down from its intent to its outcome and return it."""
    execution = queued(number, session_id)
    await store.add_execution(execution)
    execution = replace(execution, status=ExecutionStatus.RUNNING, started_at=now())
    await store.start_execution(execution)
    execution = ended(execution, text)
    await store.finish_execution(execution)
    return execution


async def add_session(store: Store, session_id: str = "s") -> None:
    """Write a session down."""
    await store.save_session(SessionRecord(id=session_id), "session.created")


@asynccontextmanager
async def opened(path: Path, claim: Callable[[], object] | None = None) -> AsyncIterator[Store]:
    """Open a store and close it."""
    store = Store(path, claim)
    await store.open()
    try:
        yield store
    finally:
        await store.aclose()


def integrity(path: Path) -> str:
    """Return what SQLite finds wrong with a database; "ok": nothing."""
    with closing(sqlite3.connect(path)) as db:
        verdict: str = db.execute("PRAGMA integrity_check").fetchone()[0]
        return verdict


async def main(path: Path, count: int, seconds: float) -> None:
    """Write, and print what is known to be saved."""
    store = Store(path)
    await store.open()
    waiting: list[str] = []

    def report() -> None:
        if store.unsaved == 0:
            for each in waiting:
                print("saved", each, flush=True)  # noqa: T201
            waiting.clear()

    for number in range(1, count + 1):
        waiting.append((await add(store, number, "x" * 3000)).id)
        report()
    for _ in range(int(seconds / 0.05)):
        if store.unsaved == 0:
            break
        await asyncio.sleep(0.05)
    report()
    print("unsaved", store.unsaved, flush=True)  # noqa: T201
    await store.aclose()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
