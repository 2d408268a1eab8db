"""The service: create, list, switch, delete sessions, run code in them, look after them.

One `Sessions` owns a state directory, the kernels it started and one task group. It is an
async context manager: leaving it stops every kernel and closes everything. Its methods may
be called from any number of tasks of its event loop.
"""

import asyncio
import fnmatch
import logging
import os
import secrets
import shutil
import sys
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio

from carrel import health, scripts
from carrel.config import AUTO_PRELOADS, Config, interpreter, kernel_environment
from carrel.engines.forkserver import Profile, Started
from carrel.engines.launch import Launch
from carrel.engines.local import LocalEngine, LocalKernel
from carrel.engines.pool import WarmPool
from carrel.environments import InstallReport, SessionEnvironment, parse_requirements
from carrel.errors import (
    ConflictError,
    ExecutionNotFoundError,
    KernelSilentError,
    KernelStartError,
    LimitExceededError,
    SessionExistsError,
    SessionNotFoundError,
)
from carrel.models import (
    Execution,
    Health,
    InterruptReport,
    InterruptStep,
    SessionRecord,
    SessionSpec,
    SessionStatus,
)
from carrel.paths import StateDirectory, Workspace, claim_state_directory
from carrel.programs import Completed, run_program
from carrel.run import Run, left_open
from carrel.session import Services, Session
from carrel.specs import check_code, check_spec
from carrel.store import Store

log = logging.getLogger(__name__)

DEFAULT = "default"
NAMED_IDS = 20  # ids that "unknown session" lists
STOP_GRACE = 0.5  # seconds an idle kernel has for its exit handlers when all stop


class Sessions:
    """All sessions of one state directory."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or Config()
        self._python = interpreter(self.config.python)
        self.workspace = Workspace(self.config.workspace.expanduser().absolute())
        self._sessions: dict[str, Session] = {}
        self._switched: dict[str, str] = {}
        self._reserved: set[str] = set()
        self._finishing: set[asyncio.Task[None]] = set()
        self._state: StateDirectory
        self._store: Store
        self._engine: LocalEngine
        self._pool: WarmPool
        self._filling: asyncio.Task[None]
        self._services: Services
        self._tasks: asyncio.TaskGroup

    async def __aenter__(self) -> Self:
        if not os.access(self._python, os.X_OK):
            msg = f"there is no interpreter {self._python} to run kernels with (--python)"
            raise KernelStartError(msg)
        self.workspace.create()
        path = self.config.state_dir.expanduser().absolute()
        self._state = claim_state_directory(path, explicit=self.config.state_dir_named)
        try:
            self._store = Store(self._state.database)
            await self._store.open()
        except BaseException:
            self._state.release()
            raise
        forced = self.config.kernel_start == "fork"
        self._engine = LocalEngine(self._state.runtime, self._profile(), forced=forced)
        self._pool = WarmPool(self._engine, self.config.warm, self._new_launch)
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        self._services = Services(
            store=self._store,
            spawn=self._spawn,
            workspace=self.workspace,
            start_kernel=self._start_kernel,
        )
        try:
            if forced:  # what was asked for and can't be had is an error now, not later
                await self._engine.ensure_fork_server(self._new_launch())
            await self._load()
        except BaseException:
            await self._tasks.__aexit__(None, None, None)
            await self._release()
            raise
        self._filling = self._spawn(self._pool.run(), name="warm pool")
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

    async def _release(self) -> None:
        await self._engine.aclose()
        await self._store.aclose()
        self._state.release()

    @property
    def fork_server(self) -> Started | None:
        """What the fork server said when it started; None: not yet, or never."""
        return self._engine.started

    async def wait_until_warm(self) -> None:
        """Wait until the fork server and the warm kernels are there, or can't be had."""
        await self._pool.settled.wait()

    @property
    def state_dir(self) -> Path:
        """The state directory that was taken."""
        return self._state.path

    async def create(
        self, spec: SessionSpec, *, reuse: bool = False, fresh: bool = False
    ) -> Session:
        """Create a session; returns when its kernel has answered.

        Args:
            spec: What it shall be.
            fresh: Give it a fresh process, with a hash seed and an address layout of its own,
                instead of a fork.
            reuse: Return the session of that id if there is one, with its kernel running.

        Raises:
            InvalidArgumentError: Id, tags or metadata can't be used.
            SessionExistsError: The id is taken.
            LimitExceededError: There are `max_sessions` already.
            KernelStartError: Its kernel did not start; there is no session then.
        """
        check_spec(spec)
        session_id = spec.id or self._free_id()
        if existing := self._sessions.get(session_id):
            if not reuse:
                msg = (
                    f"session '{session_id}' exists already. Use it, pass if_exists='reuse', or "
                    "choose another id."
                )
                raise SessionExistsError(msg)
            await existing.ensure_kernel()
            return existing
        self._check_room(session_id)
        self._reserved.add(session_id)
        try:
            record = SessionRecord(
                id=session_id,
                description=spec.description,
                tags=spec.tags,
                metadata=spec.metadata,
            )
            warm = None if fresh else self._pool.take()
            if warm is not None:
                record = replace(record, directory=warm.launch.directory.name)
            session = self._adopt(record)
            session.needs_fresh_kernel = fresh
            try:
                await self._store.add_session(session.record)
                if warm is not None:
                    await session.adopt_kernel(warm.kernel)
                else:
                    await session.ensure_kernel()
            except BaseException:
                if warm is not None and session.kernel is None:
                    await self._finish(warm.kernel.shutdown(grace=0))
                await self._finish(self._forget(session, grace=0))
                raise
            self._sessions[session_id] = session
            return session
        finally:
            self._reserved.discard(session_id)

    def get(self, session_id: str) -> Session:
        """Return a session.

        Raises:
            SessionNotFoundError: There is none of this id; the message names those there are.
        """
        session = self._sessions.get(session_id)
        if session is None:
            known = sorted(self._sessions)
            listing = ", ".join(known[:NAMED_IDS]) + (" ..." if len(known) > NAMED_IDS else "")
            shown = repr(session_id if len(session_id) <= 64 else session_id[:64] + "...")
            msg = f"no session {shown}. There are: {listing}. create_session makes one."
            raise SessionNotFoundError(msg)
        return session

    def list(
        self,
        *,
        status: SessionStatus | None = None,
        tags: tuple[str, ...] = (),
        name: str = "",
        limit: int | None = None,
    ) -> Sequence[Session]:
        """Return sessions in the order of their creation; `default` comes first.

        Args:
            status: Only those with this status.
            tags: Only those with all of these tags.
            name: Only those whose id matches this glob.
            limit: At most so many.
        """
        found = [
            session
            for session in self._sessions.values()
            if (status is None or session.record.status is status)
            and set(tags) <= set(session.record.tags)
            and (not name or fnmatch.fnmatchcase(session.id, name))
        ]
        found.sort(key=lambda s: (s.id != DEFAULT, s.record.created_at, s.id))
        return found[:limit]

    def current_id(self, caller: str) -> str:
        """Return the id that `caller` means when it names none."""
        switched = self._switched.get(caller, DEFAULT)
        return switched if switched in self._sessions else DEFAULT

    def find(self, caller: str, session_id: str | None) -> Session:
        """Return the session that `caller` means.

        Raises:
            SessionNotFoundError: There is none of that id.
        """
        return self.get(self.current_id(caller) if session_id is None else session_id)

    async def switch(self, caller: str, session_id: str) -> str:
        """Make a session what `caller` means by default; return what it was before.

        Starts the session's kernel if it has none. A dead kernel stays dead.

        Raises:
            SessionNotFoundError: There is none of that id.
        """
        session = self.get(session_id)
        previous = self.current_id(caller)
        if session.kernel is None and not session.death:
            await session.ensure_kernel()
        self._switched[caller] = session_id
        return previous

    async def delete(self, session_id: str) -> None:
        """End a session's kernel and forget the session, its history and its files.

        Workspace files stay.

        Raises:
            ConflictError: It is the default session.
            SessionNotFoundError: There is none of that id.
        """
        if session_id == DEFAULT:
            raise ConflictError("the session 'default' can't be deleted; restart_kernel empties it")
        session = self.get(session_id)
        # Gone for everybody else at once; what is awaited afterwards can't be raced.
        del self._sessions[session_id]
        self._reserved.add(session_id)
        try:
            await self._finish(self._forget(session, grace=STOP_GRACE))
        finally:
            self._reserved.discard(session_id)
            self._switched = {c: s for c, s in self._switched.items() if s != session_id}

    async def run(self, session: Session, code: str, *, timeout: float | None = None) -> Run:
        """Queue code in a session; it runs whether or not anybody waits.

        Args:
            session: Where.
            code: Python, with IPython's magics; up to 4 MiB.
            timeout: Seconds it may run; None: the configured `execution_timeout`.

        Raises:
            InvalidArgumentError: The code can't be sent.
            KernelDeadError: The session's kernel died; nothing was queued.
        """
        check_code(code)
        return await session.submit(
            code, self.config.execution_timeout if timeout is None else timeout
        )

    def live_run(self, execution_id: str) -> tuple[Session, Run] | None:
        """Return an execution that is queued, running or just finished."""
        for session in self._sessions.values():
            if run := session.find(execution_id):
                return session, run
        return None

    async def execution(self, execution_id: str) -> Execution:
        """Return an execution as far as it is, from memory or from the store.

        Raises:
            ExecutionNotFoundError: There is none of this id.
        """
        if live := self.live_run(execution_id):
            return live[1].snapshot()
        found = await self._store.execution(execution_id)
        if found is None or found.session_id not in self._sessions:
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

    async def install(
        self, session: Session, packages: Sequence[str], *, timeout: float
    ) -> InstallReport:
        """Install packages into one session; its kernel can import them at once.

        Args:
            session: Where; no other session sees them.
            packages: PEP 508 strings.
            timeout: Seconds it may take.

        Raises:
            InvalidArgumentError: A package is not such a string; nothing was done.
            InstallError: The environment could not be made.
        """
        requirements = parse_requirements(packages)
        done = await session.environment.install(requirements, timeout=timeout)
        if not done.installed:
            return InstallReport(installation=done)
        names = [pin.split("==")[0] for pin in done.installed]
        try:
            stale = await session.adopt_environment(names)
        except KernelSilentError:
            # In native code now: it can't be told. A restart will find the environment.
            stale = names
        return InstallReport(installation=done, stale_modules=tuple(stale))

    async def run_script(
        self, session: Session, path: str, args: Sequence[str], *, timeout: float
    ) -> Completed:
        """Run a script of the workspace as a subprocess in a session's environment.

        Raises:
            ScriptNotFoundError: There is none at that path.
        """
        script = scripts.find_script(self.workspace, path)
        env = session.environment.variables(kernel_environment(session.directory))
        paths = [str(self.workspace.scripts), *filter(None, [env.get("PYTHONPATH")])]
        env["PYTHONPATH"] = os.pathsep.join(paths)
        argv = [str(session.environment.python), str(script), *args]
        return await run_program(argv, env=env, cwd=self.workspace.root, timeout=timeout)

    async def health(self, session: Session) -> Health:
        """Say how a session's kernel is, within 300 ms, whatever it does."""
        return await health.check(session)

    def _spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        return self._tasks.create_task(work, name=name)

    def _profile(self) -> Profile | None:
        """Return what the fork server is started with; None: kernels are spawned."""
        if self.config.kernel_start == "spawn" or sys.platform != "linux":
            return None
        preloads = self.config.preloads
        return Profile(
            python=self._python,
            preloads=AUTO_PRELOADS if preloads is None else preloads,
            optional=preloads is None,
            env=kernel_environment(self._state.path),
            directory=self._state.runtime,
            log_file=self._state.path / "forkserver.log",
            orphan_timeout=self.config.orphan_timeout,
        )

    async def _start_kernel(self, session: Session) -> LocalKernel:
        self._pool.begin_start()
        try:
            return await self._engine.start(self._launch(session), fresh=session.needs_fresh_kernel)
        finally:
            self._pool.end_start()

    def _launch(self, session: Session) -> Launch:
        launch = self._new_launch(session.directory)
        environment = session.environment
        return replace(launch, environment=environment.paths if environment.exists else None)

    def _new_launch(self, directory: Path | None = None) -> Launch:
        directory = directory or self._state.sessions / secrets.token_hex(8)
        return Launch(
            python=self._python,
            workspace=self.workspace.root,
            directory=directory,
            env=kernel_environment(directory),
            output=self.config.output,
        )

    def _adopt(self, record: SessionRecord) -> Session:
        if not record.directory:
            record = replace(record, directory=secrets.token_hex(8))
        directory = self._state.sessions / record.directory
        environment = SessionEnvironment(directory / "env", self._python)
        return Session(record, directory, environment, self._services)

    def _free_id(self) -> str:
        while (made := f"session-{secrets.token_hex(4)}") in self._sessions:
            pass
        return made

    def _check_room(self, session_id: str) -> None:
        if session_id in self._reserved:
            msg = f"session '{session_id}' is being created or deleted right now; try again"
            raise SessionExistsError(msg)
        if len(self._sessions) + len(self._reserved) >= self.config.max_sessions:
            msg = (
                f"there are {self.config.max_sessions} sessions, the limit of this server "
                "(max_sessions). Delete one that is not needed with delete_session."
            )
            raise LimitExceededError(msg)

    async def _finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Do work to its end, also if whoever waits for it is cancelled."""
        task = asyncio.ensure_future(work)
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)
        await asyncio.shield(task)

    async def _forget(self, session: Session, *, grace: float) -> None:
        await session.stop(grace=grace, why="the session was deleted")
        await self._store.delete_session(session.id)
        await asyncio.to_thread(shutil.rmtree, session.directory, ignore_errors=True)

    async def _load(self) -> None:
        """Take over the records of the server before us; its kernels are gone."""
        for record in await self._store.sessions():
            self._sessions[record.id] = self._adopt(record)
        for execution in await self._store.open_executions():
            await self._store.finish_execution(left_open(execution))
        if DEFAULT not in self._sessions:
            record = SessionRecord(id=DEFAULT, description="The session that is always there")
            session = self._adopt(record)
            await self._store.add_session(session.record)
            self._sessions[DEFAULT] = session

    async def _stop_all(self) -> None:
        self._filling.cancel()
        await asyncio.wait([self._filling])
        stops = [
            session.stop(grace=0 if session.current else STOP_GRACE, why="the server was shut down")
            for session in self._sessions.values()
        ]
        for failure in await asyncio.gather(*stops, *self._finishing, return_exceptions=True):
            if isinstance(failure, BaseException):
                log.error("a kernel could not be stopped", exc_info=failure)
        await self._pool.drain()
