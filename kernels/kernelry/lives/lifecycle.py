"""How sessions begin and end: with their kernel at once, or not at all.

A session is written down together with its first kernel, and its end has begun in the store
before anything of it is removed: whenever the server is killed, the next one finds no half
a session.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio

from kernelry.checkpoints import Checkpoints
from kernelry.config import Config, interpreter
from kernelry.crashpoints import crash_point
from kernelry.errors import (
    ConflictError,
    InstallError,
    InvalidArgumentError,
    SessionExistsError,
    StoreError,
)
from kernelry.launching import KernelSource, narrow, stronger
from kernelry.lives.areas import unused_above
from kernelry.lives.recovery import remove
from kernelry.models import SessionRecord, SessionSpec, SessionStatus
from kernelry.session import DEFAULT, Services, Session, with_changes
from kernelry.shielding import Unfinished
from kernelry.specs import check_room, check_spec, check_text, check_values
from kernelry.transitions import changed, check

STOP_GRACE = 0.5  # seconds an idle kernel has for its exit handlers
FURNISH_TIMEOUT = 600.0  # seconds for the packages of a new session


class Lifecycle:
    """Creates, changes, closes and deletes the sessions of one service.

    Args:
        sessions: Those that there are, by id; kept up to date.
        services: What sessions use.
        kernels: Where their kernels come from.
        checkpoints: Their saved namespaces, which go with them.
        config: How the service was set up.
    """

    def __init__(
        self,
        sessions: dict[str, Session],
        services: Services,
        kernels: KernelSource,
        checkpoints: Checkpoints,
        config: Config,
    ) -> None:
        self._sessions = sessions
        self._services = services
        self._kernels = kernels
        self._checkpoints = checkpoints
        self._limit = config.max_sessions
        #: ids that are about to come or to go, until they have
        self._reserved: dict[str, asyncio.Event] = {}
        #: what goes on though nobody may wait for it any more
        self.unfinished = Unfinished()

    async def create(
        self, spec: SessionSpec, *, reuse: bool = False, fresh: bool = False
    ) -> tuple[Session, bool]:
        """Return a session, and whether it is new; see `Sessions.create`."""
        check_spec(spec)
        walls = narrow(self._kernels.walls, spec)
        session_id = spec.id or self._free_id()
        if existing := self._sessions.get(session_id):
            if not reuse:
                msg = (
                    f"session '{session_id}' exists already. Use it, pass if_exists='reuse', or "
                    "choose another id."
                )
                raise SessionExistsError(msg)
            if spec.python and interpreter(Path(spec.python)) != existing.environment.parent:
                msg = f"session '{session_id}' exists with {existing.environment.parent}"
                raise SessionExistsError(msg)
            if stronger(existing.walls, spec) != existing.walls:
                msg = f"session '{session_id}' exists with weaker walls or higher limits"
                raise SessionExistsError(msg)
            return existing, False
        self.check_room(session_id)
        coming = self._reserved[session_id] = asyncio.Event()
        try:
            record = SessionRecord(
                id=session_id,
                description=spec.description,
                tags=spec.tags,
                metadata=spec.metadata,
                fresh=fresh,
                isolation=spec.isolation,
                network=spec.network,
                limits=spec.limits,
                parent_session_id=spec.parent_session_id,
                parent_execution_id=spec.parent_execution_id,
                context=spec.context,
                stdin=spec.stdin,
                template=spec.template,
                startup=spec.startup,
                rewind=spec.rewind,
                python=await self._kernels.own_python(spec.python),
            )
            crash_point("create.begun")
            warm = None if fresh or record.python else self._kernels.take_warm(walls)
            if warm is not None:
                record = replace(record, directory=warm.launch.directory.name)
            session = self.make(record)
            try:
                # Written down when it has its kernel: there is no half a session to find.
                if warm is not None:
                    await session.take_kernel(warm.kernel)
                else:
                    await session.ensure_kernel()
            except BaseException:
                with anyio.CancelScope(shield=True):  # the id is taken until it is gone
                    if warm is not None and session.kernel is None:
                        await self.unfinished.finish(warm.kernel.shutdown(grace=0))
                    await self.unfinished.finish(self._forget(session, grace=0))
                raise
            self._sessions[session_id] = session
            try:
                if spec.packages or spec.startup:
                    await furnish(session, spec.packages)
            except BaseException:
                await self.discard(session)
                raise
            return session, True
        finally:
            self._settle(session_id, coming)

    async def delete(self, session: Session, *, keep_history: bool = False) -> str:
        """See `Sessions.delete`."""
        session_id = session.id
        if session_id == DEFAULT:
            raise ConflictError("the session 'default' can't be deleted; restart_kernel empties it")
        # Gone for everybody else at once; what is awaited afterwards can't be raced.
        del self._sessions[session_id]
        session.is_gone = True
        going = self._reserved[session_id] = asyncio.Event()

        async def forget() -> str:  # to its end, and the id is taken until then
            try:
                return await self._forget(session, grace=STOP_GRACE, keep_history=keep_history)
            except StoreError:  # nothing was forgotten
                self._sessions[session_id], session.is_gone = session, False
                raise
            finally:
                self._settle(session_id, going)

        return await self.unfinished.finish(forget())

    def _settle(self, session_id: str, done: asyncio.Event) -> None:
        """Note that a session has come or gone; it may go while it is being furnished."""
        done.set()
        if self._reserved.get(session_id) is done:
            del self._reserved[session_id]

    async def settled(self, session_id: str) -> None:
        """Wait until a session of an id has come or gone, if it is about to."""
        while (coming := self._reserved.get(session_id)) is not None:
            await coming.wait()

    def is_reserved(self, session_id: str) -> bool:
        """Say whether a session of an id is about to come or to go."""
        return session_id in self._reserved

    @asynccontextmanager
    async def reserved(self, ids: Sequence[str]) -> AsyncIterator[None]:
        """Keep ids for sessions that are about to come.

        Raises:
            SessionExistsError: One is taken; then none is kept.
            LimitExceededError: There would be more sessions than there may be.
        """
        coming: dict[str, asyncio.Event] = {}
        try:
            for name in ids:
                if name in self._sessions:
                    msg = f"session '{name}' exists already, so no branch was made: choose others"
                    raise SessionExistsError(msg)
                self.check_room(name)
                coming[name] = self._reserved[name] = asyncio.Event()
            yield
        finally:
            for name, event in coming.items():
                self._settle(name, event)

    async def forget(self, session: Session) -> None:
        """Remove a session that did not come to be, and what there is of it."""
        await self.unfinished.finish(self._forget(session, grace=0))

    async def discard(self, session: Session) -> None:
        """Delete a session that can't become what was asked for."""
        if self._sessions.get(session.id) is session:
            with anyio.CancelScope(shield=True):
                await self.delete(session)

    def check_room(self, session_id: str) -> None:
        """Refuse a session that would have a kernel when there are as many as there may be.

        Raises:
            LimitExceededError: There are as many.
            SessionExistsError: The id is in use for the moment.
        """
        check_room(
            session_id,
            reserved=self._reserved,
            existing=sum(
                session.record.status.has_kernel
                for name, session in self._sessions.items()
                if name not in self._reserved  # one that is being furnished is in both
            ),
            limit=self._limit,
        )

    async def close(self, session: Session, outcome: SessionStatus, reason: str) -> None:
        """See `Sessions.close`."""
        if session.id == DEFAULT:
            raise ConflictError("the session 'default' can't be closed; restart_kernel empties it")
        check_text("the reason", reason)
        check(session.record, outcome)
        if outcome is SessionStatus.COMPLETED and session.is_busy:
            msg = (
                f"session '{session.id}' runs code, so it is not completed. Wait, interrupt it, "
                "or close it as cancelled."
            )
            raise ConflictError(msg)
        # At once: what comes from here on is told that it is over.
        session.record = changed(session.record, outcome, reason)

        async def close() -> None:
            await session.note(f"session.{outcome}", {"reason": reason})
            await session.stop(grace=STOP_GRACE, why=f"the session was closed as {outcome}")
            session.forget_death()
            if outcome is not SessionStatus.FAILED:  # nothing comes back into it
                live = self._checkpoints.live.of(session.id)
                await self._checkpoints.drop(live, f"its session was closed as {outcome}")

        await self.unfinished.finish(close())

    async def update(
        self,
        session: Session,
        *,
        description: str | None,
        tags: tuple[str, ...] | None,
        metadata: dict[str, Any] | None,
        context: dict[str, Any] | None,
    ) -> None:
        """See `Sessions.update`."""
        record = session.record
        spec = SessionSpec(
            id=record.id,
            description=record.description if description is None else description,
            tags=record.tags if tags is None else tags,
            metadata=record.metadata if metadata is None else metadata,
        )
        check_spec(spec)
        values = {key: value for key, value in (context or {}).items() if value is not None}
        removed = [key for key, value in (context or {}).items() if value is None]
        merged = with_changes(record.context, values, removed)
        check_values("context", merged)
        session.record = replace(
            record,
            description=spec.description,
            tags=spec.tags,
            metadata=spec.metadata,
            context=merged,
        )
        given = {"description": description, "tags": tags, "metadata": metadata, "context": context}
        data = {name: value for name, value in given.items() if value is not None}
        await session.note("session.updated", data)
        if context:
            await session.notes.tell_context(values, removed)

    def make(self, record: SessionRecord) -> Session:
        """Return the session of a record, without a kernel yet."""
        launches = self._services.launches
        if not record.directory:
            record = replace(record, directory=launches.new_name())
        directory = launches.state.place(record.directory)
        python = Path(record.python) if record.python else launches.python
        environment = launches.session_environment(directory, python)
        return Session(record, directory, environment, self._services)

    def _free_id(self) -> str:
        while (made := f"session-{secrets.token_hex(4)}") in self._sessions:
            pass
        return made

    async def _forget(self, session: Session, *, grace: float, keep_history: bool = False) -> str:
        store = self._services.store
        kept = ""
        if keep_history:  # first: if it can't be kept, the session stays as it is
            await session.stop(grace=grace, why="the session was deleted")
            checkpoints = await self._checkpoints.known(session.id)
            kept = await store.archive_session(session.id)
        else:
            await store.begin_deletion(session.id)
            crash_point("delete.begun")
            await session.stop(grace=grace, why="the session was deleted")
            crash_point("delete.stopped")
            checkpoints = await self._checkpoints.known(session.id)
            await store.delete_session(session.id)
        crash_point("delete.forgotten")
        await self._services.artifacts.remove_unused()
        await self._checkpoints.remove_files(checkpoints, of=session.id)
        await self.remove_folders(session)
        return kept

    async def remove_folders(self, session: Session) -> None:
        """Remove the private directory of a session that is gone, and areas that nobody needs."""
        await remove(session.directory)
        launches = self._services.launches
        launches.made.discard(session.record.directory)
        used = launches.made | {one.record.directory for one in self._sessions.values()}
        for area in unused_above(launches.state, session.directory, used):
            await remove(area)


async def furnish(session: Session, packages: Sequence[str]) -> None:
    """Install what a new session shall have, and run what it shall begin with.

    Args:
        session: A session that was just made.
        packages: PEP 508 strings.

    Raises:
        InstallError: They could not be installed.
        InvalidArgumentError: Its start-up code raised.
    """
    if packages:
        done = (await session.install(packages, timeout=FURNISH_TIMEOUT)).installation
        if done.returncode:
            msg = f"the packages of the session could not be installed: {done.stderr[-1000:]}"
            raise InstallError(msg)
    if (run := await session.begin()) is not None:
        await run.done.wait()
        if (error := run.execution.error) is not None:
            msg = f"the start-up code of the session ended with {error.type}: {error.message}"
            raise InvalidArgumentError(msg)
