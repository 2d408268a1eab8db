"""The engine for kernels on this machine: ipc channels to processes that we start.

A kernel is ready when it has answered on its control channel *and* its IOPub reaches us,
so that no output of the first execution can be missed. There is no polling in it: the
process says when its sockets are bound, and each wait ends with the event it waits for.
"""

import asyncio
import logging
import secrets
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import zmq

from carrel.engines.channels import PORTS, Channels, Connection
from carrel.engines.process import KernelProcess
from carrel.engines.spawn import Launch, spawn
from carrel.engines.wire import Message, new_id
from carrel.errors import KernelSilentError, KernelStartError

log = logging.getLogger(__name__)

START_DEADLINE = 60.0  # seconds from the start of a process to its answer
RESEND_AFTER = 0.1  # seconds without IOPub after which readiness is asked for again
SHUTDOWN_GRACE = 0.5  # seconds an asked kernel has to run its exit handlers
DRAIN_QUIET = 0.05  # seconds without a message after which a dead kernel has said it all


class LocalKernel:
    """One running kernel: its process and its channels."""

    def __init__(self, process: KernelProcess, channels: Channels, connection: Connection) -> None:
        self.process = process
        self.channels = channels
        self._connection = connection

    async def request(self, op: str, *, deadline: float, **args: Any) -> Any:
        """Ask the helper inside the kernel; it answers while a cell runs.

        Raises:
            KernelSilentError: No answer in time, or the helper failed.
        """
        content = {"op": op, "args": args}
        reply = await self.channels.ask("control", "carrel_request", content, deadline=deadline)
        if reply.get("status") != "ok":
            raise KernelSilentError(f"the kernel could not tell: {reply.get('error')}")
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
        self.release()

    async def drain(self) -> None:
        """Take what a dead kernel sent before it went."""
        await asyncio.sleep(DRAIN_QUIET)
        self.channels.drain()

    def release(self) -> None:
        """Close the channels and remove the kernel's files."""
        self.channels.close()
        paths = [f"{self._connection.path}{suffix}" for suffix in (".json", ".launch")]
        paths += [f"{self._connection.path}-{number}" for number in PORTS.values()]
        for path in paths:
            Path(path).unlink(missing_ok=True)


class LocalEngine:
    """Starts kernels on this machine; one per server."""

    def __init__(self, runtime: Path) -> None:
        self._runtime = runtime
        self._context: zmq.Context[Any] = zmq.Context()

    async def start(self, launch: Launch, *, deadline: float = START_DEADLINE) -> LocalKernel:
        """Start a kernel and return it when it can run code.

        Raises:
            KernelStartError: It did not get that far; nothing of it is left.
        """
        connection = Connection(
            path=self._runtime / secrets.token_hex(4),
            key=secrets.token_hex(32),
            client_id=new_id(),
        )
        process = await spawn(launch, connection, deadline=deadline)
        kernel = LocalKernel(process, Channels(self._context, connection), connection)
        try:
            await self._handshake(kernel, deadline)
        except BaseException:
            await process.kill()
            kernel.release()
            raise
        return kernel

    def close(self) -> None:
        """Give the zmq context back; all kernels must be down."""
        self._context.destroy(linger=0)

    async def _handshake(self, kernel: LocalKernel, deadline: float) -> None:
        """Wait until the kernel answers and its IOPub reaches us."""
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
                    ask = kernel.channels.request("control", "kernel_info_request", {}, watch)
                    asked.append(ask)
                    with suppress(TimeoutError):
                        # A subscription may arrive after the first status went out.
                        async with asyncio.timeout(RESEND_AFTER):
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
