"""One execution while it lives: what has been heard of it, and who waits for it."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any

from kernelry import bounds
from kernelry.messaging import UNSOUND, Message
from kernelry.models import Execution, ExecutionError, ExecutionStatus, Question, now
from kernelry.output import OutputFold, plain, taking
from kernelry.processes import Exit

log = logging.getLogger(__name__)

NOTE = "kernelry_note"  # message type; see inside/steering/notes.py
STOPPED = "ExecutionStopped"  # what code raises that is stopped at a safe point
HELD_PERIOD = 1.0  # seconds between looks whether one that is held goes on
NO_REPLY = "the kernel went idle without a reply"
NAMED_FILES = 5  # that a note names
HINT_CHARS = 1000  # of what a kernel says about an error
PAGES = 10  # of what a cell asks its client to show in a pager
STOPS = ("KeyboardInterrupt", "CancelledError")  # what code raises that was stopped
BAD_REPLY = "the kernel's reply can't be read"


class Run:
    """An execution from its intent to its outcome; `done` is set when it is written down.

    Args:
        execution: What is known of it.
        on_note: Takes what its kernel tells besides outputs; None: that waits for `take`.
        on_passed: Told once when the kernel sends more for it than is taken.
        allowance: How much that is.
    """

    def __init__(
        self,
        execution: Execution,
        on_note: Callable[["Run", Message], None] | None = None,
        on_passed: Callable[["Run"], None] = lambda run: None,
        allowance: bounds.Allowance = bounds.DEFAULT,
    ) -> None:
        self.execution = execution
        #: how much of its output is taken
        self.allowance = allowance
        self.fold = OutputFold(allowance)
        #: which bound its output has passed; empty: none
        self.passed = ""
        #: messages that were taken for it
        self.heard = 0
        #: the kernel has taken it up
        self.begun = asyncio.Event()
        #: the shell reply has come, or can't come any more
        self.ended = asyncio.Event()
        #: the kernel has said that it published everything
        self.idle = asyncio.Event()
        #: nothing more can be heard of it: it was idle, or its kernel is gone
        self.over = asyncio.Event()
        #: the outcome is in the store
        self.done = asyncio.Event()
        #: what an error reply means because somebody asked for it
        self.stop_as: ExecutionStatus | None = None
        #: what that was for, if nobody asked but a limit
        self.stopped_why = ""
        #: something that it emitted is known to be gone
        self.missed_output = False
        #: when it ended, if that was before we heard of it
        self.ended_at: datetime | None = None
        #: it was paused, resumed, asked something, or has ended
        self.changed = asyncio.Event()
        #: when it was last held at a safe point; None: it is not
        self.held_since: datetime | None = None
        self.held_by = ""
        self._held_before = 0.0
        self._on_note = on_note
        self._on_passed = on_passed
        self._is_stale = False  # output came after its end
        self._note_count = 0
        self._notes: dict[str, Message | None] = {}  # those that were handed on are only known
        self._hint = ""
        self._reply: Message | None = None
        self._started = time.monotonic()

    @property
    def id(self) -> str:
        """The execution's id."""
        return self.execution.id

    @property
    def elapsed(self) -> float:
        """Seconds since it was sent."""
        return time.monotonic() - self._started

    @property
    def paused_for(self) -> float:
        """Seconds that it was held at safe points; they don't count for its timeout."""
        since = self.held_since
        now_held = max((now() - since).total_seconds(), 0.0) if since else 0.0
        return self._held_before + now_held

    @property
    def time_left(self) -> float | None:
        """Seconds until its timeout, or until that should be asked again; None: it has none."""
        if self.execution.timeout is None:
            return None
        if self.held_since is not None:
            return HELD_PERIOD
        return self.execution.timeout - (self.elapsed - self.paused_for)

    def hold(self, since: datetime, by: str) -> None:
        """Note that it is held at a safe point, as somebody asked."""
        self.held_since, self.held_by = since, by
        self._tell_change()

    def release(self) -> None:
        """Note that it goes on."""
        self._held_before, self.held_since = self.paused_for, None
        self._tell_change()

    def ask(self, question: Question | None) -> None:
        """Note what it waits for; None: it goes on."""
        status = ExecutionStatus.RUNNING if question is None else ExecutionStatus.WAITING_INPUT
        if not self.execution.status.is_final:
            self.execution = replace(self.execution, status=status, question=question)
        self._tell_change()

    def _tell_change(self) -> None:
        """Wake whoever waits for a change; the next change wakes who waits then."""
        self.changed.set()
        self.changed = asyncio.Event()

    def begin(self) -> None:
        """Mark it as sent."""
        self._started = time.monotonic()
        self.execution = replace(self.execution, status=ExecutionStatus.RUNNING, started_at=now())

    def restart_clock(self) -> None:
        """Count its time from now on."""
        self._started = time.monotonic()

    def go_on(self) -> None:
        """Take it up from a server before, which has sent it."""
        sent = self.execution.started_at or self.execution.created_at
        # Of two clocks only the wall's is common to both servers; it may have been set back.
        self._started = time.monotonic() - max((now() - sent).total_seconds(), 0.0)

    def hear(self, channel: str, message: Message) -> None:
        """Take a message that answers this execution's request; never blocks."""
        if channel == "iopub":
            self.heard += 1
            if message["msg_type"] == "status":
                if message["content"].get("execution_state") == "idle":
                    self.idle.set()
                    self.over.set()
            elif message["msg_type"] == NOTE:
                self.begun.set()
                self.note(message)
            else:
                self.begun.set()
                self._add(message)
        elif channel == "shell" and self._reply is None:
            self._reply = message["content"]
            self.ended.set()

    def note(self, message: Message) -> None:
        """Take what the kernel tells besides outputs; the same message only once.

        Raises:
            ValueError: It has no name that can be kept.
        """
        key = str(message["header"].get("msg_id"))
        if len(key) > bounds.NOTE_ID_CHARS:
            raise ValueError("a note with a name that is too long")
        if key in self._notes or self.passed:
            return
        # How far it is may be told for days; to hear it twice does no harm.
        is_counted = message["content"].get("kind") != "progress" or self._on_note is None
        self._note_count += is_counted
        if self._note_count > bounds.NOTES:
            self.stop_taking(f"more than {bounds.NOTES} events, changes and questions")
            return
        if is_counted:
            self._notes[key] = None if self._on_note else message
        if self._on_note is not None:
            self._on_note(self, message)

    def hear_late(self, message: Message) -> bool:
        """Take output that comes after its end; say whether it was taken."""
        if self.passed:
            return False
        self._add(message)
        if self.passed:
            self.execution = replace(self.execution, note=self.passed, outputs_complete=False)
        self._is_stale = True
        return True

    def stop_taking(self, why: str) -> None:
        """Take no more output of it: its kernel has sent more than it may."""
        if self.passed:
            return
        self.passed = f"stopped: its kernel sent {why}, which no kernel of ours does"
        log.warning("execution %s: %s", self.id, self.passed)
        self._on_passed(self)

    def _add(self, message: Message) -> None:
        if self.passed:
            return
        try:
            self.fold.add(message)
        except bounds.PassedError as error:
            self.stop_taking(str(error))

    def again(self) -> "Run":
        """Return the same execution, to be heard from its beginning; its notes wait for `take`."""
        return Run(self.execution, allowance=self.allowance)

    def take(self, kept: "Run") -> None:
        """Take the rest of what was heard of this execution from what its kernel kept of it."""
        self.fold = kept.fold
        self.passed = self.passed or kept.passed
        for message in filter(None, kept._notes.values()):
            self.note(message)
        self._reply = self._reply or kept._reply
        if kept.idle.is_set():
            self.idle.set()

    async def wait(
        self,
        seconds: float | None,
        *,
        or_question: bool = False,
        unless: Question | None = None,
    ) -> bool:
        """Wait up to `seconds` (None: without limit) for the outcome; say whether it is there.

        Args:
            seconds: How long.
            or_question: Also return, with True, when it asks something.
            unless: Return, with True, when it does not ask this any more.
        """

        def is_time() -> bool:
            question = self.execution.question
            asks = or_question and question is not None
            return self.done.is_set() or asks or (unless is not None and question != unless)

        if not is_time() and (seconds is None or seconds > 0):
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    if not (or_question or unless):
                        await self.done.wait()
                    while not is_time():
                        await self.changed.wait()
        return is_time()

    def finish(self) -> None:
        """Note that the outcome is in the store."""
        self.done.set()
        self._tell_change()

    def snapshot(self) -> Execution:
        """Return the execution with what it has emitted so far."""
        if self.execution.status.is_final or self.execution.status is ExecutionStatus.QUEUED:
            if self._is_stale:
                self.execution = replace(self.execution, outputs=self.fold.outputs)
                self._is_stale = False
            return self.execution
        return replace(self.execution, outputs=self.fold.outputs, duration=self.elapsed)

    def conclude(self, ended: Exit | None, cause: str = "", stack: str = "") -> None:
        """Decide the outcome from the reply, or from the kernel's end.

        Args:
            ended: How the kernel ended, if it did.
            cause: What is known of why, in words.
            stack: Where its code was then, if it crashed.
        """
        files: tuple[str, ...] = ()
        if self._reply is not None:
            try:
                status, error = self._outcome(self._reply)
                files = self._report(self._reply)
                self._show_pages(self._reply)
            except UNSOUND:
                status, error = ExecutionStatus.LOST, _lost(BAD_REPLY)
        elif ended is not None:
            status = ExecutionStatus.DIED
            message = cause or str(ended)
            error = ExecutionError(type="KernelDied", message=message, traceback=stack)
        else:
            status, error = ExecutionStatus.LOST, _lost(NO_REPLY)
        if self.passed and status is not ExecutionStatus.DIED:
            status = ExecutionStatus.INTERRUPTED
            error = ExecutionError(type="OutputLimit", message=self.passed)
        ended_at = self.ended_at or now()
        duration = self.elapsed
        if self.ended_at is not None and (began := self.execution.started_at) is not None:
            duration = max((ended_at - began).total_seconds(), 0.0)
        self.execution = replace(
            self.execution,
            status=status,
            error=error,
            question=None,
            new_files=files,
            ended_at=ended_at,
            duration=duration,
            outputs=self.fold.outputs,
            note=self.passed or self.stopped_why or self.execution.note or self._hint,
            outputs_complete=self.idle.is_set() and not self.missed_output and not self.passed,
        )

    def add_files(self, seen: list[str], *, is_whole: bool, is_shared: bool) -> None:
        """Name files that changed meanwhile and that the kernel did not see.

        Args:
            seen: Paths in the workspace.
            is_whole: Whether these are all.
            is_shared: Whether it can have been another session.
        """
        known = self.execution.new_files
        more = files_in([path for path in seen if path not in known])
        if more and is_shared:
            names = ", ".join(more[:NAMED_FILES]) + (", ..." if len(more) > NAMED_FILES else "")
            self.add_note(f"Changed meanwhile, by this session or another that ran: {names}.")
        elif more:
            files = tuple(sorted({*known, *more})[: bounds.NEW_FILES])
            self.execution = replace(self.execution, new_files=files)
        if (more or known) and not is_whole:
            self.add_note("There may be more files: only a part of the workspace was looked at.")

    def add_note(self, note: str) -> None:
        """Say something more with its outcome."""
        known = self.execution.note
        self.execution = replace(self.execution, note=f"{known} {note}" if known else note)

    def lose(self, why: str) -> None:
        """Conclude an execution of which nothing can be known any more."""
        self._reply = None
        self.conclude(None)
        self.execution = replace(self.execution, error=_lost(why))

    def cancel(self, why: str) -> None:
        """Conclude an execution that never ran."""
        self.execution = replace(
            self.execution,
            status=ExecutionStatus.CANCELLED,
            error=ExecutionError(type="Cancelled", message=why),
            ended_at=now(),
        )

    def _report(self, reply: dict[str, Any]) -> tuple[str, ...]:
        """Take the kernel's report on the execution; return the files that it made."""
        report = taking.table(reply.get("kernelry"))
        self._hint = taking.line(report.get("hint", ""), HINT_CHARS)
        if missed := report.get("missed"):
            by, action = (taking.line(missed[key], HINT_CHARS) for key in ("by", "action"))
            asked = f"{by} asked to {action} it"
            self._hint = self._hint or f"{asked}, but it ended before a safe point"
        before, after = report.get("memory", (0, 0))
        progress = report.get("progress", self.execution.progress)
        self.execution = replace(
            self.execution,
            progress=taking.line(progress, bounds.NOTE_CHARS),
            memory_before=taking.number(before),
            memory_after=taking.number(after),
        )
        if "overflow" in report:
            self.fold.settle(taking.table(report["overflow"]))
        return files_in(report.get("files", ()))

    def _show_pages(self, reply: dict[str, Any]) -> None:
        """Show what a client would have in a pager (``len?``) or as the next cell (``%load``)."""
        payload = reply.get("payload")
        for item in (payload if isinstance(payload, list) else [])[:PAGES]:
            page = taking.table(item)
            text = taking.table(page.get("data")).get("text/plain")
            if page.get("source") == "set_next_input":
                text = f"The next cell, not run yet:\n{page.get('text', '')}"
            if isinstance(text, str) and text:
                content = {"data": {"text/plain": plain(text)}, "metadata": {}}
                self._add({"header": {"msg_type": "display_data"}, "content": content})

    def _outcome(self, reply: dict[str, Any]) -> tuple[ExecutionStatus, ExecutionError | None]:
        status = reply.get("status")
        was_felt = bool(taking.table(reply.get("kernelry")).get("interrupted"))
        if status == "ok":
            if self.stop_as is None:
                return ExecutionStatus.COMPLETED, None
            if not was_felt:
                self.stopped_why = f"{self._why_stopped()}, but it had ended before that reached it"
                return ExecutionStatus.COMPLETED, None
            error = ExecutionError(
                type="KeyboardInterrupt",
                message=f"{self._why_stopped()}; its code caught that, and ended in its own way",
            )
            return self.stop_as, error
        if status == "aborted":
            error = ExecutionError(type="Cancelled", message="the kernel did not run it")
            return ExecutionStatus.CANCELLED, error
        error = ExecutionError(
            type=taking.line(reply.get("ename", "Error"), bounds.ENAME_CHARS),
            message=taking.line(reply.get("evalue", ""), bounds.EVALUE_CHARS),
            traceback=plain("\n".join(taking.lines(reply.get("traceback")))),
        )
        if taking.table(reply.get("kernelry")).get("stopped") and error.type == STOPPED:
            return self.stop_as or ExecutionStatus.INTERRUPTED, error
        if self.stop_as is None or not (was_felt or error.type in STOPS):
            return ExecutionStatus.FAILED, error
        told = "" if error.type in STOPS else f". What it waited for said: {error.message}"
        return self.stop_as, replace(error, message=f"{self._why_stopped()}; variables stay{told}")

    def _why_stopped(self) -> str:
        """Say what stopped it, or was to."""
        if self.stopped_why:
            return self.stopped_why
        if self.stop_as is ExecutionStatus.TIMED_OUT:
            return f"stopped by its timeout of {self.execution.timeout:g} s"
        return "stopped by an interrupt"


def files_in(named: object) -> tuple[str, ...]:
    """Return the workspace files in a kernel's report: those that can be some, as many as are."""
    found: list[str] = []
    for name in (named if isinstance(named, list) else [])[: bounds.NEW_FILES]:
        if not isinstance(name, str) or len(name) > bounds.PATH_CHARS:
            continue
        if not name.startswith("/") and ".." not in name.split("/"):
            found.append(plain(name))
    return tuple(found)


def _lost(why: str) -> ExecutionError:
    return ExecutionError(type="ReplyLost", message=why)
