"""The engine for kernels on this machine: ipc channels to processes that we start.

A kernel is forked from the fork server, taken warm from a pool of such, or spawned as a
fresh process. It is ready when it has answered on its control channel *and* its IOPub
reaches us, so that no output of the first execution can be missed. There is no polling in
it: the process says when its sockets are bound, and each wait ends with its event.
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
from carrel.engines.forkserver import ForkServer, Profile, Started, start_fork_server
from carrel.engines.launch import Launch
from carrel.engines.process import KernelProcess
from carrel.engines.spawn import spawn
from carrel.engines.wire import Message, new_id
from carrel.errors import KernelSilentError, KernelStartError

log = logging.getLogger(__name__)

START_DEADLINE = 60.0  # seconds from the start of a process to its answer
TEST_DEADLINE = 20.0  # seconds a forked kernel has to pass the start-up test
LEVELS = ("shell", "imports")  # how far a fork server prepares its kernels; best first
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
        remove_files(self._connection)


class LocalEngine:
    """Starts kernels on this machine; one per server.

    Args:
        runtime: Short private directory for sockets.
        profile: What the fork server is started with; None: every kernel is spawned.
        forced: Whether a kernel that can't be forked is an error instead of spawned.
    """

    def __init__(self, runtime: Path, profile: Profile | None, *, forced: bool) -> None:
        self._runtime = runtime
        self._profile = profile
        self._forced = forced
        self._context: zmq.Context[Any] = zmq.Context()
        self._server: ForkServer | None = None
        self._server_lock = asyncio.Lock()
        #: what the fork server said when it started; None: it has not been started
        self.started: Started | None = None

    @property
    def can_fork(self) -> bool:
        """Say whether a kernel can be forked at once."""
        return self._server is not None and not self._server.is_closed

    async def start(
        self, launch: Launch, *, fresh: bool = False, deadline: float = START_DEADLINE
    ) -> LocalKernel:
        """Start a kernel and return it when it can run code.

        Args:
            launch: What to start.
            fresh: Whether it shall be a fresh process in any case.
            deadline: Seconds it may take.

        Raises:
            KernelStartError: It did not get that far; nothing of it is left.
        """
        connection = self._new_connection()
        try:
            process = await self._start_process(launch, connection, fresh, deadline)
        except BaseException:
            remove_files(connection)
            raise
        kernel = LocalKernel(process, Channels(self._context, connection), connection)
        try:
            await handshake(kernel, deadline)
        except BaseException:
            await process.kill()
            kernel.release()
            raise
        return kernel

    async def ensure_fork_server(self, probe: Launch) -> bool:
        """Start the fork server if there is none, and try it; say whether there is one now.

        Each level is tried by forking a kernel that must run ``1 + 1``; the next simpler one
        is taken if it does not. Kernels are spawned if none works.

        Args:
            probe: What to start the kernel of the test with.

        Raises:
            KernelStartError: There is none, and it was asked for explicitly.
        """
        if self._profile is None:
            return False
        async with self._server_lock:
            if self.can_fork:
                return True
            levels = LEVELS if self.started is None else (self.started.level or "shell",)
            for level in levels:
                server, self.started = await start_fork_server(self._profile, level)
                for name, why in self.started.refused.items():
                    log.warning("not preloaded: %s (%s)", name, why)
                if server is not None and await self._passes_test(server, probe):
                    self._server = server
                    break
                if server is not None:
                    await server.aclose()
        can_fork = self.can_fork
        if self._forced and not can_fork:
            why = self.started.why if self.started else ""
            msg = f"kernels can't be forked here (--kernel-start=spawn does without): {why}"
            raise KernelStartError(msg)
        return can_fork

    async def _passes_test(self, server: ForkServer, probe: Launch) -> bool:
        """Say whether a kernel forked from `server` runs code; leave nothing of it."""
        connection = self._new_connection()
        try:
            process = await server.fork(probe, connection, deadline=TEST_DEADLINE)
        except KernelStartError as error:
            log.warning("a forked kernel did not start: %s", error)
            remove_files(connection)
            return False
        kernel = LocalKernel(process, Channels(self._context, connection), connection)
        try:
            await handshake(kernel, TEST_DEADLINE)
            content = {"code": "1 + 1", "silent": True, "stop_on_error": False}
            ask = kernel.channels.ask
            reply = await ask("shell", "execute_request", content, deadline=TEST_DEADLINE)
            return reply.get("status") == "ok"
        except (KernelStartError, KernelSilentError) as error:
            log.warning("a forked kernel did not run code: %s", error)
            return False
        finally:
            await process.kill()
            kernel.release()

    def _new_connection(self) -> Connection:
        return Connection(
            path=self._runtime / secrets.token_hex(4),
            key=secrets.token_hex(32),
            client_id=new_id(),
        )

    async def aclose(self) -> None:
        """End the fork server and give the zmq context back; all kernels must be down."""
        if self._server is not None:
            await self._server.aclose()
        self._context.destroy(linger=0)

    async def _start_process(
        self, launch: Launch, connection: Connection, fresh: bool, deadline: float
    ) -> KernelProcess:
        # A fork server that died is replaced; one that is still starting is not waited for
        # unless nothing else is allowed: a spawned kernel is there sooner.
        died = self._server is not None and self._server.is_closed
        if not fresh and (self._forced or died):
            await self.ensure_fork_server(launch)
        server = self._server
        if fresh or server is None or server.is_closed:
            return await spawn(launch, connection, deadline=deadline)
        try:
            return await server.fork(launch, connection, deadline=deadline)
        except KernelStartError:
            if not server.is_closed:
                raise
        # It had died, and this request was the first to notice.
        if await self.ensure_fork_server(launch) and self._server is not None:
            return await self._server.fork(launch, connection, deadline=deadline)
        return await spawn(launch, connection, deadline=deadline)


async def handshake(kernel: LocalKernel, deadline: float) -> None:
    """Wait until a kernel answers and its IOPub reaches us.

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


def remove_files(connection: Connection) -> None:
    """Remove a kernel's sockets and files from the runtime directory."""
    paths = [f"{connection.path}{suffix}" for suffix in (".json", ".launch")]
    paths += [f"{connection.path}-{number}" for number in PORTS.values()]
    for path in paths:
        Path(path).unlink(missing_ok=True)
