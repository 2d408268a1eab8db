"""Bring an execution of a dead server up to date from what its kernel kept.

Each message counts once, whether it comes from the kernel's journal or live: the journal's
file first, at once; then, when the kernel answers, what came after it; then what arrived
meanwhile. Only then is it known whether the kernel had taken the execution up at all.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from kernelry import bounds
from kernelry.engines import LocalKernel
from kernelry.errors import KernelSilentError, KernelStartError
from kernelry.messaging import UNSOUND, Entry, Message, newest_begun, read_journal, understood
from kernelry.models import Execution, ExecutionStatus
from kernelry.output import Display, Output, Spill
from kernelry.processes import Exit
from kernelry.session.inspection import crash_stack
from kernelry.session.run import Run

Find = Callable[[str], Awaitable[Execution | None]]

SHELL_DEADLINE = 30.0  # seconds between looks whether the kernel has taken an execution up
BEGIN_PAUSE = 0.01  # seconds between looks whether a kernel that said "busy" has begun
STATUS_DEADLINE = 10.0  # seconds a kernel has to say what it runs
SILENCE_PAUSE = 1.0  # seconds before a kernel is asked again that did not answer
NEVER_REACHED = "the server ended before the kernel got it; it never ran"
NOT_KEPT = "its server ended, and what the kernel kept does not say whether it ran"


class CatchUp:
    """One execution of an adopted kernel, and what was and is heard of it."""

    def __init__(self, run: Run, journal: Path) -> None:
        self.run = run
        self._journal = journal
        self._last_seq = 0
        self._newest: str | None = None
        self._is_whole = False
        self._seen: set[str] = set()
        self._held: list[tuple[str, Message]] | None = []
        self._held_size = 0  # bytes of these

    @property
    def has_begun(self) -> bool:
        """Say whether the kernel is known to have taken the execution up."""
        return self.run.begun.is_set()

    def hear(self, channel: str, message: Message) -> None:
        """Take what arrives live; it waits for what came before it."""
        if self._held is not None:
            self._held_size += message["size"]
            if self._held_size > self.run.allowance.size:
                self.run.stop_taking(f"more than {self.run.allowance.size} bytes of output")
            else:
                self._held.append((channel, message))
        elif message["header"]["msg_id"] not in self._seen:
            self.run.hear(channel, message)

    async def follow(self, kernel: LocalKernel, find: Find) -> None:
        """Catch up with a kernel that lives; returns when what follows comes live.

        The run has ended when this returns, if it had ended or never begun. A kernel that
        dies meanwhile leaves its file.

        Args:
            kernel: The kernel.
            find: Returns an execution from the store.
        """
        await self._read_ahead()
        try:
            await kernel.reconnect()
            await self._replay(kernel)
            while not self.has_begun and not self._was_answered:
                if self._held:  # it is about to
                    await asyncio.sleep(BEGIN_PAUSE)
                else:
                    # Twice: the sockets of two servers are read in turn, not in order.
                    await self._ask_shell(kernel)
                    await self._ask_shell(kernel)
                await self._replay(kernel)
                if not (self.run.begun.is_set() or self._held):
                    await self.conclude_unbegun(find, known=self._newest or "")
                    self.run.ended.set()
                    break
            await self._check_that_it_runs(kernel)
        except KernelStartError:
            await self.read_file()
        self._open()

    async def await_reply(self, kernel: LocalKernel) -> None:
        """Wait until the reply has come; fetch one that went to the server before.

        A kernel that reads a request only after the next server has connected answers to
        who sent it: ZeroMQ then has another name for that connection.
        """
        ending = asyncio.ensure_future(self.run.ended.wait())
        falling_idle = asyncio.ensure_future(self.run.idle.wait())
        try:
            await asyncio.wait([ending, falling_idle], return_when=asyncio.FIRST_COMPLETED)
        finally:
            ending.cancel()
            falling_idle.cancel()
        with suppress(KernelStartError):
            while not self.run.ended.is_set() and not self.run.passed:
                await self._replay(kernel)
                await self._check_that_it_runs(kernel)
                await asyncio.sleep(BEGIN_PAUSE)

    async def read_file(self) -> None:
        """Take what the file has."""
        entries = await asyncio.to_thread(read_journal, self._journal)
        self._feed(entries or [])

    async def conclude_from_file(self, ended: Exit, cause: str, find: Find) -> None:
        """Decide the outcome of an execution whose kernel is gone, from what the kernel kept.

        Args:
            ended: How the kernel ended.
            cause: The same in words.
            find: Returns an execution from the store.
        """
        await self.read_file()
        self.settle()
        if self.has_begun:
            self.run.conclude(ended, cause, crash_stack(self._journal.parent))
        else:
            await self.conclude_unbegun(find, known=self._newest)

    async def conclude_unbegun(self, find: Find, *, known: str | None) -> None:
        """Decide the outcome of an execution that is not the newest its kernel knows.

        Args:
            find: Returns an execution from the store.
            known: The newest; empty: there was none at all; None: nothing was kept.
        """
        before = await find(known) if known else None
        own = self.run.execution
        comes_after = (
            before is not None and before.session_id == own.session_id and before.index < own.index
        )
        if known == "" or comes_after:
            self.run.cancel(NEVER_REACHED)
        else:
            self.run.lose(NOT_KEPT)

    def settle(self) -> None:
        """Note whether something is missing between what was kept and what came live."""
        self.run.missed_output = not self._is_whole

    @property
    def _was_answered(self) -> bool:
        heard = any(channel == "shell" for channel, _ in self._held or ())
        return heard or self.run.ended.is_set()

    async def _check_that_it_runs(self, kernel: LocalKernel) -> None:
        """Conclude an execution that has ended and whose reply is nowhere: it would never end."""
        if self._was_answered:
            return
        with suppress(KernelSilentError):
            status = await kernel.request("status", deadline=STATUS_DEADLINE)
            with understood("status"):
                if status["msg_id"] == self.run.id:
                    return
            await self._ask_shell(kernel)  # it may be about to reply
            await self._replay(kernel)
            if not self._was_answered:
                self.run.lose(NOT_KEPT)
                self.run.ended.set()

    async def _read_ahead(self) -> None:
        """Take what the file has up to the first gap; the kernel itself knows the rest."""
        entries = await asyncio.to_thread(read_journal, self._journal) or []
        first = entries[0].seq if entries else 0
        self._feed([entry for i, entry in enumerate(entries) if entry.seq == first + i])

    async def _replay(self, kernel: LocalKernel) -> None:
        """Take what the kernel kept since what we know; wait while native code blocks it.

        Raises:
            KernelStartError: It ended.
        """
        while kernel.process.exit is None:
            try:
                kept = await kernel.replay(self._last_seq)
            except bounds.PassedError as error:
                self.run.stop_taking(str(error))
                self.run.begun.set()
                return
            except KernelSilentError:
                if self.has_begun:  # the file has all but the newest, and that comes live
                    break
                await asyncio.sleep(SILENCE_PAUSE)
                continue
            if kept and kept[0].seq > self._last_seq + 1:
                await self._read_ahead()  # more than its memory holds was published meanwhile
            self._feed(kept)
            return
        await self.read_file()
        if kernel.process.exit is not None:
            raise KernelStartError("the kernel ended")

    async def _ask_shell(self, kernel: LocalKernel) -> None:
        """Wait until the kernel has looked at what was sent to it before."""
        while kernel.process.exit is None:
            try:
                await kernel.channels.ask(
                    "shell", "kernel_info_request", {}, deadline=SHELL_DEADLINE
                )
                return
            except KernelSilentError:  # it is busy
                continue
        raise KernelStartError("the kernel ended")

    def _feed(self, entries: list[Entry]) -> None:
        for entry in entries:
            if entry.seq <= self._last_seq:
                continue
            if entry.seq != self._last_seq + 1:
                self._is_whole = False
            self._last_seq = entry.seq
            if entry.channel in ("open", "begin"):
                self._newest = entry.msg_id
            if entry.msg_id == self.run.id:
                self._take(entry)

    def _take(self, entry: Entry) -> None:
        self.run.begun.set()
        if entry.channel == "begin":
            self._is_whole = True
            return
        if self._held is None and entry.channel != "shell":
            return  # it has come live
        if entry.channel == "iopub":
            self._seen.add(str(entry.message["header"].get("msg_id")))
        try:
            self.run.hear(entry.channel, entry.message)
            if entry.channel == "shell" and entry.message["at"]:
                self.run.ended_at = datetime.fromtimestamp(entry.message["at"], UTC)
        except UNSOUND:
            self._is_whole = False

    def _open(self) -> None:
        held, self._held = self._held or [], None
        self.settle()
        for channel, message in held:
            self.hear(channel, message)


async def with_what_ran(opened: list[Execution], journal: Path) -> list[Execution]:
    """Return executions without an outcome, those marked as sent that a kernel has begun.

    While the disk is full a server keeps its records in memory. If it is killed then, what
    it had sent seems to be waiting still, and would run once more.

    Args:
        opened: All of one session, in their order.
        journal: Its kernel's file.
    """
    begun = await asyncio.to_thread(newest_begun, journal)
    places = [i for i, execution in enumerate(opened) if execution.id == begun]
    sent = places[0] + 1 if places else 0
    return [
        replace(execution, status=ExecutionStatus.RUNNING, started_at=execution.created_at)
        if i < sent and execution.status is ExecutionStatus.QUEUED
        else execution
        for i, execution in enumerate(opened)
    ]


async def hear_last_words(run: Run, journal: Path) -> None:
    """Add to an execution whose kernel died what that had published and could not send any more.

    Args:
        run: The execution, with what came live.
        journal: The kernel's file.
    """
    if run.passed:
        return
    kept = run.again()
    catch_up = CatchUp(kept, journal)
    await catch_up.read_file()
    catch_up.settle()
    if not kept.missed_output:
        run.take(kept)


def with_late_output(stored: Execution, run: Run) -> Execution | None:
    """Return a finished execution with what its threads printed later; None: nothing new.

    Args:
        stored: As it was written down.
        run: The same, heard again from the journal.
    """
    heard = run.fold.outputs
    if run.missed_output or text_size(heard) <= text_size(stored.outputs):
        return None
    # Images that were saved are noted in what is stored, so that stays.
    kept = stored.outputs
    merged = [
        kept[i] if i < len(kept) and isinstance(kept[i], (Display, Spill)) else output
        for i, output in enumerate(heard)
    ]
    return replace(stored, outputs=tuple(merged))


def text_size(outputs: tuple[Output, ...]) -> int:
    """Return how much text there is, and how many outputs."""
    return sum(1 + len(getattr(output, "text", "")) for output in outputs)
