"""One live session: its record, its kernel, and the queue of its executions.

Executions run one at a time, in the order they were asked for, in a task of the service,
not of the request: whoever stops waiting changes nothing. Each is written down before it
is sent and its outcome before anybody hears of it.
"""

import asyncio
import logging
import time
from collections import deque
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from carrel import inspection, interrupts
from carrel.adoption import CatchUp, conclude_from_file, with_late_output
from carrel.crashpoints import crash_point
from carrel.engines.kernel import LocalKernel
from carrel.engines.process import Exit
from carrel.engines.wire import Message, new_id
from carrel.environments import SessionEnvironment
from carrel.errors import ConflictError, KernelDeadError
from carrel.images import save_images
from carrel.late import LateOutput
from carrel.models import (
    Execution,
    ExecutionStatus,
    InterruptReport,
    InterruptStep,
    KernelState,
    SessionRecord,
    SessionStatus,
    Variable,
    now,
)
from carrel.outputs import readable, spill_of
from carrel.run import Run
from carrel.services import Services

log = logging.getLogger(__name__)

IDLE_GRACE = 2.0  # seconds after the reply for the rest of the output
NEWEST_BYTES = 2000  # read from the end of a spill file for its last line


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
        #: whether the store knows it
        self.is_stored = False
        #: most memory seen of this kernel's process tree, bytes
        self.peak_memory = 0
        self._services = services
        self._kernel_lock = asyncio.Lock()
        self._starting = False
        self._current: Run | None = None
        self._queue: deque[Run] = deque()
        self._driver: asyncio.Task[None] | None = None
        self._driving = False
        self._late = LateOutput(services)
        # Monotonic: the wall clock may jump.
        self._kernel_since = time.monotonic()
        self._active_since = time.monotonic()

    @property
    def id(self) -> str:
        """The session's id."""
        return self.record.id

    @property
    def uptime(self) -> float:
        """Seconds since the kernel was started; of an adopted one, in its last server too."""
        return time.monotonic() - self._kernel_since

    @property
    def idle_seconds(self) -> float:
        """Seconds since an execution last began or ended, or since this server started."""
        return time.monotonic() - self._active_since

    @property
    def is_busy(self) -> bool:
        """Say whether anything runs or waits to, or a kernel is being started."""
        return self._starting or self._current is not None or bool(self._queue)

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
        return self._current

    @property
    def kernel_state(self) -> KernelState:
        """What the kernel is doing, from our own books."""
        if self._starting:
            return KernelState.STARTING
        if self.kernel is None:
            return KernelState.DEAD if self.death else KernelState.NOT_STARTED
        if self.kernel.process.exit is not None:
            return KernelState.DEAD
        return KernelState.BUSY if self._current else KernelState.IDLE

    def find(self, execution_id: str) -> Run | None:
        """Return an execution that is queued, running or just finished."""
        if self._current is not None and self._current.id == execution_id:
            return self._current
        for run in self._queue:
            if run.id == execution_id:
                return run
        return self._late.find(execution_id)

    async def ensure_kernel(self) -> LocalKernel:
        """Return the kernel, starting the first one.

        Raises:
            KernelDeadError: It died; only a restart brings a new one.
            KernelStartError: It could not be started.
        """
        if self.kernel is not None and self.kernel.process.exit is None:
            return self.kernel
        async with self._kernel_lock:
            self._check_alive()
            return self.kernel or await self._start_kernel()

    async def take_kernel(self, kernel: LocalKernel) -> None:
        """Take a kernel that was started for whoever comes first."""
        await self._own(kernel)

    def adopt(self, kernel: LocalKernel, opened: list[Execution], newest: Execution | None) -> None:
        """Go on with the kernel that a dead server had for this session.

        Args:
            kernel: The kernel, which may be busy or blocked.
            opened: The executions without an outcome, in their order.
            newest: The last one, if it has an outcome.
        """
        self._attach(kernel)
        self._kernel_since -= kernel.process.age
        self._queue.extend(Run(e) for e in opened if e.status is ExecutionStatus.QUEUED)
        sent = [e for e in opened if e.status is not ExecutionStatus.QUEUED]
        run = Run(sent[0]) if sent else None
        if run is not None:
            run.go_on()
            self._current = run
        self._driver = self._services.spawn(
            self._go_on(kernel, run, newest), name=f"session {self.id}"
        )

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
        outcomes: list[ExecutionStatus] = []
        for execution in opened:
            run = Run(execution)
            if execution.status is ExecutionStatus.QUEUED:
                run.cancel("the server ended before it ran")
            else:
                run.go_on()
                await conclude_from_file(run, self.journal, ended, cause)
                await save_images(run, self._services.workspace)
            await self._write_down(run)
            outcomes.append(run.execution.status)
        return outcomes

    def newest_line(self, run: Run) -> str:
        """Return the last line that a run has printed, also from its spill file."""
        spill = spill_of(run.fold.outputs)
        if spill is None:
            return run.fold.last_line()
        with suppress(OSError), (self.spill_dir / spill.file).open("rb") as file:
            file.seek(max(file.seek(0, 2) - NEWEST_BYTES, 0))
            lines = readable(file.read().decode("utf-8", "replace")).strip().splitlines()
            return lines[-1] if lines else ""
        return ""

    async def submit(self, code: str, timeout: float | None) -> Run:
        """Write an execution down and queue it; returns before it has run.

        Args:
            code: What to run.
            timeout: Seconds it may run before it is interrupted; None: no limit.

        Raises:
            ConflictError: The session is not active.
            KernelDeadError: The kernel died and was not restarted.
        """
        if self.record.status is not SessionStatus.ACTIVE:
            msg = f"session '{self.id}' is {self.record.status}; only an active one runs code"
            raise ConflictError(msg)
        await self.ensure_kernel()
        run = Run(
            Execution(
                id=new_id(),
                session_id=self.id,
                index=self.record.execution_count + 1,
                generation=self.record.generation,
                code=code,
                timeout=timeout,
            )
        )
        self.record = replace(self.record, execution_count=run.execution.index)
        self._touch()
        first = not self._driving
        self._driving = True
        if first:
            run.begin()
        self._queue.append(run)
        try:
            await self._services.store.add_execution(run.execution)
            crash_point("run.queued")
        except Exception:
            self._queue.remove(run)
            raise
        finally:
            if first:
                self._driver = self._services.spawn(self._drive(), name=f"session {self.id}")
        return run

    async def interrupt(self, run: Run | None = None, *, force: bool = False) -> InterruptReport:
        """Stop an execution: SIGINT, SIGINT again, and with `force` kill and restart.

        Args:
            run: The execution; None: the one that runs.
            force: Whether the kernel, with its variables, may be given up.

        Returns:
            The step that worked, found by waiting for the execution and asking the kernel.
        """
        run = run or self._current or next(iter(self._queue), None)
        if run is None or run.done.is_set():
            return InterruptReport(step=InterruptStep.NOTHING_RUNNING)
        if run in self._queue:
            self._queue.remove(run)
            run.cancel("it was interrupted before it ran")
            await self._write_down(run)
            return InterruptReport(step=InterruptStep.DEQUEUED, execution_id=run.id)
        run.stop_as = run.stop_as or ExecutionStatus.INTERRUPTED
        step = await interrupts.signal_until_ended(self.kernel, run)
        if step is not InterruptStep.NO_EFFECT:
            await run.done.wait()
            return InterruptReport(
                step=step, execution_id=run.id, responsive=await interrupts.answers(self.kernel)
            )
        if run.stop_as is ExecutionStatus.INTERRUPTED:
            run.stop_as = None  # should it end later, it was not this that ended it
        stack = await self.stack()
        if force:
            await self.restart("it did not react to two interrupts and force was given")
            return InterruptReport(step=InterruptStep.RESTARTED, execution_id=run.id, stack=stack)
        return InterruptReport(
            step=step,
            execution_id=run.id,
            responsive=await interrupts.answers(self.kernel),
            stack=stack,
        )

    async def restart(self, why: str = "the kernel was restarted") -> None:
        """Replace the kernel by a new one, from whatever state; variables are gone.

        The execution that runs ends as died, queued ones as cancelled.
        """
        async with self._kernel_lock:
            # Should the server die from here on, the next one must not adopt the old kernel.
            await self._services.store.forget_kernel(self.id)
            crash_point("restart.begun")
            await self._stop_kernel(why, grace=0)
            crash_point("restart.stopped")
            self.death = ""
            await self._start_kernel()

    async def stop(self, *, grace: float, why: str) -> None:
        """End the kernel and all executions; the session can't be used afterwards."""
        async with self._kernel_lock:
            if self.kernel is not None:
                await self._services.store.forget_kernel(self.id)
            await self._stop_kernel(why, grace=grace)

    async def leave(self) -> None:
        """Leave the kernel and what it runs as they are, for the next server."""
        async with self._kernel_lock:
            if self._driver is not None:
                self._driver.cancel()
                await asyncio.wait([self._driver])
            if self.kernel is not None:
                self.kernel.leave()

    async def variables(self, limit: int) -> tuple[list[Variable], int]:
        """Return up to `limit` variables of the namespace and how many there are.

        Raises:
            KernelSilentError: The kernel is in native code and can't answer now.
        """
        return await inspection.variables(await self.ensure_kernel(), limit)

    async def adopt_environment(self, distributions: list[str]) -> list[str]:
        """Make the running kernel see its environment; name modules it had loaded before.

        Args:
            distributions: What was just installed, by name.
        """
        if self.kernel is None or self.kernel.process.exit is not None:
            return []
        paths = self.environment.paths
        stale = await inspection.adopt_environment(self.kernel, paths, distributions)
        # What the fork server imported, a fork has again; a fresh process does not.
        if stale and not self.record.fresh:
            self.record = replace(self.record, fresh=True)
            await self._services.store.save_session(self.record)
        return stale

    async def stack(self) -> str:
        """Return the stacks of all threads of the kernel, also while it is in native code."""
        if self.kernel is None:
            return ""
        return await inspection.stack(self.kernel, self.directory / "stacks.txt")

    def _check_alive(self) -> None:
        if (self.kernel is not None and self.kernel.process.exit is not None) or self.death:
            msg = (
                f"the kernel of session '{self.id}' is dead ({self.death}) and its variables "
                "are gone. Call restart_kernel to get a new one."
            )
            raise KernelDeadError(msg)

    async def _start_kernel(self) -> LocalKernel:
        self._starting = True
        try:
            kernel = await self._services.start_kernel(
                self.directory, self.environment, fresh=self.record.fresh
            )
        finally:
            self._starting = False
        await self._own(kernel)
        return kernel

    async def _own(self, kernel: LocalKernel) -> None:
        crash_point("kernel.started")
        self._attach(kernel)
        self.record = replace(self.record, generation=self.record.generation + 1)
        events = ["kernel.started"] if self.is_stored else ["session.created", "kernel.started"]
        await self._services.store.save_session(self.record, *events, kernel=kernel.record)
        self.is_stored = True
        crash_point("kernel.saved")

    def _attach(self, kernel: LocalKernel) -> None:
        self.kernel = kernel
        self._kernel_since = time.monotonic()
        self.peak_memory = 0
        kernel.channels.on_orphan(self._late.hear)
        kernel.process.on_exit(self._on_exit)

    async def _stop_kernel(self, why: str, *, grace: float) -> None:
        kernel, run = self.kernel, self._current
        for waiting in list(self._queue):
            self._queue.remove(waiting)
            waiting.cancel(f"{why} before it ran")
            await self._write_down(waiting)
        if kernel is None:
            return
        self.death = self.death or why
        if run is not None:
            await kernel.process.kill()
            await run.done.wait()
        await kernel.shutdown(grace=grace)
        self.kernel = None

    def _on_exit(self, ended: Exit) -> None:
        self.death = self.death or f"it ended by itself: {ended}"
        if self._current is not None:
            self._current.ended.set()

    async def _drive(self) -> None:
        """Run what is queued, one after the other, until nothing is."""
        try:
            while self._queue:
                run = self._queue.popleft()
                self._current = run
                try:
                    await self._execute(run)
                except Exception:  # one execution's fault must not end the session's queue
                    await self._give_up(run)
                finally:
                    self._current = None
        finally:
            self._driving = False

    async def _execute(self, run: Run) -> None:
        kernel = self.kernel
        if kernel is None or kernel.process.exit is not None:
            run.cancel(f"the kernel died before it ran ({self.death})")
            await self._write_down(run)
            return
        if run.execution.status is ExecutionStatus.QUEUED:
            run.begin()
            run.execution = replace(run.execution, generation=self.record.generation)
            await self._services.store.start_execution(run.execution)
        crash_point("run.intended")
        content: Message = {
            "code": run.execution.code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": False,
        }
        kernel.channels.request("shell", "execute_request", content, run.hear, run.id)
        crash_point("run.sent")
        await self._finish(run, kernel)

    async def _finish(self, run: Run, kernel: LocalKernel) -> None:
        """Wait for the end of an execution that was sent, and write it down."""
        await self._await_end(run)
        if not run.execution.status.is_final:
            await self._await_output(run, kernel)
            run.conclude(kernel.process.exit, self.death)
            await save_images(run, self._services.workspace)
        kernel.channels.forget(run.id)
        crash_point("run.ended")
        await self._write_down(run)
        crash_point("run.written")

    async def _give_up(self, run: Run) -> None:
        """Conclude an execution that carrel itself failed at."""
        log.exception("execution %s of session %s failed in carrel", run.id, self.id)
        run.conclude(None)
        await self._write_down(run)

    async def _go_on(self, kernel: LocalKernel, run: Run | None, newest: Execution | None) -> None:
        """Finish what a dead server had sent, then run what it had queued."""
        self._driving = True
        try:
            if run is not None:
                await self._finish_adopted(run, kernel)
            elif newest is not None:
                await self._hear_of_last(newest, kernel)
        except Exception:
            if run is None or run.done.is_set():
                log.exception("session %s could not be brought up to date", self.id)
            else:
                await self._give_up(run)
        finally:
            self._current = None
        await self._drive()

    async def _finish_adopted(self, run: Run, kernel: LocalKernel) -> None:
        catch_up = CatchUp(run, self.journal)
        kernel.channels.watch(run.id, catch_up.hear)
        # Beside the waiting: a blocked kernel answers late, a timeout must not.
        following = asyncio.ensure_future(catch_up.follow(kernel))
        try:
            await self._await_end(run)
            await following
        finally:
            following.cancel()
        await self._finish(run, kernel)

    async def _hear_of_last(self, newest: Execution, kernel: LocalKernel) -> None:
        """Add what threads of the last execution printed while no server lived."""
        run = Run(newest)
        catch_up = CatchUp(run, self.journal)
        kernel.channels.watch(run.id, catch_up.hear)
        await catch_up.follow(kernel)
        kernel.channels.forget(run.id)
        if found := with_late_output(newest, run):
            await self._services.store.finish_execution(found)
        run.execution = found or newest
        run.done.set()
        self._late.remember(run)

    async def _await_end(self, run: Run) -> None:
        limit = run.execution.timeout
        try:
            # An adopted one has used up some of it.
            async with asyncio.timeout(None if limit is None else max(limit - run.elapsed, 0)):
                await run.ended.wait()
        except TimeoutError:
            run.stop_as = ExecutionStatus.TIMED_OUT
            if await interrupts.signal_until_ended(self.kernel, run) is InterruptStep.NO_EFFECT:
                note = (
                    f"its timeout of {run.execution.timeout:g} s is over, but two interrupts had "
                    "no effect: it is in native code or ignores them. "
                    "interrupt_execution with force=true kills the kernel."
                )
                run.execution = replace(run.execution, note=note)
                await run.ended.wait()

    async def _await_output(self, run: Run, kernel: LocalKernel) -> None:
        """Wait for the rest of the output: until idle, or a dead kernel's last words."""
        if kernel.process.exit is not None:
            await kernel.drain()
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(IDLE_GRACE):
                await run.idle.wait()

    async def _write_down(self, run: Run) -> None:
        """Store the outcome, then tell whoever waits."""
        self._late.remember(run)
        self._touch()
        try:
            await self._services.store.finish_execution(run.execution)
        finally:
            run.done.set()

    def _touch(self) -> None:
        self._active_since = time.monotonic()
        self.record = replace(self.record, last_activity_at=now())
