"""One live session: its record and its kernel, from its start to its end.

What runs in it is looked after by executions.py.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

from kernelry.beneath import writing
from kernelry.crashpoints import crash_point
from kernelry.engines import LocalKernel
from kernelry.errors import (
    ConflictError,
    KernelDeadError,
)
from kernelry.launching import stronger
from kernelry.models import (
    Execution,
    ExecutionStatus,
    InterruptReport,
    InterruptStep,
    KernelState,
    OnError,
    SessionRecord,
    Variable,
    now,
)
from kernelry.packages import InstallReport, Package, SessionEnvironment, parse_requirements
from kernelry.processes import Exit
from kernelry.session import inspection, installing, interrupts
from kernelry.session.executions import Executions
from kernelry.session.notes import Notes
from kernelry.session.queueing import Hold, asked, queued
from kernelry.session.run import Run
from kernelry.session.services import Services, isolated
from kernelry.shielding import to_the_end
from kernelry.transitions import HELPS, Opening
from kernelry.usage import oom_kills
from kernelry.walls import Walls

DEFAULT = "default"  # the session that is always there
#: what is opened in a session's directory before its kernel's walls stand: the kernel before may
#: have put a link there, which would be followed
OPENED_AT_START = ("kernel.log", "stacks.txt", "touched", "journal.jsonl", "spill")


class Session:
    """A session that this server holds, with or without a kernel."""

    def __init__(
        self,
        record: SessionRecord,
        directory: Path,
        environment: SessionEnvironment,
        services: Services,
    ) -> None:
        self.record = record
        self.directory = directory
        self.environment = environment
        self.kernel: LocalKernel | None = None
        #: why the kernel is dead; empty while it is not
        self.death = ""
        #: why there is no kernel although there was one
        self.stopped_why = ""
        #: who is resuming it; None: nobody
        self.opening: Opening | None = None
        #: whether the store knows it
        self.is_stored = False
        #: names of its kernel's variables, as far as they were ever told
        self.listed: tuple[str, ...] = ()
        #: most memory seen of this kernel's process tree, bytes
        self.peak_memory = 0
        self.services = services
        self._hold = Hold()
        self._starting = False
        #: whether it is being deleted
        self.is_gone = False
        self._is_stopping = False  # its kernel is being ended on request
        self.notes = Notes(self, services)
        self._executions = Executions(self, self.notes, services)
        self._kills = 0  # processes that Linux had ended for want of memory when it started
        self._begun: LocalKernel | None = None  # the kernel that ran the start-up code
        self._ran_before = 0  # executions that kernels before this one had
        # Monotonic: the wall clock may jump.
        self._kernel_since = time.monotonic()
        self._active_since = time.monotonic()

    @property
    def id(self) -> str:
        """The session's id."""
        return self.record.id

    @property
    def uptime(self) -> float:
        """Seconds since the kernel was started, also in servers before this one."""
        return time.monotonic() - self._kernel_since

    @property
    def idle_seconds(self) -> float:
        """Seconds since an execution last began or ended, or since this server started."""
        return time.monotonic() - self._active_since

    @property
    def out_of_memory(self) -> str:
        """What Linux did because the session's memory was used up; empty: nothing."""
        group = self.kernel.group if self.kernel else None
        return inspection.killed_by_linux(group, self.walls.limits.memory, self.peak_memory)

    @property
    def has_variables(self) -> bool:
        """Say whether its kernel lives, is idle, and has run something."""
        has_run = self.record.execution_count > self._ran_before
        return has_run and not self.is_busy and self.kernel_state is KernelState.IDLE

    @property
    def is_busy(self) -> bool:
        """Say whether anything runs or waits to, or a kernel is being started."""
        return self._starting or not self._executions.is_empty

    @property
    def walls(self) -> Walls:
        """What stands between the session and the rest; its next kernel gets these."""
        return stronger(self.services.launches.walls, self.record)

    @property
    def journal(self) -> Path:
        """Where its kernel keeps what it published."""
        return self.directory / "journal.jsonl"

    @property
    def spill_dir(self) -> Path:
        """Where output is that was too much to be sent."""
        return self.directory / "spill"

    @property
    def current(self) -> Run | None:
        """The execution that runs."""
        return self._executions.current

    @property
    def kernel_state(self) -> KernelState:
        """What the kernel is doing, from our own books."""
        if self._starting:
            return KernelState.STARTING
        if self.kernel is None:
            return KernelState.DEAD if self.death else KernelState.NOT_STARTED
        if self.kernel.process.exit is not None:
            return KernelState.DEAD
        return KernelState.BUSY if self.current else KernelState.IDLE

    @property
    def next(self) -> Run | None:
        """The execution that runs, else the one that will."""
        return self._executions.next

    @property
    def ended(self) -> tuple[Run, ...]:
        """The executions that have just ended."""
        return self._executions.late.runs

    def find(self, execution_id: str) -> Run | None:
        """Return an execution that is queued, running or just finished."""
        return self._executions.find(execution_id)

    async def ensure_kernel(self) -> LocalKernel:
        """Return the kernel, starting the first one.

        Raises:
            KernelDeadError: It died; only a restart brings a new one.
            KernelStartError: It could not be started.
        """
        if self.kernel is not None and self.kernel.process.exit is None:
            return self.kernel
        self._check_open()
        async with self._hold.lock:
            self._check_open()
            if (self.kernel is not None and self.kernel.process.exit is not None) or self.death:
                msg = (
                    f"the kernel of session '{self.id}' is dead ({self.death}) and its variables "
                    "are gone. Call restart_kernel to get a new one."
                )
                raise KernelDeadError(msg, session_id=self.id)
            return self.kernel or await self._start_kernel()

    async def take_kernel(self, kernel: LocalKernel) -> None:
        """Have a kernel that is nobody's from here on, and write that down."""
        crash_point("kernel.started")
        self._attach(kernel)
        self.record = replace(self.record, generation=self.record.generation + 1)
        events = ["kernel.started"] if self.is_stored else ["session.created", "kernel.started"]
        await self.services.store.save_session(self.record, *events, kernel=kernel.record)
        self.is_stored = True
        crash_point("kernel.saved")

    async def take_branch(self, kernel: LocalKernel | None) -> None:
        """Take a kernel that has all that another one had; None: one that will be told it."""
        if kernel is not None:
            await self.take_kernel(kernel)
        self._begun = await self.ensure_kernel()  # what the other one began with it has
        self._ran_before = -1  # and what that has run

    def adopt(
        self,
        kernel: LocalKernel,
        opened: list[Execution],
        newest: Execution | None,
        known: set[str],
    ) -> None:
        """Go on with the kernel that a dead server had for this session.

        Args:
            kernel: The kernel, which may be busy or blocked.
            opened: The executions without an outcome, in their order.
            newest: The last one, if it has an outcome.
            known: Message ids of what the kernel told besides outputs and is written down.
        """
        self.notes.known = known
        self._begun = kernel
        self._attach(kernel)
        self._kernel_since -= kernel.process.age
        self._ran_before = -1  # whatever it has
        self._executions.adopt(kernel, opened, newest)

    async def conclude(
        self, opened: list[Execution], ended: Exit, cause: str
    ) -> list[ExecutionStatus]:
        """Write down what became of executions whose kernel ended with or after their server.

        Args:
            opened: Those without an outcome.
            ended: How the kernel ended.
            cause: The same in words, for those that ran.

        Returns:
            Their outcomes.
        """
        return await self._executions.conclude(opened, ended, cause)

    def newest_line(self, run: Run) -> str:
        """Return the last line that a run has printed, also from its spill file."""
        return inspection.newest_line(run.fold, self.directory, self.spill_dir.name)

    async def submit(
        self, code: str, timeout: float | None, on_error: OnError = OnError.KEEP
    ) -> Run:
        """Write an execution down and queue it; returns before it has run.

        Args:
            code: What to run.
            timeout: Seconds it may run before it is interrupted; None: no limit.
            on_error: What becomes of the variables if it does not complete.

        Raises:
            ConflictError: The session is not active.
            KernelDeadError: The kernel died and was not restarted.
        """
        while self.opening is not None:  # its variables are not back yet
            await self.opening.over.wait()
        self._check_open()
        self.touch()  # from here on it is in use
        lost, self.stopped_why = self.stopped_why, ""
        await self.begin()
        return await self._queue(code, timeout, lost, on_error)

    async def begin(self) -> Run | None:
        """Start the kernel if there is none, and have it run the start-up code before all else."""
        kernel = await self.ensure_kernel()
        if self._begun is kernel or not self.record.startup:
            return None
        self._begun = kernel
        return await self._queue(self.record.startup, None, "the session's start-up code")

    async def _queue(
        self, code: str, timeout: float | None, note: str, on_error: OnError = OnError.KEEP
    ) -> Run:
        execution = asked(self.record, code, timeout, note, on_error)
        self.record = replace(self.record, execution_count=execution.index)
        self.touch()
        return await queued(execution, self._executions.make, self._executions.add)

    async def interrupt(self, run: Run | None = None, *, force: bool = False) -> InterruptReport:
        """Stop an execution: SIGINT, SIGINT again, and with `force` kill and restart.

        Args:
            run: The execution; None: the one that runs.
            force: Whether the kernel, with its variables, may be given up.

        Returns:
            The step that worked, found by waiting for the execution and asking the kernel.
        """
        run = run or self.next
        if run is None or run.done.is_set():
            return InterruptReport(step=InterruptStep.NOTHING_RUNNING)
        if await self._executions.withdraw(run, "it was interrupted before it ran"):
            return InterruptReport(step=InterruptStep.DEQUEUED, execution_id=run.id)
        report = await interrupts.interrupt(lambda: self.kernel, run, self.stack)
        if force and report.step is InterruptStep.NO_EFFECT:
            step = await interrupts.force(run, self.kill, self.restart)
            report = replace(report, step=step, responsive=True)
        return report

    async def kill(self, why: str) -> None:
        """End the kernel at once; what runs ends as died, with this cause."""
        if self.kernel is not None and self.kernel.process.exit is None:
            self.death = self.death or why
            await self.kernel.process.kill()

    async def stop_execution(self, run: Run) -> None:
        """Interrupt an execution that met a limit, whose `stop_as` says so."""
        await interrupts.signal_until_ended(self.kernel, run)

    async def restart(self, why: str = "the kernel was restarted") -> list[Run]:
        """Replace the kernel by a new one, from whatever state; variables are gone.

        Returns:
            What it ended: the execution that ran as died, queued ones as cancelled.
        """
        self._check_open()
        async with self._hold.to_end():
            # Should the server die from here on, the next one must not adopt the old kernel.
            await self.services.store.forget_kernel(self.id)
            crash_point("restart.begun")
            ended = await self._stop_kernel(why, grace=0)
            crash_point("restart.stopped")
            self.death = ""
            await self._start_kernel()
            return ended

    async def replace_kernel(
        self, make: Callable[[Callable[[], Awaitable[None]]], Awaitable[LocalKernel]], why: str
    ) -> None:
        """Go on with another kernel that has run already; for whoever has the turn.

        `make` calls what it is given before the new one touches the session's files: that ends
        the old one. If it fails before, nothing is changed.
        """
        self._check_open()
        if self._hold.is_ending:
            raise ConflictError(f"the kernel of session '{self.id}' is being restarted or ended")

        async def end() -> None:
            # The next server is to find the old one, as it is or dead, until the new one is there.
            await self._stop_kernel(why, grace=0, withdraw=False)
            crash_point("live.ended")
            writing.clear(self.directory, *OPENED_AT_START)

        async def replace() -> None:
            async with self._hold.lock:  # which nobody has who waits for an execution's end
                self._check_open()
                self._starting = True
                try:
                    kernel = self._begun = await make(end)
                finally:
                    self._starting = False
                self.death = ""
                await self.take_kernel(kernel)
                self._ran_before = -1

        await to_the_end(replace())

    def turn(self, patience: float | None) -> AbstractAsyncContextManager[None]:
        """Have nothing run in it meanwhile; see `Executions.turn`."""
        self.touch()
        return self._executions.turn(patience)

    async def stop(self, *, grace: float, why: str) -> None:
        """End the kernel and all executions; the session can't be used afterwards."""
        async with self._hold.to_end():
            if self.kernel is not None:
                await self.services.store.forget_kernel(self.id)
            await self._stop_kernel(why, grace=grace)

    def forget_death(self) -> None:
        """Note that its kernel was ended in order."""
        self.death = ""

    async def leave(self) -> None:
        """Leave the kernel and what it runs as they are, for the next server."""
        async with self._hold.to_end():
            await self._executions.leave()
            if self.kernel is not None:
                self.kernel.leave()

    async def variables(self, limit: int) -> tuple[list[Variable], int]:
        """Return up to `limit` variables of the namespace and how many there are.

        Raises:
            KernelSilentError: The kernel is in native code and can't answer now.
        """
        found, total = await inspection.variables(await self.ensure_kernel(), limit)
        self.listed = tuple(item.name for item in found)
        return found, total

    async def install(self, packages: Sequence[str], *, timeout: float) -> InstallReport:
        """Install packages into this session; its kernel can import them at once.

        A failed, timed out or cancelled installation leaves the environment as it was.

        Args:
            packages: PEP 508 strings.
            timeout: Seconds it may take once it is its turn.

        Raises:
            InvalidArgumentError: A package is not such a string; nothing was done.
            InstallError: The environment could not be made.
        """
        wanted = [str(requirement) for requirement in parse_requirements(packages)]
        return await installing.install(self, wanted, timeout)

    async def packages(self) -> Sequence[Package]:
        """Return what this session can import, by name; needs no kernel.

        Raises:
            InvalidArgumentError: Its interpreter does not run any more.
        """
        return await self.environment.packages()

    async def stack(self) -> str:
        """Return the stacks of all threads of the kernel, also while it is in native code."""
        if self.kernel is None:
            return ""
        return await inspection.stack(self.kernel, self.directory)

    def _check_open(self) -> None:
        if self.is_gone:
            raise ConflictError(f"session '{self.id}' was deleted")
        status = self.record.status
        if not status.has_kernel:
            why = f" ({self.record.reason})" if self.record.reason else ""
            raise ConflictError(f"session '{self.id}' is {status}{why}; {HELPS[status]}")

    async def _start_kernel(self) -> LocalKernel:
        self._starting = True
        writing.clear(self.directory, *OPENED_AT_START)
        try:
            kernel = await self.services.start_kernel(
                self.directory, self.environment, self.walls, fresh=self.record.fresh
            )
        finally:
            self._starting = False
        await self.take_kernel(kernel)
        return kernel

    def _attach(self, kernel: LocalKernel) -> None:
        self.kernel = kernel
        self._ran_before = self.record.execution_count
        self._kernel_since = time.monotonic()
        self._kills, self.listed, self.peak_memory = oom_kills(), (), 0
        self._executions.memory = (0, 0)
        late = self._executions.late
        kernel.channels.on_orphan(late.hear, lambda msg_id: late.find(msg_id) is not None)
        kernel.channels.on_broken(self._on_broken)
        kernel.process.on_exit(self._on_exit)

    async def _stop_kernel(self, why: str, *, grace: float, withdraw: bool = True) -> list[Run]:
        kernel = self.kernel
        ended = await self._executions.withdraw_all(f"{why} before it ran") if withdraw else []
        if kernel is None:
            return ended
        self.death = self.death or why
        self._is_stopping = True
        try:
            # Looked up last: the one before it may have ended meanwhile.
            if withdraw and (run := self.current) is not None:
                ended.insert(0, run)
                await kernel.process.kill()
                await run.done.wait()
            await kernel.shutdown(grace=grace)
        finally:
            self._is_stopping = False
        self.kernel = None
        return ended

    def _on_broken(self, why: str) -> None:
        """End a kernel that can't be heard any more."""
        work = isolated(self.kill(f"killed: {why}, which no kernel of ours does"), "a kill")
        self.services.spawn(work, name=f"kill {self.id}")

    def _on_exit(self, ended: Exit) -> None:
        lack = inspection.lack_of_memory(self._executions.memory, self.walls.limits.memory)
        why = inspection.how_ended(ended, self._kills, self.peak_memory, lack)
        self.death = self.death or self.out_of_memory or why
        self._executions.note_death()
        if not self._is_stopping:
            work = self.note("kernel.died", {"why": self.death}, self.current)
            self.services.spawn(isolated(work, "an event"), name=f"death of {self.id}")

    async def note(self, type: str, data: object = None, run: Run | None = None) -> None:
        """Write down that something happened in this session, and how that leaves it."""
        execution_id = run.id if run else ""
        await self.services.store.note(self.record, type, data, execution_id=execution_id)

    def touch(self) -> None:
        """Note that something was done in it."""
        self._active_since = time.monotonic()
        self.record = replace(self.record, last_activity_at=now())
