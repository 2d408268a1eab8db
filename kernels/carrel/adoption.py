"""Bring an execution of a dead server up to date from what its kernel kept.

Each message counts once, whether it comes from the kernel's journal or live: the journal's
file first, at once; then, when the kernel answers, what came after it; then what arrived
meanwhile. Only then is it known whether the kernel had taken the execution up at all.
"""

import asyncio
from dataclasses import replace
from pathlib import Path

from carrel.engines.journal import Entry, is_whole, read_journal
from carrel.engines.kernel import LocalKernel
from carrel.engines.process import Exit
from carrel.engines.wire import Message
from carrel.errors import KernelSilentError, KernelStartError
from carrel.models import Execution
from carrel.outputs import Display, Output
from carrel.run import Run

SHELL_DEADLINE = 30.0  # seconds between looks whether the kernel has taken an execution up
NEVER_REACHED = "the server ended before the kernel got it; it never ran"


class CatchUp:
    """One execution of an adopted kernel, and what was and is heard of it."""

    def __init__(self, run: Run, journal: Path) -> None:
        self.run = run
        self._journal = journal
        self._entries: list[Entry] = []
        self._seen: set[str] = set()
        self._held: list[tuple[str, Message]] | None = []

    @property
    def has_begun(self) -> bool:
        """Say whether the kernel is known to have taken the execution up."""
        return self.run.begun.is_set()

    def hear(self, channel: str, message: Message) -> None:
        """Take what arrives live; it waits for what came before it."""
        if self._held is not None:
            self._held.append((channel, message))
        elif message["header"]["msg_id"] not in self._seen:
            self.run.hear(channel, message)

    async def follow(self, kernel: LocalKernel) -> None:
        """Catch up with a kernel that lives; returns when what follows comes live.

        The run has ended when this returns, if it had ended or never begun. A kernel that
        dies meanwhile leaves its file.
        """
        await self.read_file()
        try:
            await kernel.reconnect()
            self._feed(await kernel.replay(self._last_seq))
            while not self._was_published:
                await self._ask_shell(kernel)
                self._feed(await kernel.replay(self._last_seq))
                if not self.has_begun:
                    self.run.cancel(NEVER_REACHED)
                    self.run.ended.set()
                    break
        except (KernelStartError, KernelSilentError):
            await self.read_file()
        self._open()

    async def read_file(self) -> bool:
        """Take what the file has; say whether there is one."""
        entries = await asyncio.to_thread(read_journal, self._journal)
        self._feed(entries or [])
        return entries is not None

    def settle(self) -> None:
        """Note whether something is missing between what was kept and what came live."""
        self.run.missed_output = not is_whole(self._entries)

    @property
    def _last_seq(self) -> int:
        return self._entries[-1].seq if self._entries else 0

    @property
    def _was_published(self) -> bool:
        return self.has_begun or self.run.ended.is_set() or bool(self._held)

    async def _ask_shell(self, kernel: LocalKernel) -> None:
        """Wait until the kernel has looked at all that was sent to it before."""
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
            if entry.msg_id != self.run.id or entry.seq <= self._last_seq:
                continue
            self._entries.append(entry)
            self.run.begun.set()
            if entry.channel == "iopub":
                self._seen.add(str(entry.message["header"].get("msg_id")))
            if entry.channel != "begin":
                self.run.hear(entry.channel, entry.message)

    def _open(self) -> None:
        held, self._held = self._held or [], None
        self.settle()
        for channel, message in held:
            self.hear(channel, message)


async def conclude_from_file(run: Run, journal: Path, ended: Exit, cause: str) -> None:
    """Decide the outcome of an execution whose kernel is gone, from what the kernel kept.

    Args:
        run: The execution.
        journal: The kernel's file.
        ended: How the kernel ended.
        cause: The same in words.
    """
    catch_up = CatchUp(run, journal)
    was_read = await catch_up.read_file()
    catch_up.settle()
    if catch_up.has_begun:
        run.conclude(ended, cause)
    elif was_read:
        run.cancel(NEVER_REACHED)
    else:  # nothing was kept: it may have run or not
        run.conclude(None)


async def hear_last_words(run: Run, journal: Path) -> None:
    """Add to an execution whose kernel died what that had published and could not send any more.

    Args:
        run: The execution, with what came live.
        journal: The kernel's file.
    """
    kept = Run(run.execution)
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
        kept[i] if i < len(kept) and isinstance(kept[i], Display) else output
        for i, output in enumerate(heard)
    ]
    return replace(stored, outputs=tuple(merged))


def text_size(outputs: tuple[Output, ...]) -> int:
    """Return how much text there is, and how many outputs."""
    return sum(1 + len(getattr(output, "text", "")) for output in outputs)
