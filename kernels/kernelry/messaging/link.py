"""One connection of ours to one socket of a kernel: ZMTP 3.0 over a Unix socket.

libzmq can't do this for a server that does not trust its kernels: its own thread reads whatever
comes into memory, frame after frame, however many belong to one message; the only bound is that of
one frame, and what is beyond it is not told. Here nothing is read before what was read is dealt
with, so that all that a kernel sends too much waits in the kernel.

Source: https://rfc.zeromq.org/spec/23/ with the NULL mechanism; the other side is libzmq 4.
"""

import asyncio
import errno
import os
import socket
import stat
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from kernelry import bounds

SIGNATURE = b"\xff" + bytes(8) + b"\x7f"
GREETING = SIGNATURE + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
MORE, LONG, COMMAND = 1, 2, 4
SHORT = 255  # bytes of the largest frame whose length takes one byte
LENGTH = 8  # bytes of a long frame's length
READY = b"\x05READY"
SUBSCRIPTION = b"\x01"  # to everything
RETRY = (0.02, 1.0)  # seconds between attempts to connect: the first, the longest
COMPACT = 1 << 16  # bytes that were dealt with and are dropped from the buffer


class ProtocolError(Exception):
    """A kernel sent what no kernel of ours does."""


class Link:
    """A connection that is made again as long as the kernel lives.

    Args:
        path: The kernel's socket.
        kind: Ours: "DEALER" or "SUB", which is subscribed to everything.
        identity: Our name to the kernel's side, the same over reconnects.
        most: Bytes of one message.
        on_input: Called when there is something to `receive`.
    """

    def __init__(
        self, path: str, kind: str, identity: bytes, most: int, on_input: Callable[[], None]
    ) -> None:
        self._path = path
        self._kind = kind
        self._identity = identity
        self._most = most
        self._on_input = on_input
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._pause = RETRY[0]
        self._closed = False
        self._is_paused = False
        self._outbox: deque[memoryview] = deque()  # what is not sent yet
        self._waiting: deque[bytes] = deque()  # requests for when the other side is ready
        #: whether there was nothing to read any more when it was looked at last
        self.is_empty = False
        self._forget()
        self._connect()

    def send(self, frames: Sequence[bytes]) -> None:
        """Send a message, now or as soon as the kernel takes it.

        Raises:
            BlockingIOError: Too many wait already.
        """
        if len(self._outbox) + len(self._waiting) >= bounds.OUTBOX:
            raise BlockingIOError(errno.EAGAIN, "too many requests wait")
        last = len(frames) - 1
        data = b"".join(framed(f, MORE if i < last else 0) for i, f in enumerate(frames))
        if self._is_ready:
            self._outbox.append(memoryview(data))
            self._flush()
        else:
            self._waiting.append(data)

    def receive(self) -> list[bytes] | None:
        """Return the next message, None if it is not all there; reads once at most.

        Raises:
            ProtocolError: It is none, or too large.
        """
        self.is_empty = False
        message = self._next()
        if message is None and self._read():
            message = self._next()
        return message

    def pause(self) -> None:
        """Hear of no input for now."""
        self._is_paused = True
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())

    def resume(self) -> None:
        """Hear of input again."""
        self._is_paused = False
        if self._socket is not None:
            self._loop.add_reader(self._socket.fileno(), self._on_input)

    def close(self) -> None:
        """Close the connection for good."""
        self._closed = True
        self._drop()
        if self._timer is not None:
            self._timer.cancel()

    def _forget(self) -> None:
        self._buffer = bytearray()
        self._at = 0  # where what was not dealt with begins
        self._frames: list[bytes] = []
        self._size = 0  # of these
        self._is_greeted = self._is_ready = False

    def _connect(self) -> None:
        self._timer = None
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made.setblocking(False)
        try:
            with own_socket(self._path) as path:
                made.connect(path)
        except OSError:  # not there, or too many wait: it is tried again
            made.close()
            self._connect_later()
            return
        self._socket = made
        about = ((b"Socket-Type", self._kind.encode()), (b"Identity", self._identity))
        properties = b"".join(
            bytes([len(name)]) + name + len(value).to_bytes(4, "big") + value
            for name, value in about
        )
        self._outbox.append(memoryview(GREETING + framed(READY + properties, COMMAND)))
        if not self._is_paused:
            self._loop.add_reader(made.fileno(), self._on_input)
        self._flush()

    def _connect_later(self) -> None:
        if not self._closed and self._timer is None:
            self._timer = self._loop.call_later(self._pause, self._connect)
            self._pause = min(self._pause * 2, RETRY[1])

    def _drop(self) -> None:
        """Give the connection up; what was not sent or not whole is gone."""
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
            self._socket.close()
            self._socket = None
        self._outbox.clear()
        self._forget()

    def _flush(self) -> None:
        """Send what the system takes; the rest when it takes more."""
        if self._socket is None:
            return
        try:
            while self._outbox:
                sent = self._socket.send(self._outbox[0])
                if sent < len(self._outbox[0]):
                    self._outbox[0] = self._outbox[0][sent:]
                else:
                    self._outbox.popleft()
        except BlockingIOError:
            self._loop.add_writer(self._socket.fileno(), self._flush)
            return
        except OSError:  # what it said before it went is still to be read
            self._outbox.clear()
        self._loop.remove_writer(self._socket.fileno())

    def _read(self) -> bool:
        """Read once; say whether there was something."""
        if self._socket is None:
            self.is_empty = True
            return False
        try:
            data = self._socket.recv(bounds.READ_BYTES)
        except BlockingIOError:
            self.is_empty = True
            return False
        except OSError:
            data = b""
        if not data:
            self._drop()
            self._connect_later()
            self.is_empty = True
            return False
        self._buffer += data
        return True

    def _next(self) -> list[bytes] | None:
        """Return the next message in the buffer; None: it is not whole yet."""
        if not self._is_greeted and not self._greet():
            return None
        while (found := self._frame()) is not None:
            flags, body = found
            if flags & COMMAND:
                self._take_command(body)
                continue
            if not self._is_ready:
                raise ProtocolError("a message before its handshake")
            self._frames.append(body)
            if flags & MORE:
                if len(self._frames) >= bounds.FRAMES:
                    raise ProtocolError(f"a message of more than {bounds.FRAMES} frames")
                continue
            message, self._frames, self._size = self._frames, [], 0
            return message
        return None

    def _greet(self) -> bool:
        if len(self._buffer) < len(GREETING):
            return False
        greeting = bytes(self._buffer[: len(GREETING)])
        if greeting[0] != 0xFF or greeting[10] < 3 or not greeting[12:32].startswith(b"NULL\0"):
            raise ProtocolError("something that is not ZMTP 3")
        self._at = len(GREETING)
        self._is_greeted = True
        return True

    def _frame(self) -> tuple[int, bytes] | None:
        """Return flags and body of the next frame; None: it is not whole yet."""
        buffer, at = self._buffer, self._at
        head = 2
        if len(buffer) - at < head:
            self._compact()
            return None
        flags = buffer[at]
        if flags & LONG:
            head = 1 + LENGTH
            if len(buffer) - at < head:
                self._compact()
                return None
            size = int.from_bytes(buffer[at + 1 : at + head], "big")
        else:
            size = buffer[at + 1]
        if size + self._size > self._most:
            raise ProtocolError(f"a message of more than {self._most} bytes")
        end = at + head + size
        if len(buffer) < end:
            self._compact()
            return None
        body = bytes(memoryview(buffer)[at + head : end])
        self._at = end
        if not flags & COMMAND:
            self._size += size
        return flags, body

    def _compact(self) -> None:
        """Drop what was dealt with."""
        if self._at == len(self._buffer):
            self._buffer = bytearray()
            self._at = 0
        elif self._at >= COMPACT:
            del self._buffer[: self._at]
            self._at = 0

    def _take_command(self, body: bytes) -> None:
        if self._is_ready:
            return  # nothing that we need
        if not body.startswith(READY):
            raise ProtocolError("an error in its handshake")
        self._is_ready = True
        self._pause = RETRY[0]
        if self._kind == "SUB":
            self._outbox.append(memoryview(framed(SUBSCRIPTION, 0)))
        self._outbox.extend(map(memoryview, self._waiting))
        self._waiting.clear()
        self._flush()


@contextmanager
def own_socket(path: str) -> Iterator[str]:
    """Give a path by which a socket is reached, and nothing that a link in its place leads to.

    Raises:
        OSError: There is no socket.
    """
    if not hasattr(os, "O_PATH"):
        yield path
        return
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK), path)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def framed(body: bytes, flags: int) -> bytes:
    """Return a frame."""
    if len(body) <= SHORT:
        return bytes([flags, len(body)]) + body
    return bytes([flags | LONG]) + len(body).to_bytes(LENGTH, "big") + body
