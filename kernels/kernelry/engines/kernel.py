"""One running kernel: its process, its channels, and what can be asked of them."""

import asyncio
import signal
from contextlib import suppress
from typing import Any

from kernelry import bounds
from kernelry.apart import in_thread
from kernelry.beneath import put_aside, remove_tree
from kernelry.engines.forkserver import ForkServer
from kernelry.errors import KernelSilentError, KernelStartError
from kernelry.messaging import Channels, Connection, Entry, Message, parse, understood
from kernelry.models import KernelRecord
from kernelry.output import taking
from kernelry.processes import (
    Exit,
    Group,
    KernelProcess,
    boot_id,
    end_strays,
    is_known,
    known_group,
)
from kernelry.walls import Walls

RESEND_AFTER = 0.1  # seconds without IOPub after which readiness is asked for again
SHUTDOWN_GRACE = 0.5  # seconds an asked kernel has to run its exit handlers
DRAIN_QUIET = 0.05  # seconds without a message after which a dead kernel has said it all
REPLAY_DEADLINE = 10.0  # seconds a kernel that answers has for a page of its journal


class LocalKernel:
    """One running kernel: its process and its channels."""

    def __init__(
        self, process: KernelProcess, channels: Channels, connection: Connection, walls: Walls
    ) -> None:
        self.process = process
        #: what it stands behind
        self.walls = walls
        self.channels = channels
        #: the fork server that ends it when no server comes for it; None: nobody does yet
        self.guardian: ForkServer | None = None
        #: the control group of all its processes; None: there is none
        self.group: Group | None = None
        self._connection = connection
        self._tidying: asyncio.Future[Any] | None = None
        self._leaving: set[asyncio.Future[None]] = set()
        process.find_box()
        process.on_exit(self._on_exit)

    @property
    def record(self) -> KernelRecord:
        """What the next server needs to take it over."""
        return record_of(self.process, self._connection, self.walls)

    @property
    def is_out_of_memory(self) -> bool:
        """Say whether Linux killed something of it because its memory was used up."""
        return self.group is not None and self.group.has_killed

    def find_group(self) -> None:
        """Find the control group that a server before has made for it."""
        self.group = known_group(self._connection.path.name)

    async def reconnect(self) -> None:
        """Wait until an adopted kernel answers and its IOPub reaches us, however long it takes.

        Raises:
            KernelStartError: It ended.
        """
        await handshake(self, None)

    async def replay(self, since: int) -> list[Entry]:
        """Return what the kernel published after number `since` of its journal.

        Raises:
            KernelSilentError: It did not answer in time, or nothing that makes sense.
            PassedError: It has more than a kernel keeps.
        """
        entries: list[Entry] = []
        size, more = 0, True
        while more:
            after = entries[-1].seq if entries else since
            answer = await self.request("replay", deadline=REPLAY_DEADLINE, since=after)
            with understood("replay"):
                size += sum(map(len, answer["lines"]))
                page = parse(answer["lines"])
                more = bool(answer["more"] and page and page[-1].seq > after)
            entries += page
            if size > bounds.REPLAY_BYTES or len(entries) > bounds.REPLAY_LINES:
                raise bounds.PassedError("more than a kernel keeps for the next server")
        return entries

    async def request(self, op: str, *, deadline: float, **args: Any) -> Any:
        """Ask the helper inside the kernel; it answers while a cell runs.

        Raises:
            KernelSilentError: No answer in time, or the helper failed. What the answer says is
                the kernel's word: read it in a block of `understood`.
        """
        content = {"op": op, "args": args}
        reply = await self.channels.ask("control", "kernelry_request", content, deadline=deadline)
        if reply.get("status") != "ok":
            why = taking.line(reply.get("error"), bounds.ERROR_CHARS)
            raise KernelSilentError(f"the kernel could not tell: {why}")
        with understood(op):
            return reply["answer"]

    def interrupt(self) -> None:
        """Send SIGINT to the kernel and its children; wake it first if it is halted."""
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(signal.SIGINT)

    async def shutdown(self, *, grace: float = SHUTDOWN_GRACE) -> None:
        """End the kernel: ask, give it `grace` seconds, kill what is left of its tree."""
        # Looked up while the kernel lives: afterwards they are somebody else's children.
        family = self.process.descendants()
        if self.process.exit is None and grace > 0:
            with suppress(KernelSilentError):
                await self.channels.ask(
                    "control", "shutdown_request", {"restart": False}, deadline=grace
                )
                await self.process.wait(grace)
        await self.process.kill(family)
        await self._end_group()
        if self._tidying is not None:
            await asyncio.wait([self._tidying], timeout=bounds.END_SECONDS)
        self.release()

    def wait_for(self, leaving: "asyncio.Future[None]") -> None:
        """Have our end wait for what is on its way out of our control group."""
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    async def _are_gone(self) -> None:
        """Wait until all that was on its way out of our control group is out of it."""
        if self._leaving:
            await asyncio.wait(tuple(self._leaving), timeout=bounds.END_SECONDS)

    async def _end_group(self) -> None:
        """End what is still in its control group, however it got away from its family."""
        await self._are_gone()
        if self.group is not None and self.group.members:
            await in_thread(self.group.end, name="strays")

    async def drain(self) -> None:
        """Take what a dead kernel sent before it went."""
        await asyncio.sleep(DRAIN_QUIET)
        self.channels.drain()

    def release(self) -> None:
        """Close the channels and remove the kernel's files."""
        self.channels.close()
        remove_files(self._connection)
        if self.group is not None:
            self.group.remove()

    def _on_exit(self, ended: Exit) -> None:
        self.channels.give_up(f"the kernel has ended ({ended})")
        if not self.process.has_heir or self.group is not None or self.process.start == "box":
            self._tidying = (
                asyncio.ensure_future(self._tidy()) if self._leaving else self._end_left()
            )

    async def _tidy(self) -> None:
        """End what it has left, but for what is on its way out."""
        await self._are_gone()
        await self._end_left()

    def _end_left(self) -> "asyncio.Future[int]":
        """End what it has left, in a thread; it has ended."""
        name = "" if self.process.has_heir else self._connection.path.name
        return in_thread(end_left, name, self.group, self.process, name="strays")

    def leave(self) -> None:
        """Close the channels and leave the kernel as it is, for the next server."""
        self.channels.close()
        self.process.leave()


def record_of(process: KernelProcess, connection: Connection, walls: Walls) -> KernelRecord:
    """Return what the next server needs to take a kernel over."""
    return KernelRecord(
        pid=process.pid,
        started=process.started,
        boot=boot_id(),
        path=str(connection.path),
        key=connection.key,
        client_id=connection.client_id,
        start=process.start,
        isolation=walls.isolation,
        network=walls.network,
    )


def end_left(name: str, group: Group | None, process: KernelProcess) -> int:
    """End what a kernel has left that nobody inherits: by its group, its box, and its mark."""
    ended = group.end() if group is not None else 0
    if process.start == "box":  # of a copy that is in it its engine knows who else is
        process.end_guests()
    return ended + end_strays([name])


async def handshake(kernel: LocalKernel, deadline: float | None) -> None:
    """Wait until a kernel answers and its IOPub reaches us; None: however long it takes.

    Raises:
        KernelStartError: It did not in time, or ended.
    """
    heard = asyncio.Event()
    answered = asyncio.Event()

    def watch(channel: str, message: Message) -> None:
        (heard if channel == "iopub" else answered).set()

    def died(_: object) -> None:
        heard.set()
        answered.set()

    kernel.process.on_exit(died)
    asked: list[str] = []
    try:
        async with asyncio.timeout(deadline):
            while not (heard.is_set() and answered.is_set()):
                asked.append(kernel.channels.request("control", "kernel_info_request", {}, watch))
                with suppress(TimeoutError):
                    # A subscription may arrive after the first status went out.
                    async with asyncio.timeout(RESEND_AFTER * len(asked)):
                        await answered.wait()
                        await heard.wait()
    except TimeoutError:
        msg = f"the kernel's process runs, but it did not answer within {deadline:g} s"
        raise KernelStartError(msg) from None
    finally:
        for msg_id in asked:
            kernel.channels.forget(msg_id)
    if kernel.process.exit is not None:
        raise KernelStartError(f"the kernel ended while it started ({kernel.process.exit})")


async def prove(kernel: LocalKernel, deadline: float) -> None:
    """See a kernel run code, of which nothing stays.

    Raises:
        KernelStartError: It does not.
    """
    content = {"code": "1 + 1", "silent": True, "stop_on_error": False}
    try:
        ask = kernel.channels.ask
        reply = await ask("shell", "execute_request", content, deadline=deadline)
    except KernelSilentError as error:
        raise KernelStartError(f"the kernel answers, but runs no code: {error}") from error
    if reply.get("status") != "ok":
        why = taking.line(reply.get("evalue"), bounds.ERROR_CHARS)
        raise KernelStartError(f"the kernel answers, but code fails in it: {why}")


def remove_files(connection: Connection) -> None:
    """Remove a kernel's sockets and files from the runtime directory, whatever is there.

    Its name is gone at once; nobody waits for the rest, which the next start finishes.
    """
    folder = connection.path.parent
    if folder.name != connection.path.name:  # not its own, as this version makes it
        return
    aside = put_aside(folder)
    if aside is not None:
        in_thread(remove_tree, aside, name=f"remove {folder.name}")


def is_same_process(record: KernelRecord) -> bool:
    """Say whether the process of a record still is; one that can't be told is never ours."""
    return record.boot == (boot_id() or None) and is_known(record.pid, record.started)
