"""What a server finds of the one before on its state directory, and what becomes of it.

Kernels that live are adopted with what they run; executions of others get their true
outcome as far as it can be known; deletions that had begun are finished; kernels,
directories and sockets that belong to no session go. Nothing here is guessed: the store
knows what should be, the fork servers what is (engines/guardians.py).
"""

import asyncio
import json
import logging
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from kernelry import bounds
from kernelry.apart import in_thread
from kernelry.beneath import put_aside, reading, remove_tree, writing
from kernelry.crashpoints import crash_point
from kernelry.engines import FrozenKernel, LocalEngine
from kernelry.lives.areas import unused_below
from kernelry.models import Execution, ExecutionStatus, KernelRecord, SessionRecord, SessionStatus
from kernelry.paths import StateDirectory
from kernelry.processes import BranchProcess, Exit, branches, end_groups, end_strays
from kernelry.session import Session, with_what_ran
from kernelry.store import Store

log = logging.getLogger(__name__)

STARTED = "server.started"  # event that carries the report
BACKGROUND = "background"  # spill file of what no execution printed


@dataclass(slots=True)
class RecoveryReport:
    """What was found and done."""

    #: sessions whose kernel goes on
    adopted: list[str] = field(default_factory=list)
    #: session -> how its kernel had ended
    ended: dict[str, str] = field(default_factory=dict)
    #: outcome -> executions that got it now
    concluded: dict[str, int] = field(default_factory=dict)
    #: sessions whose deletion was finished
    deleted: list[str] = field(default_factory=list)
    #: kernels of no session that were ended
    kernels_ended: int = 0
    #: directories and files of no session that were removed
    removed: int = 0
    #: where a database that could not be read is now; empty: there was none
    moved_aside: str = ""

    @property
    def is_worth_telling(self) -> bool:
        """Say whether the server before did not end in order."""
        return any(
            (self.adopted, self.ended, self.concluded, self.deleted, self.moved_aside)
        ) or bool(self.kernels_ended)

    def __str__(self) -> str:
        parts = [
            f"kernels adopted: {', '.join(self.adopted)}" if self.adopted else "",
            *(f"kernel of '{name}' gone ({how})" for name, how in self.ended.items()),
            *(f"executions {status}: {count}" for status, count in self.concluded.items()),
            f"deletions finished: {', '.join(self.deleted)}" if self.deleted else "",
            f"stray kernels ended: {self.kernels_ended}" if self.kernels_ended else "",
            f"leftovers removed: {self.removed}" if self.removed else "",
            f"unreadable database moved to {self.moved_aside}" if self.moved_aside else "",
        ]
        found = "; ".join(filter(None, parts))
        return f"The server before did not end in order. {found}." if found else "Nothing was left."


class Recovery:
    """One recovery, at the start of a server.

    Args:
        store: Open.
        engine: With the fork servers that it found.
        state: The state directory, ours.
        make_session: Makes a session of its record.
    """

    def __init__(
        self,
        store: Store,
        engine: LocalEngine,
        state: StateDirectory,
        make_session: Callable[[SessionRecord], Session],
    ) -> None:
        self._store = store
        self._engine = engine
        self._state = state
        self._make_session = make_session
        self._sessions: dict[str, Session] = {}
        self._opened: dict[str, list[Execution]] = {}
        self._concluded: Counter[str] = Counter()
        #: processes of live checkpoints that go on, by id
        self.frozen: dict[str, FrozenKernel] = {}
        #: paths that belong to nothing, for `remove_garbage`
        self.garbage: list[Path] = []
        self.report = RecoveryReport()

    async def run(self) -> dict[str, Session]:
        """Recover; return the sessions by id.

        Raises:
            StoreError: The store can't be read.
        """
        if self._store.moved_aside is not None:
            self.report.moved_aside = str(self._store.moved_aside)
        for record in await self._store.sessions():
            session = self._make_session(record)
            session.is_stored = True
            self._sessions[record.id] = session
        for execution in await self._store.open_executions():
            self._opened.setdefault(execution.session_id, []).append(execution)
        for name, session in self._sessions.items():
            opened = self._opened.get(name, [])
            self._opened[name] = await with_what_ran(opened, session.journal)
        kernels = await self._store.kernels()
        live = await self._store.live_checkpoints()
        for known in (*kernels.values(), *live.values()):  # before anybody looks at families
            if known.start == BranchProcess.start:
                branches[known.pid] = known.started
        for name, known in live.items():
            if (frozen := self._engine.adopt_frozen(known)) is not None:
                self.frozen[name] = frozen
        ends = {name: end for name in self._sessions if (end := await self._adopt(name, kernels))}
        crash_point("recover.adopted")
        # From here on every kernel that lives is a session's: what files say is final.
        self.report.kernels_ended = await self._engine.end_unclaimed()
        dead = await asyncio.to_thread(self._find_unclaimed, kernels)
        await asyncio.to_thread(end_groups, dead)
        await asyncio.to_thread(end_strays, dead)
        for name in self._sessions:
            await self._conclude(name, ends.get(name))
        for record in await self._store.deletions():
            await self._store.delete_session(record.id)
            self.report.deleted.append(record.id)
        self.report.concluded = dict(self._concluded)
        self.garbage = await asyncio.to_thread(self._find_garbage, kernels)
        self.report.removed = len(self.garbage)
        crash_point("recover.swept")
        for name in ends:  # only now: a server that is killed before has told nobody
            await self._store.forget_kernel(name)
        return self._sessions

    async def remove_garbage(self) -> None:
        """Remove what belongs to nothing, in the background: environments can be large."""
        for path in self.garbage:
            await remove(path)
        for session in list(self._sessions.values()):
            # In this order: what begins meanwhile has no file among those found.
            folder = session.spill_dir
            found = await in_thread(reading.names, folder.parent, folder.name)
            known = await self._store.execution_ids(session.id)
            await in_thread(remove_spills, folder, found, known)

    async def _adopt(self, name: str, kernels: dict[str, KernelRecord]) -> Exit | None:
        """Adopt a session's kernel; return how it ended if it can't be."""
        record = kernels.get(name)
        if record is None:
            return None
        session = self._sessions[name]
        if not session.record.status.has_kernel:  # suspended or closed, and then we were killed
            await self._store.forget_kernel(name)
            return None
        found = self._engine.adopt(record)
        if isinstance(found, Exit):
            self.report.ended[name] = str(found)
            session.death = f"it ended while its server was gone: {found}"
            await session.note("kernel.died", {"why": session.death})
            return found
        opened = self._opened.pop(name, [])
        # One at a time is sent: those before the last have ended, and nobody wrote down how.
        sent = [e for e in opened if e.status is not ExecutionStatus.QUEUED]
        self._opened[name] = sent[:-1]
        opened = [e for e in opened if e not in sent[:-1]]
        newest = None if opened else await self._store.newest_execution(name)
        last = sent[-1] if sent else newest
        known = await self._store.event_keys(last.id) if last else set[str]()
        session.adopt(found, opened, newest, known)
        self.report.adopted.append(name)
        return None

    async def _conclude(self, name: str, end: Exit | None) -> None:
        session = self._sessions[name]
        cause = session.death or "its kernel was given up when the server ended"
        opened = self._opened.pop(name, [])
        for outcome in await session.conclude(opened, end or Exit(None), cause):
            self._concluded[outcome] += 1
        if session.record.status is SessionStatus.PAUSED and session.kernel is None:
            session.record = replace(session.record, status=SessionStatus.ACTIVE)
            await session.note("execution.resumed")

    def _find_unclaimed(self, kernels: dict[str, KernelRecord]) -> set[str]:
        """Return the names of all kernels that were ever started and are no session's now."""
        started = {path.name for path in entries(self._state.runtime) if path.is_dir()}
        known = {name: Path(record.path).name for name, record in kernels.items()}
        return (started | {*known.values()}) - self._claimed(kernels)

    def _claimed(self, kernels: dict[str, KernelRecord]) -> set[str]:
        """Return the names of the kernels and frozen copies that go on."""
        records = [kernels[name] for name in self.report.adopted]
        records += [frozen.record for frozen in self.frozen.values()]
        return {Path(record.path).name for record in records}

    def _find_garbage(self, kernels: dict[str, KernelRecord]) -> list[Path]:
        kept = {session.record.directory for session in self._sessions.values()}
        sockets = self._claimed(kernels)
        garbage = [path for path in entries(self._state.sessions) if path.name not in kept]
        garbage += unused_below(self._state, kept)
        runtime = entries(self._state.runtime)
        return garbage + [path for path in runtime if path.is_dir() and path.name not in sockets]


def last_report(database: Path) -> tuple[datetime, RecoveryReport] | None:
    """Return when the newest server started on a database, and what it found; None: none did.

    Only reads, beside a server that may be running.

    Raises:
        sqlite3.Error: The database can't be read.
    """
    if not database.exists():
        return None
    connection = sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True)
    try:
        query = "SELECT at, data FROM events WHERE type = ? ORDER BY seq DESC LIMIT 1"
        row = connection.execute(query, (STARTED,)).fetchone()
    finally:
        connection.close()
    return (
        (datetime.fromtimestamp(row[0], UTC), RecoveryReport(**json.loads(row[1]))) if row else None
    )


def entries(folder: Path) -> list[Path]:
    """Return what is in a folder, which may be missing."""
    return sorted(folder.iterdir()) if folder.is_dir() else []


async def remove(path: Path) -> None:
    """Remove a file or a whole folder: its name at once, the rest beside what else is done.

    What is left when the server ends the next start removes.
    """
    aside = put_aside(path)
    if aside is not None:
        removing = in_thread(remove_tree, aside, name=f"remove {path.name}")
        await asyncio.wait([removing], timeout=bounds.REMOVE_SECONDS)


def remove_spills(folder: Path, found: list[str], known: set[str]) -> int:
    """Remove those of spill files that belong to executions which no record knows; count them."""
    stray = [name for name in found if Path(name).stem not in (known | {BACKGROUND})]
    for name in stray:
        with suppress(OSError):  # the folder is the kernel's, who may have put anything there
            writing.remove(folder.parent, f"{folder.name}/{name}")
    return len(stray)
