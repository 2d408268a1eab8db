"""The executions of one session: one at a time, in the order they were asked for.

They run in a task of the service, not of the request: whoever stops waiting changes
nothing. Each is written down before it is sent, and its outcome before anybody hears of it.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from kernelry import bounds
from kernelry.artifacts import captures
from kernelry.crashpoints import crash_point
from kernelry.engines import LocalKernel
from kernelry.errors import KernelSilentError, StoreError
from kernelry.messaging import Message, understood
from kernelry.models import Execution, ExecutionStatus, InterruptStep, OnError, SessionRecord
from kernelry.output import save_shown
from kernelry.processes import Exit
from kernelry.session import inspection, interrupts
from kernelry.session.adoption import CatchUp, hear_last_words, with_late_output
from kernelry.session.late import LateOutput
from kernelry.session.notes import Notes
from kernelry.session.queueing import Turn
from kernelry.session.run import NO_REPLY, Run
from kernelry.session.services import Services, isolated
from kernelry.workspace import Changes

log = logging.getLogger(__name__)

LOOK_AFTER = 0.05  # seconds that a cell took after which its files are looked for
CATCH_UP_GRACE = 2.0  # seconds an adopted kernel has to say what it did before a timeout counts
LOOK_PERIOD = 5.0  # seconds between looks whether a kernel forgot to answer
STOP_PATIENCE = 10.0  # seconds until a kernel that sends too much and does not stop is ended
IDLE_GRACE = 5.0  # seconds after the reply without any output after which no more is waited for


class Owner(Protocol):
    """The session, as far as its executions know it."""

    #: what is kept of it
    record: SessionRecord
    #: its kernel
    kernel: LocalKernel | None
    #: why that is dead; empty while it is not
    death: str

    @property
    def journal(self) -> Path:
        """Where its kernel keeps what it published."""
        ...

    @property
    def spill_dir(self) -> Path:
        """Where output is that was too much to be sent."""
        ...

    async def kill(self, why: str) -> None:
        """End its kernel at once."""
        ...

    def touch(self) -> None:
        """Note that something was done in it."""


class Executions:
    """What runs, waits, and has just ended in one session."""

    def __init__(self, owner: Owner, notes: Notes, services: Services) -> None:
        self._owner = owner
        self._notes = notes
        self._services = services
        self._queue: deque[Run | Turn] = deque()
        #: bytes that the kernel had before its first execution, and after the newest; 0: not known
        self.memory = (0, 0)
        self._turn: Turn | None = None
        self._driver: asyncio.Task[None] | None = None
        self._is_driven = False
        #: the execution that runs
        self.current: Run | None = None
        #: those that have just ended, for what is heard of them later
        self.late = LateOutput(services)

    @property
    def is_empty(self) -> bool:
        """Say whether nothing runs or waits to."""
        return self.current is None and self._turn is None and not self._queue

    @property
    def _waiting(self) -> list[Run]:
        return [item for item in self._queue if isinstance(item, Run)]

    @property
    def next(self) -> Run | None:
        """The execution that runs, else the one that will."""
        return self.current or next(iter(self._waiting), None)

    def find(self, execution_id: str) -> Run | None:
        """Return an execution that runs, waits or has just ended."""
        for run in filter(None, (self.current, *self._waiting)):
            if run.id == execution_id:
                return run
        return self.late.find(execution_id)

    async def add(self, run: Run) -> None:
        """Write an execution down and queue it; whoever waits for this may be cancelled.

        Raises:
            StoreError: It can't be written down; it was not queued.
        """
        is_first = not self._is_driven
        self._is_driven = True
        if is_first:
            run.begin()
        self._queue.append(run)
        try:
            await self._services.store.add_execution(run.execution)
            crash_point("run.queued")
        except Exception:
            with suppress(ValueError):
                self._queue.remove(run)
            raise
        finally:
            if is_first:
                self._start(self._drive())

    def adopt(self, kernel: LocalKernel, opened: list[Execution], newest: Execution | None) -> None:
        """Go on with what a dead server had; see `Session.adopt`."""
        self._queue.extend(self.make(e) for e in opened if e.status is ExecutionStatus.QUEUED)
        sent = [e for e in opened if e.status is not ExecutionStatus.QUEUED]
        if sent:
            self.current = self.make(sent[-1])
            self.current.go_on()
        self._is_driven = True
        self._start(self._go_on(kernel, self.current, newest))

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
            run = self.make(execution)
            if execution.status is ExecutionStatus.QUEUED:
                run.cancel("the server ended before it ran")
            else:
                run.go_on()
                catch_up = CatchUp(run, self._owner.journal)
                await catch_up.conclude_from_file(ended, cause, self._services.store.execution)
                await self._save_shown(run)
            await self._write_down(run)
            outcomes.append(run.execution.status)
        return outcomes

    async def _save_shown(self, run: Run) -> None:
        """Keep what an execution showed and text can't tell, and note where they are."""
        ran = run.execution
        stem = f"{ran.session_id}-{ran.index}"
        where, apart = self._services.workspace, self._services.apart
        saved = await save_shown(ran.outputs, where, stem, apart, ran.session_id)
        run.execution = replace(run.execution, outputs=saved)

    async def withdraw(self, run: Run, why: str) -> bool:
        """Cancel an execution that waits; say whether it did."""
        if run not in self._waiting:
            return False
        self._queue.remove(run)
        run.cancel(why)
        await self._write_down(run)
        return True

    async def withdraw_all(self, why: str) -> list[Run]:
        """Cancel all that wait now, and return them."""
        withdrawn = self._waiting
        for run in withdrawn:  # at once: while these are written down others may come
            self._queue.remove(run)
        for run in withdrawn:
            run.cancel(why)
        for run in withdrawn:
            await self._write_down(run)
        return withdrawn

    @asynccontextmanager
    async def turn(self, patience: float | None) -> AsyncIterator[None]:
        """Have nothing run meanwhile: behind what was asked for before, before what comes later.

        Args:
            patience: Seconds to wait for it; None: as long as it takes.

        Raises:
            TimeoutError: It was not our turn by then.
        """
        turn = Turn()
        self._queue.append(turn)
        if not self._is_driven:
            self._is_driven = True
            self._start(self._drive())
        try:
            async with asyncio.timeout(patience):
                await turn.granted.wait()
            yield
        finally:
            turn.over.set()
            with suppress(ValueError):
                self._queue.remove(turn)

    def note_death(self) -> None:
        """Tell what runs that its kernel has ended."""
        if self.current is not None:
            self.current.ended.set()
            self.current.over.set()

    async def leave(self) -> None:
        """Stop looking after what runs; the kernel goes on with it."""
        if self._driver is not None:
            self._driver.cancel()
            await asyncio.wait([self._driver])

    def make(self, execution: Execution) -> Run:
        """Return an execution to be run here, or that was."""
        output = self._services.launches.config.output
        allowance = bounds.Allowance.of(output.head_chars, output.displays, output.rich_bytes)
        return Run(execution, self._notes.hear, self._on_passed, allowance)

    def _on_passed(self, run: Run) -> None:
        if self._owner.kernel is not None:
            self._owner.kernel.channels.mute(run.id)
        if not run.execution.status.is_final:
            self._services.spawn(
                isolated(self._stop(run), f"stopping {run.id}"), name=f"stop {run.id}"
            )

    async def _stop(self, run: Run) -> None:
        """Stop an execution that sends more than is taken."""
        run.stop_as = run.stop_as or ExecutionStatus.INTERRUPTED
        step = await interrupts.signal_until_ended(self._owner.kernel, run)
        with suppress(TimeoutError):  # its end may wait behind all that it has sent before
            async with asyncio.timeout(STOP_PATIENCE):
                await run.ended.wait()
        if step is InterruptStep.NO_EFFECT and not run.ended.is_set() and self.current is run:
            await self._owner.kill(f"{run.passed}; it did not end when it was interrupted")

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._driver = self._services.spawn(work, name=f"session {self._owner.record.id}")

    async def _drive(self) -> None:
        """Run what is queued, one after the other, until nothing is."""
        try:
            while self._queue:
                run = self._queue.popleft()
                if isinstance(run, Turn):
                    self._turn = run
                    run.granted.set()
                    await run.over.wait()
                    self._turn = None
                    continue
                self.current = run
                try:
                    await self._execute(run)
                except Exception:  # one execution's fault must not end the session's queue
                    await self._give_up(run)
                finally:
                    self.current = None
        finally:
            self._is_driven = False

    async def _execute(self, run: Run) -> None:
        kernel = self._owner.kernel
        if kernel is None or kernel.process.exit is not None:
            await self._cancel_for_death(run)
            return
        if why := await self._services.undoing.before(self._owner.record.id, run):
            run.cancel(why)
            await self._write_down(run)
            return
        run.restart_clock()  # what was done before is no time of its
        if run.execution.status is ExecutionStatus.QUEUED:
            run.begin()
            run.execution = replace(run.execution, generation=self._owner.record.generation)
            await self._services.store.start_execution(run.execution)
        if kernel.process.exit is not None:  # while it was written down
            await self._cancel_for_death(run)
            return
        crash_point("run.intended")
        content: Message = {
            "code": run.execution.code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": False,
            "kernelry": self._notes.about(),
        }
        changes = self._services.watch.begin()
        try:
            kernel.channels.request("shell", "execute_request", content, run.hear, run.id)
            crash_point("run.sent")
            await self._finish(run, kernel, changes)
        finally:
            self._services.watch.end(changes)

    async def _cancel_for_death(self, run: Run) -> None:
        run.cancel(f"the kernel died before it ran ({self._owner.death})")
        await self._services.undoing.after(self._owner.record.id, run)
        await self._write_down(run)

    async def _finish(self, run: Run, kernel: LocalKernel, changes: Changes | None = None) -> None:
        """Wait for the end of an execution that was sent, and write it down.

        Args:
            run: The execution.
            kernel: What runs it.
            changes: What it changes in the workspace; None: nobody has watched.
        """
        await self._await_end(run)
        if not run.execution.status.is_final:
            await self._await_output(run, kernel)
            ended = kernel.process.exit
            stack = inspection.crash_stack(self._owner.journal.parent) if ended is not None else ""
            run.conclude(ended, self._owner.death, stack)
            first = self.memory[0] or run.execution.memory_before
            self.memory = (first, run.execution.memory_after)
            if news := self.late.news():
                run.add_note(news)
            if changes is not None:
                await self._add_changes(run, changes)
            await self._save_shown(run)
        await self._services.undoing.after(self._owner.record.id, run)
        kernel.channels.forget(run.id)
        crash_point("run.ended")
        await self._write_down(run)
        crash_point("run.written")

    async def _add_changes(self, run: Run, changes: Changes) -> None:
        """Name the files that programs and libraries have written past the kernel's own Python."""
        watch, owner = self._services.watch, run.execution.session_id
        watch.end(changes)
        # What is as short as that has not had the time to write much: a look takes 20 ms.
        if not changes.is_whole and run.execution.duration >= LOOK_AFTER:
            await self._services.apart.run(owner, watch.look, changes)
        if changes.paths:
            seen = await self._services.apart.run(owner, watch.files, changes)
            run.add_files(seen, is_whole=changes.is_whole, is_shared=changes.is_shared)

    async def _give_up(self, run: Run) -> None:
        """Conclude an execution that kernelry itself failed at."""
        log.exception(
            "execution %s of session %s failed in kernelry", run.id, self._owner.record.id
        )
        run.lose("kernelry itself failed at it; its log says more")
        try:
            await self._services.undoing.after(self._owner.record.id, run)
            await self._write_down(run)
        except StoreError:  # the record itself can't be kept: what of it is ours can
            log.exception("execution %s is kept without its outputs", run.id)
            run.execution = replace(run.execution, outputs=(), progress="", note="")
            await self._write_down(run)

    async def _go_on(self, kernel: LocalKernel, run: Run | None, newest: Execution | None) -> None:
        """Finish what a dead server had sent, then run what it had queued."""
        try:
            if run is not None:
                await self._finish_adopted(run, kernel)
            elif newest is not None:
                await self._hear_of_last(newest, kernel)
        except Exception:
            if run is None or run.done.is_set():
                log.exception("session %s could not be brought up to date", self._owner.record.id)
            else:
                await self._give_up(run)
        finally:
            self.current = None
        await self._drive()

    async def _finish_adopted(self, run: Run, kernel: LocalKernel) -> None:
        catch_up = CatchUp(run, self._owner.journal)
        kernel.channels.watch(run.id, catch_up.hear)
        following = asyncio.ensure_future(self._catch_up(catch_up, kernel))
        # What ended in time must not seem to be late because no server heard of it.
        await asyncio.wait([following], timeout=CATCH_UP_GRACE)
        # Beside the waiting: a blocked kernel answers late, a timeout must not.
        ending = asyncio.ensure_future(self._await_end(run))
        try:
            await asyncio.wait([ending, following], return_when=asyncio.FIRST_EXCEPTION)
            for task in (following, ending):
                if task.done():
                    task.result()
        finally:
            ending.cancel()
            following.cancel()
        await self._finish(run, kernel)

    async def _catch_up(self, catch_up: CatchUp, kernel: LocalKernel) -> None:
        await catch_up.follow(kernel, self._services.store.execution)
        await catch_up.await_reply(kernel)

    async def _hear_of_last(self, newest: Execution, kernel: LocalKernel) -> None:
        """Add what threads of the last execution printed while no server lived."""
        run = self.make(newest)
        catch_up = CatchUp(run, self._owner.journal)
        kernel.channels.watch(run.id, catch_up.hear)
        await catch_up.follow(kernel, self._services.store.execution)
        kernel.channels.forget(run.id)
        if found := with_late_output(newest, run):
            await self._services.store.finish_execution(found)
        run.execution = found or newest
        run.finish()
        self.late.remember(run)

    async def _await_end(self, run: Run) -> None:
        while not run.ended.is_set():
            # An adopted one has used up some of it.
            left = run.time_left
            if left is not None and left <= 0:
                await self._time_out(run)
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left or LOOK_PERIOD, LOOK_PERIOD)):
                    await run.ended.wait()
            if run.idle.is_set() and not run.ended.is_set():
                await self._look_for_reply(run)

    async def _look_for_reply(self, run: Run) -> None:
        """Conclude an execution that the kernel is done with and has not answered."""
        kernel = self._owner.kernel
        with suppress(KernelSilentError):
            if kernel is not None:
                status = await kernel.request("status", deadline=LOOK_PERIOD)
                with understood("status"):
                    is_over = status["msg_id"] != run.id
                if is_over and not run.ended.is_set():
                    run.lose(NO_REPLY)
                    run.ended.set()

    async def _time_out(self, run: Run) -> None:
        run.stop_as = ExecutionStatus.TIMED_OUT
        step = await interrupts.signal_until_ended(self._owner.kernel, run)
        if step is InterruptStep.NO_EFFECT and run.execution.on_error is not OnError.KEEP:
            await self._owner.kill(
                f"its timeout of {run.execution.timeout:g} s was over, two interrupts had no "
                "effect, and it was to be rolled back"
            )
            await run.ended.wait()
        elif step is InterruptStep.NO_EFFECT:
            note = (
                f"its timeout of {run.execution.timeout:g} s is over, but two interrupts had "
                "no effect: it is in native code or ignores them. "
                "interrupt_execution with force=true kills the kernel."
            )
            run.execution = replace(run.execution, note=note)
            await run.ended.wait()

    async def _await_output(self, run: Run, kernel: LocalKernel) -> None:
        """Wait for the rest of the output: until idle, or a dead kernel's last words."""
        end = time.monotonic() + bounds.REST_SECONDS
        heard = -1
        # As long as it comes: a kernel that has much to say is read no faster than others let us.
        while kernel.process.exit is None and not run.over.is_set() and time.monotonic() < end:
            if heard >= 0 and run.passed:
                break
            if run.heard == heard and not kernel.channels.is_behind:
                break
            heard = run.heard
            with suppress(TimeoutError):
                async with asyncio.timeout(min(IDLE_GRACE, end - time.monotonic())):
                    await run.over.wait()
        if kernel.process.exit is not None:
            await kernel.drain()
            await hear_last_words(run, self._owner.journal)

    async def _write_down(self, run: Run) -> None:
        """Store the outcome, then tell whoever waits."""
        self._notes.end(run)
        self.late.remember(run)
        self._owner.touch()
        wanted = captures.is_wanted(run.execution)
        try:
            await self._services.store.finish_execution(run.execution, capture=wanted)
        finally:
            run.finish()
        if wanted:
            capture = self._services.keeper.keep(run.execution, self._owner.spill_dir)
            self._services.spawn(capture, name=f"artifacts of {run.id}")
