"""The channels of one kernel, with one reader that never waits for anyone.

The reader is a callback of the event loop on the sockets' descriptors. It takes whatever
has arrived on shell, control and IOPub, finds who asked (by the parent's msg_id) and hands
the message over synchronously, so that IOPub is always drained (with RCVHWM=0 nothing is
dropped on our side) and a slow consumer can't exist. No thread, no task, three sockets.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from kernelry.errors import KernelSilentError
from kernelry.messaging.wire import UNSOUND, BadMessageError, Message, Wire

log = logging.getLogger(__name__)

BATCH = 200  # messages taken in one go, before other callbacks get their turn
REJECTED_LOGGED = 20  # messages of one kernel: there is no end to what code can send

#: Jupyter's ipc endpoints are `{path}-{number}`
PORTS = {"shell": 1, "iopub": 2, "stdin": 3, "control": 4, "hb": 5}


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach a kernel: what its connection file says, and who we are to it."""

    #: path prefix of its sockets
    path: Path
    #: signs messages
    key: str
    #: our identity, the same over reconnects
    client_id: str

    def file_content(self) -> Message:
        """Return what Jupyter's connection file says."""
        return {
            "transport": "ipc",
            "ip": str(self.path),
            "key": self.key,
            "signature_scheme": "hmac-sha256",
            "kernel_name": "kernelry",
            **{f"{channel}_port": number for channel, number in PORTS.items()},
        }


class Channels:
    """The client side of one kernel's shell, control and IOPub channels."""

    def __init__(self, context: zmq.Context[Any], connection: Connection) -> None:
        self._wire = Wire(connection.key.encode(), connection.client_id)
        self._loop = asyncio.get_running_loop()
        self._sockets: dict[str, zmq.Socket[Any]] = {}
        self._watchers: dict[str, Callable[[str, Message], None]] = {}
        self._on_orphan: Callable[[Message], None] = lambda message: None
        self._closed = False
        self._asked: set[asyncio.Future[Message]] = set()
        self._gone = ""
        #: frames that were no message of this kernel
        self.rejected_count = 0
        for channel, kind in (("shell", zmq.DEALER), ("control", zmq.DEALER), ("iopub", zmq.SUB)):
            self._sockets[channel] = self._open(context, channel, kind, connection)
        for socket in self._sockets.values():
            self._loop.add_reader(socket.FD, self._drain)

    def request(
        self,
        channel: str,
        msg_type: str,
        content: Message,
        watcher: Callable[[str, Message], None],
        msg_id: str = "",
    ) -> str:
        """Send a request; `watcher(channel, message)` is called with all that answers it.

        Call `forget` with the returned msg_id when nothing more is of interest.

        Raises:
            KernelSilentError: A thousand requests and more wait for the kernel already.
        """
        msg_id, frames = self._wire.request(msg_type, content, msg_id)
        try:
            self._sockets[channel].send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            msg = "the kernel does not take questions: too many wait for its answer already"
            raise KernelSilentError(msg) from None
        self._watchers[msg_id] = watcher
        # A send may consume the edge that announced input; look again.
        self._loop.call_soon(self._drain)
        return msg_id

    def watch(self, msg_id: str, watcher: Callable[[str, Message], None]) -> None:
        """Hand over what answers a request that somebody sent under our client_id before."""
        self._watchers[msg_id] = watcher

    def forget(self, msg_id: str) -> None:
        """Stop handing over messages that answer `msg_id`."""
        self._watchers.pop(msg_id, None)

    def on_orphan(self, watcher: Callable[[Message], None]) -> None:
        """Hand IOPub messages that answer nothing known to `watcher`."""
        self._on_orphan = watcher

    async def ask(
        self, channel: str, msg_type: str, content: Message, *, deadline: float
    ) -> Message:
        """Send a request and return the content of its reply.

        Args:
            channel: "shell" or "control".
            msg_type: Type of the request.
            content: Content of the request.
            deadline: Seconds to wait.

        Raises:
            KernelSilentError: No reply came in time, or can't come any more.
        """
        if self._gone:
            raise KernelSilentError(self._gone)
        reply: asyncio.Future[Message] = self._loop.create_future()
        self._asked.add(reply)

        def watch(source: str, message: Message) -> None:
            if source == channel and not reply.done():
                reply.set_result(message["content"])

        msg_id = ""
        try:
            msg_id = self.request(channel, msg_type, content, watch)
            async with asyncio.timeout(deadline):
                return await reply
        except TimeoutError:
            msg = f"the kernel did not answer {msg_type} within {deadline:g} s"
            raise KernelSilentError(msg) from None
        finally:
            self.forget(msg_id)
            self._asked.discard(reply)

    def give_up(self, why: str) -> None:
        """Tell all who ask, now and later, that nobody is there to answer any more."""
        self.drain()  # an answer may be among its last words
        self._gone = why
        for reply in self._asked:
            if not reply.done():
                reply.set_exception(KernelSilentError(why))

    def close(self) -> None:
        """Close the sockets. What was not read is gone."""
        self._closed = True
        for socket in self._sockets.values():
            self._loop.remove_reader(socket.FD)
            socket.close(linger=0)
        self._watchers.clear()

    def drain(self) -> None:
        """Take what has arrived by now, however much it is."""
        while self._take(BATCH) == BATCH:
            pass

    def _open(
        self, context: zmq.Context[Any], channel: str, kind: int, connection: Connection
    ) -> zmq.Socket[Any]:
        socket: zmq.Socket[Any] = context.socket(kind)
        socket.linger = 0
        if kind == zmq.SUB:
            socket.rcvhwm = 0
            socket.subscribe(b"")
        else:
            socket.identity = connection.client_id.encode()
        socket.connect(f"ipc://{connection.path}-{PORTS[channel]}")
        return socket

    def _drain(self) -> None:
        if self._take(BATCH) == BATCH:
            self._loop.call_soon(self._drain)

    def _take(self, most: int) -> int:
        taken = 0
        while taken < most and not self._closed:
            before = taken
            # IOPub first: what a cell printed is folded before its reply is looked at.
            for channel in ("iopub", "shell", "control"):
                if self._closed:
                    break
                try:
                    frames = self._sockets[channel].recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    continue
                taken += 1
                self._dispatch(channel, frames)
            if taken == before:
                break
        return min(taken, most)

    def _dispatch(self, channel: str, frames: list[bytes]) -> None:
        try:
            message = self._wire.read(frames)
        except BadMessageError as error:
            self._reject("a message on %s was not the kernel's: %r", channel, error)
            return
        try:
            watcher = self._watchers.get(message["parent_id"])
            if watcher is not None:
                watcher(channel, message)
            elif channel == "iopub":
                self._on_orphan(message)
        except UNSOUND as error:  # code in the kernel has sent this past what makes sound ones
            self._reject("a message on %s makes no sense: %r", channel, error)

    def _reject(self, why: str, channel: str, error: Exception) -> None:
        self.rejected_count += 1
        if self.rejected_count <= REJECTED_LOGGED:
            log.warning(why, channel, error)
