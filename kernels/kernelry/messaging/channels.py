"""The channels of one kernel, with one reader that never waits for anyone.

The reader is a callback of the event loop on the sockets' descriptors. It takes what has
arrived on shell, control and IOPub, finds who asked (by the parent's msg_id) and hands
the message over synchronously, so that a slow consumer can't exist. No thread, no task, three
sockets. A kernel that sends without end gets its share of the server's time and no more: what is
not read waits in the kernel. One that breaks the protocol is not heard any more.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kernelry import bounds
from kernelry.errors import KernelSilentError
from kernelry.messaging.link import Link, ProtocolError
from kernelry.messaging.wire import UNSOUND, BadMessageError, Message, Wire

log = logging.getLogger(__name__)

MUTED = 100  # requests of which no more output is read; more than are remembered
REJECTED_LOGGED = 20  # messages of one kernel: there is no end to what code can send

#: Jupyter's ipc endpoints are `{path}-{number}`
PORTS = {"shell": 1, "iopub": 2, "stdin": 3, "control": 4, "hb": 5}
BRANCHES = 6  # where a kernel is asked for copies of it; no channel of Jupyter's


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
    """The client side of one kernel's shell, control and IOPub channels.

    Args:
        connection: How to reach the kernel.
    """

    def __init__(self, connection: Connection) -> None:
        self._wire = Wire(connection.key.encode(), connection.client_id)
        self._loop = asyncio.get_running_loop()
        self._watchers: dict[str, Callable[[str, Message], None]] = {}
        self._on_orphan: Callable[[Message], None] = lambda message: None
        self._wants_orphan: Callable[[str], bool] = lambda msg_id: False
        self._muted: deque[str] = deque(maxlen=MUTED)
        self._on_broken: Callable[[str], None] = lambda why: None
        self._closed = False
        self._asked: set[asyncio.Future[Message]] = set()
        self._gone = ""
        self._credit = bounds.BURST  # seconds of the server's time that the kernel has now
        self._credited = time.perf_counter()
        self._turn: asyncio.Handle | None = None  # when what is left is looked at
        self._holders = 0  # who wants no more for now
        #: frames that were no message of this kernel
        self.rejected_count = 0
        # IOPub first: what a cell printed is folded before its reply is looked at.
        self._links = {
            channel: Link(
                f"{connection.path}-{PORTS[channel]}",
                kind,
                connection.client_id.encode(),
                most,
                self._drain,
            )
            for channel, kind, most in (
                ("iopub", "SUB", bounds.IOPUB_BYTES),
                ("shell", "DEALER", bounds.REPLY_BYTES),
                ("control", "DEALER", bounds.REPLY_BYTES),
            )
        }

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
            self._links[channel].send(frames)
        except BlockingIOError:
            msg = "the kernel does not take questions: too many wait for its answer already"
            raise KernelSilentError(msg) from None
        self._watchers[msg_id] = watcher
        return msg_id

    def watch(self, msg_id: str, watcher: Callable[[str, Message], None]) -> None:
        """Hand over what answers a request that somebody sent under our client_id before."""
        self._watchers[msg_id] = watcher

    def forget(self, msg_id: str) -> None:
        """Stop handing over messages that answer `msg_id`."""
        self._watchers.pop(msg_id, None)

    def on_orphan(self, watcher: Callable[[Message], None], wants: Callable[[str], bool]) -> None:
        """Hand IOPub messages that answer nothing known to `watcher`.

        Args:
            watcher: Takes them.
            wants: Says whether what answers a request is of interest; the rest is not even read.
        """
        self._on_orphan, self._wants_orphan = watcher, wants

    def mute(self, msg_id: str) -> None:
        """Read no more output that answers a request."""
        self._muted.append(msg_id)

    def on_broken(self, watcher: Callable[[str], None]) -> None:
        """Have `watcher` told why nothing is heard of the kernel any more, though it may live."""
        self._on_broken = watcher

    @property
    def is_behind(self) -> bool:
        """Say whether more has arrived than was read."""
        return self._turn is not None or not all(link.is_empty for link in self._links.values())

    def hold(self) -> None:
        """Read nothing until `go_on` was called as often."""
        self._holders += 1
        self._pause()

    def go_on(self) -> None:
        """Read again."""
        self._holders -= 1
        if not self._is_deaf:
            self._resume()

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
        if not self._gone:
            self._gone = why
        for reply in self._asked:
            if not reply.done():
                reply.set_exception(KernelSilentError(self._gone))

    def close(self) -> None:
        """Close the sockets. What was not read is gone."""
        self._closed = True
        if self._turn is not None:
            self._turn.cancel()
        for link in self._links.values():
            link.close()
        self._watchers.clear()

    def drain(self) -> None:
        """Take what has arrived by now of a kernel that has ended, as far as that is taken."""
        self._take(time.perf_counter() + bounds.LAST_WORDS, held=True)

    def _drain(self) -> None:
        """Take what has arrived, as long as the kernel's time lasts."""
        if self._turn is not None or self._is_deaf:
            return
        began, worked = time.perf_counter(), time.thread_time()
        gained = (began - self._credited) * bounds.SHARE
        self._credit = min(self._credit + gained, bounds.BURST)
        more = self._take(began + bounds.SLICE)
        self._credited = time.perf_counter()
        # What other processes of a busy machine take meanwhile is not this kernel's doing.
        self._credit -= time.thread_time() - worked
        if self._is_deaf:
            return
        if self._credit <= 0:
            self._pause()
            wait = (bounds.SLICE - self._credit) / bounds.SHARE
            self._turn = self._loop.call_later(wait, self._resume)
        elif more:
            self._turn = self._loop.call_soon(self._look_again)

    @property
    def _is_deaf(self) -> bool:
        return self._closed or self._holders > 0

    def _look_again(self) -> None:
        self._turn = None
        self._drain()

    def _pause(self) -> None:
        for link in self._links.values():
            link.pause()

    def _resume(self) -> None:
        self._turn = None
        if not self._is_deaf:
            for link in self._links.values():
                link.resume()
            self._drain()

    def _take(self, until: float, *, held: bool = False) -> bool:
        """Take what has arrived until some time; say whether there may be more.

        Args:
            until: By the clock of `time.perf_counter`.
            held: Whether to take it also while somebody holds it up.
        """
        while not self._closed and (held or not self._holders):
            is_empty = True
            for channel, link in self._links.items():
                try:
                    frames = link.receive()
                except ProtocolError as error:
                    self._break_off(f"the kernel sent {error} on {channel}")
                    return False
                is_empty = is_empty and link.is_empty
                if frames is not None:
                    is_empty = False
                    self._dispatch(channel, frames)
                if self._closed:
                    return False
            if is_empty:
                return False
            if time.perf_counter() >= until:
                return True
        return False

    def _break_off(self, why: str) -> None:
        """Hear nothing more of a kernel that does not keep to the protocol."""
        log.warning("%s", why)
        self.close()
        self._gone = why
        self.give_up(why)
        self._on_broken(why)

    def _dispatch(self, channel: str, frames: list[bytes]) -> None:
        def is_wanted(kind: str, parent_id: str) -> bool:
            if channel != "iopub" or kind == "status":
                return True
            is_known = parent_id in self._watchers or self._wants_orphan(parent_id)
            return is_known and parent_id not in self._muted

        try:
            message = self._wire.read(frames, is_wanted)
        except BadMessageError as error:
            self._reject("a message on %s was not the kernel's: %r", channel, error)
            return
        if message is None:
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
