"""The service: create, list, switch, delete sessions, run code in them, look after them.

One `Sessions` owns a state directory, the kernels it started and one task group. It is an
async context manager: leaving it stops every kernel and closes everything. Its methods may
be called from any number of tasks of its event loop.
"""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio

from kernelry import bounds
from kernelry.apart import Apart, in_thread
from kernelry.artifacts import Artifacts
from kernelry.checkpoints import Checkpoints
from kernelry.config import Config
from kernelry.directory import Directory
from kernelry.engines import Started
from kernelry.errors import (
    ExecutionNotFoundError,
    InvalidArgumentError,
    KernelryError,
)
from kernelry.events import Events
from kernelry.foundation import Foundation
from kernelry.history import History, Replays
from kernelry.launching import KernelSource, Launches
from kernelry.lives import (
    STARTED,
    Branching,
    CleanUpReport,
    Lifecycle,
    Recovery,
    RecoveryReport,
    Supervisor,
    Suspension,
    carry_out,
    choose,
    find_stray,
    furnish,
)
from kernelry.models import (
    Execution,
    Health,
    InterruptReport,
    InterruptStep,
    OnError,
    SessionRecord,
    SessionSpec,
    SessionStatus,
)
from kernelry.session import DEFAULT, Run, Services, Session, health, isolated
from kernelry.shielding import abandon, given_up
from kernelry.specs import check_code, check_parent
from kernelry.store import Store
from kernelry.templates import applied
from kernelry.walls import Walls

log = logging.getLogger(__name__)

ARCHIVED = "~"  # in the id under which the history of a deleted session is kept


class Sessions(Directory):
    """All sessions of one state directory."""

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = config or Config()
        self._ground = Foundation(self.config)
        self.workspace = self._ground.workspace
        self._lifecycle: Lifecycle
        self._store: Store
        self._kernels: KernelSource
        self._filling: asyncio.Task[None]
        self._watching: asyncio.Task[None]
        self._services: Services
        self._launches: Launches
        self._is_leaving = self.config.keep_kernels
        #: what was found of the server before, and what became of it
        self.recovered = RecoveryReport()
        #: saved namespaces
        self.checkpoints: Checkpoints
        #: suspends and resumes
        self.suspension: Suspension
        self._tasks: asyncio.TaskGroup
        #: makes sessions of sessions
        self.branching: Branching
        #: the log of what happened
        self.events: Events
        #: what was run
        self.history: History
        #: runs it again
        self.replays: Replays
        #: data that sessions keep
        self.artifacts: Artifacts
        #: does what sessions' files ask for, in a share of threads for each
        self.apart = Apart()

    async def __aenter__(self) -> Self:
        await self._ground.open()
        self._store, self._launches = self._ground.store, self._ground.launches
        self.artifacts = self._ground.artifacts
        self._kernels = KernelSource(self.config, self._launches, self._ground.levels)
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        self._services = Services(
            store=self._store,
            artifacts=self.artifacts,
            keeper=self._ground.keeper,
            spawn=self._spawn,
            workspace=self.workspace,
            watch=self._ground.watch,
            start_kernel=self._kernels.start,
            apart=self.apart,
            launches=self._launches,
        )
        self.checkpoints = Checkpoints(self._services, self._kernels, self._sessions, self.config)
        self._lifecycle = Lifecycle(
            self._sessions, self._services, self._kernels, self.checkpoints, self.config
        )
        self.suspension = Suspension(self.checkpoints, self._lifecycle.check_room)
        self.branching = Branching(
            *(self._sessions, self._kernels, self.checkpoints, self._lifecycle, self.suspension)
        )
        self.events = Events(self._store)
        self.history = History(self._store)
        self.replays = Replays(self.history, self._sessions, self.create, self.run, self._spawn)
        try:
            await self._kernels.open()
            await self._load()
        except BaseException as error:
            # What a dead server left is kept for one that can start; a cancel ends it.
            self._is_leaving = isinstance(error, KernelryError)
            with anyio.CancelScope(shield=True):
                await abandon(self._tasks)
                await self._release()
            raise
        self._filling = self._spawn(self._kernels.keep_warm(), name="warm pool")
        watch = Supervisor(
            lambda: list(self._sessions.values()),
            self.workspace,
            self._spawn,
            self.suspension.suspend_unused,
            self.checkpoints,
            self.config.total_memory,
        )
        self._watching = self._spawn(watch.run(), name="supervisor")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # A cancelled server must still end its kernels; this takes about a second at most.
        # The scope keeps anyio from cancelling again and again, the loop asyncio from once.
        with anyio.CancelScope(shield=True):
            stopping = asyncio.ensure_future(self._stop_all())
            while not stopping.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.shield(stopping)
            await self._tasks.__aexit__(None, None, None)
            await self._release()
            stopping.result()

    @property
    def walls(self) -> Walls:
        """What stands between a session and the rest, unless it asked for more."""
        return self._launches.walls

    async def _release(self) -> None:
        if self._is_leaving:
            self._kernels.leave()
        else:
            await self._kernels.aclose()
        await self._ground.release(leave=self._is_leaving)

    @property
    def degraded(self) -> str:
        """What of the service itself does not work now, why, and the cure; empty: all does."""
        return self._store.degraded

    @property
    def fork_server_pid(self) -> int:
        """The process that kernels are forked from, or that guards them; 0: none yet."""
        return self._kernels.fork_server_pid

    @property
    def fork_server(self) -> Started | None:
        """What the fork server said when it started; None: not yet, or never."""
        return self._kernels.fork_server

    async def wait_until_warm(self) -> None:
        """Wait until the fork server and the warm kernels are there, or can't be had."""
        await self._kernels.wait_until_warm()

    def spill_dir(self, execution: Execution) -> Path:
        """Return where output of an execution is that was too much to be sent; may be gone."""
        session = self._sessions.get(execution.session_id)
        return session.spill_dir if session else self.sessions_dir / "gone" / "spill"

    @property
    def sessions_dir(self) -> Path:
        """Where sessions have their private directories."""
        return self._ground.state.sessions

    @property
    def state_dir(self) -> Path:
        """The state directory that was taken."""
        return self._ground.state.path

    async def create(
        self, spec: SessionSpec, *, reuse: bool = False, fresh: bool = False
    ) -> Session:
        """Create a session; see `create_or_reuse`."""
        return (await self.create_or_reuse(spec, reuse=reuse, fresh=fresh))[0]

    async def create_or_reuse(
        self, spec: SessionSpec, *, reuse: bool = True, fresh: bool = False
    ) -> tuple[Session, bool]:
        """Return a session whose kernel has answered, and whether it was made for this.

        Args:
            spec: What it shall be.
            fresh: Give it a process with a hash seed of its own instead of a fork.
            reuse: Return the session of that id if there is one, or about to be.

        Raises:
            InvalidArgumentError: It can't be what is asked for.
            SessionNotFoundError: There is no such parent.
            SessionExistsError: The id is taken.
            LimitExceededError: There are `max_sessions` already.
            KernelStartError: Its kernel did not start; there is no session then.
            InstallError: Its packages could not be installed; there is no session then.
        """
        spec = applied(self.config.templates, spec)
        await self._check_parent(spec)
        await self._lifecycle.settled(spec.id if reuse else "")
        session, is_new = await self._lifecycle.create(spec, reuse=reuse, fresh=fresh)
        if not is_new:
            await self.suspension.wake(session, by="create_session")
            await session.ensure_kernel()
            if spec.packages:
                await furnish(session, spec.packages)
        return session, is_new

    async def _check_parent(self, spec: SessionSpec) -> None:
        parent, execution_id = spec.parent_session_id, spec.parent_execution_id
        if parent:
            self.get(parent)
        if execution_id and (await self.execution(execution_id)).session_id != parent:
            msg = f"execution {execution_id} is not one of its parent '{parent}'"
            raise InvalidArgumentError(msg)
        check_parent(spec, list(self.ancestors(parent)))

    async def switch(self, caller: str, session_id: str) -> str:
        """Make a session what `caller` means by default; return what it was before.

        Starts the session's kernel if it has none. A dead kernel stays dead.

        Raises:
            SessionNotFoundError: There is none of that id.
        """
        session = self.get(session_id)
        previous = self.current_id(caller)
        if session.record.status.has_kernel or session.record.status is SessionStatus.SUSPENDED:
            await self.suspension.wake(session, by=caller)
        self._switched[caller] = session_id
        return previous

    async def delete(self, session_id: str, *, keep_history: bool = False) -> str:
        """End a session's kernel and forget the session, its history and its files.

        Workspace files stay.

        Args:
            session_id: Which.
            keep_history: Keep what it ran.

        Returns:
            The id under which `history` has what it ran; empty: that is gone.

        Raises:
            ConflictError: It is the default session.
            SessionNotFoundError: There is none of that id.
        """
        return await self._lifecycle.delete(self.get(session_id), keep_history=keep_history)

    async def close(
        self, session: Session, outcome: SessionStatus = SessionStatus.COMPLETED, reason: str = ""
    ) -> None:
        """End a session's kernel for good; its record, history and artifacts stay.

        Args:
            session: Which.
            outcome: COMPLETED, FAILED (may be resumed) or CANCELLED.
            reason: Why, in a line.

        Raises:
            InvalidArgumentError: The reason can't be kept.
            TransitionError: It has ended already.
            ConflictError: It is the default session, or is to be completed and runs code.
        """
        await self._lifecycle.close(session, outcome, reason)

    async def update(
        self,
        session: Session,
        *,
        description: str | None = None,
        tags: tuple[str, ...] | None = None,
        metadata: dict[str, Any] | None = None,
        context: dict[str, Any] | None = None,
    ) -> None:
        """Change what is said of a session; None leaves it as it is.

        Args:
            session: Which.
            description: One line.
            tags: All of them.
            metadata: All of it.
            context: Values to set; None as a value removes one. Running code sees it.

        Raises:
            InvalidArgumentError: It can't carry that; nothing was changed.
        """
        await self._lifecycle.update(
            session, description=description, tags=tags, metadata=metadata, context=context
        )

    async def run(
        self,
        session: Session,
        code: str,
        *,
        timeout: float | None = None,
        on_error: OnError = OnError.KEEP,
    ) -> Run:
        """Queue code in a session; it runs whether or not anybody waits.

        Args:
            session: Where.
            code: Python, with IPython's magics; up to 4 MiB.
            timeout: Seconds it may run; None: the configured `execution_timeout`.
            on_error: What becomes of the variables if it does not complete.

        Raises:
            InvalidArgumentError: The code can't be sent.
            KernelDeadError: The session's kernel died; nothing was queued.
        """
        check_code(code)
        if session.record.status is SessionStatus.SUSPENDED:
            await self.suspension.wake(session, by="an execution")
        return await session.submit(
            code, self.config.execution_timeout if timeout is None else timeout, on_error
        )

    async def execution(self, execution_id: str) -> Execution:
        """Return an execution as far as it is, from memory or from the store.

        Raises:
            ExecutionNotFoundError: There is none of this id.
        """
        if live := self.live_run(execution_id):
            return live[1].snapshot()
        found = await self._store.execution(execution_id)
        is_kept = found is not None and ARCHIVED in found.session_id
        if found is None or not (is_kept or found.session_id in self._sessions):
            msg = (
                f"no execution {execution_id[:64]!r}. Ids come from run_python_code; those of "
                "deleted sessions are gone."
            )
            raise ExecutionNotFoundError(msg)
        return found

    async def interrupt(self, execution_id: str, *, force: bool = False) -> InterruptReport:
        """Stop one execution; see `Session.interrupt`.

        Raises:
            ExecutionNotFoundError: There is none of this id.
        """
        live = self.live_run(execution_id)
        if live is None:
            await self.execution(execution_id)
            return InterruptReport(step=InterruptStep.NOTHING_RUNNING, execution_id=execution_id)
        session, run = live
        return await session.interrupt(run, force=force)

    def interrupt_soon(self, session: Session, run: Run) -> None:
        """Interrupt a run without waiting: whoever asked is gone."""

        async def interrupt() -> None:
            await session.interrupt(run)

        self._spawn(interrupt(), name=f"interrupt {run.id}")

    async def health(self, session: Session) -> Health:
        """Say how a session's kernel is, within 300 ms, whatever it does."""
        return replace(await health.check(session), degraded=self.degraded)

    async def clean_up(
        self,
        *,
        older_than: float | None = None,
        session_ids: Sequence[str] | None = None,
        dry_run: bool = False,
    ) -> CleanUpReport:
        """Delete sessions that nobody uses, and what belongs to no session.

        Args:
            older_than: Delete sessions that have been idle for so many seconds (by a clock that
                does not jump); None: age does not matter.
            session_ids: Only these, globs; None: all but `default`. With neither none is deleted.
            dry_run: Only say what would be.

        Returns:
            What went, and which of the named sessions stay and why.

        Raises:
            SessionNotFoundError: One of the ids is unknown; nothing was done.
        """
        named = None if session_ids is None else self.matching(session_ids)
        chosen, kept = choose(named, self._sessions.values(), older_than=older_than)
        known = {session.directory.name for session in self._sessions.values()}
        known |= self._launches.made
        stray = await in_thread(find_stray, self.sessions_dir, known)
        report = CleanUpReport(
            deleted=[session.id for session in chosen],
            kept=kept,
            removed=[path.name for path in stray],
            dry_run=dry_run,
        )
        if not dry_run:
            await carry_out(report, chosen, stray, self.delete)
        return report

    def _spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        return self._tasks.create_task(isolated(work, name), name=name)

    async def _load(self) -> None:
        """Take over what the server before us had."""
        recovery = Recovery(
            self._store, self._kernels.engine, self._ground.state, self._lifecycle.make
        )
        self._sessions.update(await recovery.run())
        self.recovered = recovery.report
        await self.checkpoints.recover(recovery.frozen)
        if recovery.garbage:
            self._spawn(recovery.remove_garbage(), name="remove what a dead server left")
        self._spawn(self._bring_artifacts_up_to_date(), name="artifacts of a dead server")
        if DEFAULT not in self._sessions:
            record = SessionRecord(id=DEFAULT, description="The session that is always there")
            session = self._lifecycle.make(record)
            await self._store.save_session(session.record, "session.created")
            session.is_stored = True
            self._sessions[DEFAULT] = session
        if self.recovered.is_worth_telling:
            log.warning("%s", self.recovered)
        await self._store.add_event(STARTED, asdict(self.recovered))

    async def _bring_artifacts_up_to_date(self) -> None:
        await self.artifacts.sweep()
        await self._ground.keeper.catch_up(
            lambda name: self._sessions[name].spill_dir if name in self._sessions else None
        )

    async def _stop_all(self) -> None:
        if self._is_leaving:
            await self._kernels.find_guardian()
        self._filling.cancel()
        self._watching.cancel()
        await asyncio.wait([self._filling, self._watching])
        sessions = self._sessions.values()
        if self._is_leaving:
            ends = [session.leave() for session in sessions]
        else:
            save = self.config.save_on_stop
            ends = [self.suspension.end(session, save=save) for session in sessions]
        self.checkpoints.live.is_closed = True
        failures = await asyncio.gather(*ends, return_exceptions=True)
        going_on = [*self._lifecycle.unfinished, *self.checkpoints.unfinished]
        failures += await given_up(going_on, bounds.END_SECONDS)
        await self.checkpoints.close(leave=self._is_leaving)
        for failure in failures:
            if isinstance(failure, Exception):
                log.error("a kernel could not be stopped", exc_info=failure)
        await self._kernels.drain()
