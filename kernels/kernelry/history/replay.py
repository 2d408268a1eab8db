"""Run again what a session ran, in a new session, and say what came out differently.

The original is only read. A restart of its kernel is a restart of the new one, its packages
are installed first. What was interrupted, timed out or lost its kernel is left out: that
depends on the moment.
"""

import asyncio
import itertools
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from kernelry.errors import KernelryError, SessionNotFoundError
from kernelry.history.mirroring import FOLDER, code_to_enter, digests, files_of
from kernelry.history.search import History
from kernelry.models import Execution, ExecutionStatus, SessionRecord, SessionSpec
from kernelry.output import Display, stream_text
from kernelry.session import Run, Session, Spawner
from kernelry.workspace import checked

ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}\b")  # of an object: never twice the same
COMPARABLE = frozenset({ExecutionStatus.COMPLETED, ExecutionStatus.FAILED})
INSTALL_TIMEOUT = 600.0  # seconds for the packages of the original
SHOWN_CHARS = 500  # of a text that differs


@dataclass(frozen=True, slots=True)
class Difference:
    """One execution that came out differently."""

    #: its number in the original
    index: int
    #: the original
    execution_id: str
    #: what was run now
    replayed_id: str
    #: status, stdout, stderr, results, error or files -> before and now
    what: dict[str, tuple[str, str]]


@dataclass(slots=True)
class ReplayReport:
    """How far a replay is, and what it found."""

    #: the session that is replayed
    source: str
    #: the new session; empty: it was only listed
    session_id: str
    #: executions that are to be run again
    executions: list[Execution]
    #: numbers of those that are left out -> why
    skipped: dict[int, str]
    #: how many were run again
    replayed: int = 0
    #: how many came out as before
    matched: int = 0
    #: where it writes, relative to the workspace; ".": where the original did
    folder: str = "."
    #: files that it wrote with the content that the original's have
    same_files: list[str] = field(default_factory=list)
    #: those that did not
    differences: list[Difference] = field(default_factory=list)
    #: why it ended before all were run; empty: it did not
    stopped: str = ""
    #: set when it is over
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Replay:
    """One replay.

    Args:
        report: What is to be done, and where it is noted.
        run: Runs code in a session.
        session: The new one.
        timeout: Seconds that each execution may take; None: what the original had.
        stop_on_error: Whether to stop when something raises that did not.
    """

    def __init__(
        self,
        report: ReplayReport,
        run: Callable[..., Awaitable[Run]],
        session: Session,
        *,
        timeout: float | None,
        stop_on_error: bool,
    ) -> None:
        self._report = report
        self._run = run
        self._session = session
        self._timeout = timeout
        self._stop_on_error = stop_on_error
        self._ran: dict[int, str] = {}  # index of an original -> id of what was run for it

    async def go(self, packages: list[str]) -> None:
        """Install the original's packages, and run it all."""
        try:
            if packages:
                done = await self._session.install(packages, timeout=INSTALL_TIMEOUT)
                if done.installation.returncode:
                    self._report.stopped = "its packages could not be installed"
                    return
            await self._go_through()
        except KernelryError as error:
            self._report.stopped = str(error)
        finally:
            self._report.over.set()

    async def _go_through(self) -> None:
        generation: int | None = None
        files = files_of(self._report.executions)
        before = await self._digests(files)
        last = 0
        for original in self._report.executions:
            if generation not in (None, original.generation):
                await self._session.restart("the original had a new kernel here, too")
            if generation != original.generation and self._report.folder != ".":
                root = self._session.services.launches.workspace
                entering = code_to_enter(self._report.folder, root, files)
                entered = await self._run(self._session, entering, timeout=None)
                await entered.done.wait()
                if (error := entered.execution.error) is not None:
                    self._report.stopped = f"its folder could not be made: {error.message}"
                    return
            generation = original.generation
            last = original.index
            timeout = original.timeout if self._timeout is None else self._timeout
            run = await self._run(self._session, original.code, timeout=timeout)
            await run.done.wait()
            replayed = run.snapshot()
            self._report.replayed += 1
            self._ran[original.index] = replayed.id
            if what := compare(original, replayed):
                self._report.differences.append(
                    Difference(original.index, original.id, replayed.id, what)
                )
            else:
                self._report.matched += 1
            failed = replayed.status is not ExecutionStatus.COMPLETED
            if failed and replayed.status is not original.status and self._stop_on_error:
                self._report.stopped = (
                    f"execution {original.index} is {replayed.status}, it was {original.status}"
                )
                break
        await self._compare_files({f: n for f, n in files.items() if n <= last}, before)

    async def _compare_files(self, files: dict[str, int], before: dict[str, str | None]) -> None:
        """Note which files have the content that the original's had when the replay began."""
        folder = "" if self._report.folder == "." else f"{self._report.folder}/"
        now = await self._digests(f"{folder}{path}" for path in files)
        for path, index in files.items():
            made = now[f"{folder}{path}"]
            if made is None or before[path] is None:  # there is too much to be compared
                continue
            if made and made == before[path]:
                self._report.same_files.append(path)
                continue
            said = "other content" if made else "not written"
            what = {"files": (path, f"{folder}{path}: {said}" if before[path] else "is gone")}
            self._add(index, what)

    def _add(self, index: int, what: dict[str, tuple[str, str]]) -> None:
        """Note that an execution, which has run again, differs in its files as well."""
        differences = self._report.differences
        for place, known in enumerate(differences):
            if known.index == index:
                was, now = known.what.get("files", ("", ""))
                path, said = what["files"]
                both = (f"{was}; {path}", f"{now}; {said}") if was else what["files"]
                differences[place] = replace(known, what={**known.what, "files": both})
                return
        original = next(e for e in self._report.executions if e.index == index)
        differences.append(Difference(index, original.id, self._ran[index], what))
        self._report.matched -= 1

    async def _digests(self, paths: Iterable[str]) -> dict[str, str | None]:
        services, wanted = self._session.services, list(paths)
        root = services.launches.workspace
        return await services.apart.run(self._session.id, digests, root, wanted)


class Replays:
    """The replays of one service, for as long as it lives.

    Args:
        history: What there is to replay.
        sessions: The sessions that there are, by id.
        create: Makes a session.
        run: Runs code in one.
        spawn: Starts a task of the service.
    """

    def __init__(
        self,
        history: History,
        sessions: Mapping[str, Session],
        create: Callable[[SessionSpec], Awaitable[Session]],
        run: Callable[..., Awaitable[Run]],
        spawn: Spawner,
    ) -> None:
        self._history = history
        self._sessions = sessions
        self._create = create
        self._run = run
        self._spawn = spawn
        self._reports: dict[str, ReplayReport] = {}

    def find(self, session_id: str) -> ReplayReport | None:
        """Return the replay that made a session, under way or over."""
        return self._reports.get(session_id)

    async def plan(self, source: str, *, up_to: int | None = None) -> ReplayReport:
        """Return what a replay of a session would run; runs nothing.

        Raises:
            SessionNotFoundError: There is no such session, or it has run nothing.
        """
        return await plan(self._history, source, up_to=up_to)

    async def start(
        self,
        source: str,
        *,
        into: str = "",
        up_to: int | None = None,
        folder: str = "",
        timeout: float | None = None,
        stop_on_error: bool = True,
    ) -> ReplayReport:
        """Make a session and run in it what another ran; returns when the session is there.

        Args:
            source: The session to replay.
            into: Id of the new one; empty: named after the other.
            up_to: Number of the last execution to replay; None: all.
            folder: Where relative paths lead, in the workspace; empty: one of its own; ".": where
                the original's did.
            timeout: Seconds that each may take; None: what it was given before.
            stop_on_error: Whether to stop when something raises that did not.

        Raises:
            SessionNotFoundError: There is no such session, or it has run nothing.
            SessionExistsError: The id of the new one is taken.
            InvalidArgumentError: The folder is none in the workspace.
        """
        if folder:  # before there is a session
            folder = checked(folder)
        report = await plan(self._history, source, up_to=up_to)
        record = await self._history.session(source)
        original = self._sessions.get(source)
        packages = await own_packages(original) if original else []
        session = await self._create(spec_like(record, into or self._free(source)))
        report.session_id = session.id
        report.folder = folder or f"{FOLDER}/{session.id}"
        self._reports[session.id] = report
        replay = Replay(report, self._run, session, timeout=timeout, stop_on_error=stop_on_error)
        self._spawn(replay.go(packages), name=f"replay of {source}")
        return report

    def _free(self, source: str) -> str:
        stem = source.replace("~", "-")[:54]
        return next(
            name
            for number in itertools.count(1)
            if (name := f"{stem}-replay-{number}") not in self._sessions
        )


async def plan(history: History, session_id: str, *, up_to: int | None = None) -> ReplayReport:
    """Return what a replay of a session would run.

    Args:
        history: Where it is.
        session_id: The session, which may be closed, or deleted with its history kept.
        up_to: Number of the last execution; None: all.

    Raises:
        SessionNotFoundError: There is none, or it has run nothing.
    """
    await history.session(session_id)
    executions = [
        execution
        for execution in await history.executions(session_id)
        if up_to is None or execution.index <= up_to
    ]
    if not executions:
        raise SessionNotFoundError(f"session '{session_id}' has run nothing that could be replayed")
    chosen = [execution for execution in executions if execution.status in COMPARABLE]
    skipped = {run.index: str(run.status) for run in executions if run.status not in COMPARABLE}
    return ReplayReport(session_id, "", chosen, skipped)


async def own_packages(session: Session) -> list[str]:
    """Return the packages that a session has for itself, as pip takes them."""
    return [f"{item.name}=={item.version}" for item in await session.packages() if item.own]


def spec_like(record: SessionRecord, session_id: str) -> SessionSpec:
    """Return what makes a session like one that there was."""
    return SessionSpec(
        id=session_id,
        description=f"Replay of {record.id}: {record.description}"[:1000],
        tags=(*record.tags[:49], "replay"),
        metadata=record.metadata,
        isolation=record.isolation,
        network=record.network,
        limits=record.limits,
        python=record.python,
        context=record.context,
    )


def compare(original: Execution, replayed: Execution) -> dict[str, tuple[str, str]]:
    """Return what differs between two executions: addresses of objects don't count."""
    before, now = aspects(original), aspects(replayed)
    return {
        name: differing(before[name], now[name]) for name in before if before[name] != now[name]
    }


def same_until(one: str, other: str) -> int:
    """Return how many characters two texts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    shorter = min(len(one), len(other))
    return next((at for at, (left, right) in pairs if left != right), shorter)


def differing(before: str, now: str) -> tuple[str, str]:
    """Return two texts from a little before where they differ, with marks where they are cut."""
    same = same_until(before, now)
    start = max(same - SHOWN_CHARS // 4, 0)
    shown = []
    for text in (before, now):
        part = text[start : start + SHOWN_CHARS]
        more = "..." if len(text) > start + SHOWN_CHARS else ""
        shown.append(("..." if start else "") + part + more)
    return shown[0], shown[1]


def aspects(execution: Execution) -> dict[str, str]:
    """Return what of an execution is compared."""
    shown = [o.text for o in execution.outputs if isinstance(o, Display)]
    error = execution.error
    texts = {
        "status": execution.status.value,
        "stdout": stream_text(execution.outputs, "stdout"),
        "stderr": stream_text(execution.outputs, "stderr"),
        "results": "\n".join(shown),
        "error": f"{error.type}: {error.message}" if error else "",
    }
    return {name: ADDRESS.sub("0x...", text) for name, text in texts.items()}
