"""See to it that sessions keep their limits: look, decide, act.

What the operating system can't hold for one session (memory of all its processes, how many
they are, processor time of one execution, size of the workspace, time without use) is looked
at ten times a second while a session runs code, and rarely else. `decide` is pure; what it
says is done by the session, and whoever asks is told how much was used and allowed.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from kernelry.checkpoints import Checkpoints
from kernelry.errors import KernelryError
from kernelry.models import ExecutionStatus, Limits
from kernelry.paths import Workspace
from kernelry.processes import OWN, family
from kernelry.session import Session, Spawner, isolated
from kernelry.usage import NEAR, ScriptRun, SharedMemory, Usage, measure, quantity, size_of

T = TypeVar("T")

log = logging.getLogger(__name__)

PAUSE = 0.1  # seconds between looks at sessions that run something
QUIET_LOOKS = 20  # looks at busy sessions for one at the others
WORKSPACE_LOOKS = 50  # looks at busy sessions for one at the size of the workspace


class Action(StrEnum):
    """What is done about a limit that was not kept."""

    #: the kernel is killed with all it started
    KILL = "kill"
    #: the execution is interrupted
    INTERRUPT = "interrupt"


@dataclass(frozen=True, slots=True)
class Breach:
    """A limit that was not kept."""

    #: what is done about it
    action: Action
    #: how much was used, and how much may be
    why: str


def decide(limits: Limits, usage: Usage, *, cpu: float, workspace: int) -> Breach | None:
    """Say which limit a session does not keep, the worst first; None: it keeps all.

    Args:
        limits: The session's.
        usage: What it uses.
        cpu: Seconds of processor time of the execution that runs.
        workspace: Bytes in the workspace; 0: not looked at.
    """
    if limits.memory and usage.memory > limits.memory + OWN:
        used, limit = quantity(usage.memory), quantity(limits.memory)
        return Breach(Action.KILL, f"killed: used {used} of memory, limit {limit}")
    if limits.processes and usage.processes > limits.processes:
        why = f"killed: {usage.processes} processes, limit {limits.processes}"
        return Breach(Action.KILL, why)
    if limits.cpu_seconds and cpu > limits.cpu_seconds:
        why = f"stopped: used {cpu:.1f} s of processor time, limit {limits.cpu_seconds:g} s"
        return Breach(Action.INTERRUPT, why)
    if limits.workspace and workspace > limits.workspace:
        used, limit = quantity(workspace), quantity(limits.workspace)
        why = f"stopped: the workspace holds {used}, limit {limit}; delete files there"
        return Breach(Action.INTERRUPT, why)
    return None


def heaviest(usages: Mapping[str, Usage], total: int) -> tuple[str, str] | None:
    """Say which session goes when all together use too much memory, and why; None: they don't.

    It is the one that uses most: whoever keeps small is never ended for the others.

    Args:
        usages: Session -> what it uses, read exactly.
        total: Bytes that all may use.
    """
    used = sum(usage.memory for usage in usages.values())
    if used <= total or not usages:
        return None
    name = max(usages, key=lambda name: usages[name].memory)
    most, limit = quantity(usages[name].memory), quantity(total)
    why = f"killed: all sessions together used {quantity(used)} of memory, limit {limit}; "
    return name, why + f"this one used most, {most}"


def is_alive(session: Session) -> bool:
    """Say whether a session has a kernel that lives."""
    return session.kernel is not None and session.kernel.process.exit is None


def is_unused(session: Session) -> bool:
    """Say whether a session has run nothing for longer than it may."""
    limit = session.walls.limits.idle_seconds
    return bool(limit) and not session.is_busy and session.idle_seconds > limit


def scripts_of(session: Session) -> list[ScriptRun]:
    """Return the scripts of a session that run, and were not told to end."""
    return [run for run in session.services.scripts.of(session.id) if not run.why]


def used_by(session: Session, is_alive: bool, shared: int, *, exactly: bool) -> Usage:
    """Return what a session's kernel and its scripts use together; reads files.

    Args:
        session: Whose.
        is_alive: Whether its kernel lives.
        shared: Bytes in the machine's /dev/shm that are known to be its.
        exactly: Whether memory is to be read as exactly as near the limit.
    """
    own = Usage()
    if is_alive and (kernel := session.kernel) is not None:
        limit = 1 if exactly else session.walls.limits.memory
        own = measure(kernel.process, kernel.group, limit, shared, session.directory)
    found = [own, *(script.measure() for script in scripts_of(session))]
    return Usage(
        memory=sum(usage.memory for usage in found),
        processes=sum(usage.processes for usage in found),
        cpu=own.cpu,  # it is that of what a cell does
    )


def kernel_name(session: Session) -> str:
    """Return what no other kernel is called."""
    return f"{session.id} {session.record.generation}"


class Supervisor:
    """Watches the sessions of one service.

    Args:
        sessions: Returns those that there are now.
        workspace: The folder that they share.
        spawn: Starts tasks of the service.
        suspend: Suspends a session that is not used.
        checkpoints: Saved namespaces, of which the live ones go before a session does.
        total: Bytes of memory that all sessions together may use; 0: no limit.
    """

    def __init__(
        self,
        sessions: Callable[[], Iterable[Session]],
        workspace: Workspace,
        spawn: Spawner,
        suspend: Callable[[Session], Coroutine[Any, Any, None]],
        checkpoints: Checkpoints,
        total: int,
    ) -> None:
        self._suspend = suspend
        self._checkpoints = checkpoints
        self._bounding: asyncio.Task[None] | None = None
        self._total = total
        self._used: dict[str, int] = {}  # session -> bytes when it was looked at last
        self._sessions = sessions
        self._workspace = workspace
        self._spawn = spawn
        self._shared = SharedMemory()
        self._reader: ThreadPoolExecutor
        self._spent: dict[str, tuple[str, float]] = {}  # session -> execution, cpu at its start

    async def run(self) -> None:
        """Watch until cancelled."""
        with ThreadPoolExecutor(1, thread_name_prefix="usage") as self._reader:
            await self._read(int)  # a thread that is there from the start is no leak to be seen
            for look in itertools.count(1):
                await asyncio.sleep(PAUSE)
                await self._look(look)
                if look % QUIET_LOOKS == 0 and not self._checkpoints.live.is_empty:
                    self._keep_bounds()

    async def _read(self, work: Callable[..., T], *args: Any) -> T:
        """Do something that reads files in the one thread for it."""
        return await asyncio.get_running_loop().run_in_executor(self._reader, work, *args)

    def _keep_bounds(self) -> None:
        """Look at what live checkpoints have, beside: it takes as long as there is memory."""
        if self._bounding is None or self._bounding.done():
            work = isolated(self._checkpoints.keep_bounds(), "a look at live checkpoints")
            self._bounding = self._spawn(work, name="bounds of live checkpoints")

    async def _look(self, look: int) -> None:
        watched = [
            session
            for session in self._sessions()
            if (is_alive(session) and (session.current or look % QUIET_LOOKS == 0))
            or scripts_of(session)
        ]
        for session in watched if look % QUIET_LOOKS == 0 else ():
            if is_unused(session) and is_alive(session):
                self._act(self._suspend(session), session)
        watched = [s for s in watched if s.walls.limits.are_watched]
        if not (watched or self._shared.owners):
            return
        is_time = look % WORKSPACE_LOOKS == 0
        has_quota = any(session.walls.limits.workspace for session in watched)
        workspace = 0
        if is_time and has_quota:
            workspace = await self._read(size_of, self._workspace.root)
        alive = {kernel_name(s) for s in self._sessions() if is_alive(s)}
        usages = await self._read(self._measure, watched, alive)
        for session, usage in zip(watched, usages, strict=True):
            if killed := session.out_of_memory:  # a child, and what waits for it would for ever
                self._respond(session, Breach(Action.KILL, killed))
                continue
            cpu = self._cpu_of_execution(session, usage)
            if breach := decide(session.walls.limits, usage, cpu=cpu, workspace=workspace):
                self._respond(session, breach)
        if self._total:
            await self._keep_total(alive, watched, usages)

    async def _keep_total(
        self, alive: set[str], watched: list[Session], usages: list[Usage]
    ) -> None:
        """End the session that uses most if all together use too much."""
        living = {s.id: s for s in self._sessions() if kernel_name(s) in alive}
        seen = zip(watched, usages, strict=True)
        self._used |= {session.id: usage.memory for session, usage in seen}
        self._used = {name: used for name, used in self._used.items() if name in living}
        if sum(self._used.values()) <= NEAR * self._total:
            return
        sessions = list(living.values())
        exact = await self._read(self._measure, sessions, alive, True)
        found = dict(zip(living, exact, strict=True))
        self._used = {name: usage.memory for name, usage in found.items()}
        if worst := heaviest(found, self._total):
            name, why = worst
            if not self._checkpoints.live.is_empty:
                await self._checkpoints.give_way("sessions needed the memory")
                return
            self._respond(living[name], Breach(Action.KILL, why))

    def _measure(
        self, watched: list[Session], alive: set[str], exactly: bool = False
    ) -> list[Usage]:
        names = [kernel_name(session) for session in watched]
        sizes: dict[str, int] = {}
        if self._shared.is_worth_a_look():
            for name, session in zip(names, watched, strict=True):
                if name in alive and session.kernel is not None:
                    self._shared.note(name, family(session.kernel.process.leader))
            sizes = self._shared.sizes(alive)
        return [
            used_by(session, name in alive, sizes.get(name, 0), exactly=exactly)
            for name, session in zip(names, watched, strict=True)
        ]

    def _cpu_of_execution(self, session: Session, usage: Usage) -> float:
        """Return the processor time that the execution which runs has used."""
        session.peak_memory = max(session.peak_memory, usage.memory)
        if session.current is None:
            self._spent.pop(session.id, None)
            return 0.0
        known, before = self._spent.get(session.id, ("", 0.0))
        if known != session.current.id:
            before = usage.cpu
            self._spent[session.id] = (session.current.id, before)
        return usage.cpu - before

    def _respond(self, session: Session, breach: Breach) -> None:
        log.warning("session %s: %s", session.id, breach.why)
        if breach.action is Action.KILL and (scripts := scripts_of(session)):
            for script in scripts:  # if that is not enough, the kernel goes at the next look
                script.end(breach.why)
        elif breach.action is Action.KILL:
            self._act(session.kill(breach.why), session)
        elif (run := session.current) is not None and run.stop_as is None:
            run.stop_as, run.stopped_why = ExecutionStatus.TIMED_OUT, breach.why
            self._act(session.stop_execution(run), session)

    def _act(self, work: Coroutine[Any, Any, object], session: Session) -> None:
        async def act() -> None:
            try:
                await work
            except KernelryError:
                log.exception("a limit of session %s could not be enforced", session.id)

        self._spawn(act(), name=f"limits of {session.id}")
