"""The stdio wire: lines in, lines out, and what answers a line that is no message.

Neither direction grows without end: a line has a largest size, no more is read than the
next lines need, and what can't be written is waited for.
"""

import asyncio
import errno
import json
import os
import re
import select
from dataclasses import dataclass
from itertools import islice
from typing import Any

import anyio

LINE_BYTES = 32 << 20  # longest message that is read
CHUNK = 64 << 10  # bytes that are read at once, and kept unread at most twice
HEAD_BYTES = 1 << 20  # of a line that is too long, where its id is looked for
TOKENS = 500_000  # how far into a broken line its id is looked for
DEPTH = 200  # levels of nesting that a message may have; the parser takes no more
PACE = 1.0  # seconds between looks for a client that left its answers unread
PARSE_ERROR = -32700
INVALID_REQUEST = -32600
NO_MESSAGE = "the line is JSON, but no JSON-RPC 2.0 message"
SURROGATE = "the message holds a lone surrogate (half a character); write it as an escape"
# Brackets come in runs, so that 100,000 of them are one token. A string that does not end
# is one too: looked at again from each of its quotes it would take for ever.
TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{]+|[\]}]+|[:,]|[^\s"\[\]{}:,]+', re.DOTALL)


class LineTooLongError(Exception):
    """A line was longer than a message may be; it was thrown away, `head` is its start."""

    def __init__(self, head: bytes) -> None:
        super().__init__(f"a message may have {LINE_BYTES} bytes")
        self.head = head


class Lines:
    """Reads lines, and no more than it must."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._buffer = bytearray()

    async def next(self) -> bytes:
        """Return the next line; empty at the end.

        Raises:
            LineTooLongError: The line was longer than `LINE_BYTES`.
        """
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > LINE_BYTES:
                await self._refuse()
            chunk = await self._reader.read(CHUNK)
            if not chunk:
                break
            self._buffer += chunk
        length = end + 1 if end >= 0 else len(self._buffer)
        line = bytes(self._buffer[:length])
        del self._buffer[:length]
        return line

    async def _refuse(self) -> None:
        head = bytes(self._buffer[:HEAD_BYTES])
        self._buffer.clear()
        while chunk := await self._reader.read(CHUNK):
            _, newline, rest = chunk.partition(b"\n")
            if newline:
                self._buffer += rest
                break
        raise LineTooLongError(head)


class Writer:
    """Writes whole lines to a descriptor without blocking the event loop.

    A client that can't send any more, and lets what it asked for lie unread, has left.
    """

    def __init__(self, fd: int, source: int) -> None:
        """Take the descriptor to write to, and the one that the client's messages come from."""
        self._fd = fd
        self._source = source
        self._lock = anyio.Lock()
        os.set_blocking(fd, False)

    async def write(self, data: bytes) -> None:
        """Write a line.

        Raises:
            OSError: Nobody reads any more.
        """
        view = memoryview(data)
        async with self._lock:
            while view:
                try:
                    view = view[os.write(self._fd, view) :]
                except BlockingIOError:
                    await self._wait_for_reader()

    async def flow(self) -> None:
        """Wait until what was written before has gone out, or never will."""
        async with self._lock:
            return

    async def _wait_for_reader(self) -> None:
        while True:
            with anyio.move_on_after(PACE):
                await anyio.wait_writable(self._fd)
                return
            if hung_up(self._source):
                raise BrokenPipeError(errno.EPIPE, "the client left its answers unread")


def hung_up(fd: int) -> bool:
    """Say whether nobody can write into the other end of `fd` any more."""
    poll = select.poll()
    poll.register(fd, 0)
    return any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))


@dataclass(frozen=True, slots=True)
class Outline:
    """What can be told of a line without parsing it."""

    #: the id of the request; None: none was found
    request_id: str | int | None
    #: whether it has an id, whatever that is
    has_id: bool
    #: whether it names a method
    has_method: bool
    #: how many levels are open at most
    deepest: int
    #: whether as many brackets are closed as were opened, as far as was looked
    balanced: bool


def outline(line: bytes) -> Outline:
    """Look at the brackets and the top level of a line, whatever it is; never recurses."""
    depth = deepest = 0
    key = last = b""
    top: dict[bytes, bytes | None] = {}  # what follows each key, if it is plain
    for match in islice(TOKEN.finditer(line), TOKENS):
        token = match[0]
        if token[0] in b"[{":
            depth += len(token)
            deepest = max(deepest, depth)
        elif token[0] in b"]}":
            depth -= len(token)
        elif depth == 1:
            if token == b":":
                key = last
                top[key] = None
            elif last == b":":
                top[key] = token
            last = token
    is_object = line.lstrip()[:1] == b"{"
    return Outline(
        request_id=plain_id(top.get(b'"id"')) if is_object else None,
        has_id=is_object and b'"id"' in top,
        has_method=is_object and b'"method"' in top,
        deepest=deepest,
        balanced=depth == 0,
    )


def plain_id(token: bytes | None) -> str | int | None:
    """Return the id that a token spells; None if it can't be one."""
    try:
        found = json.loads(token or b"null")
    except ValueError:
        return None
    return found if isinstance(found, (str, int)) and not isinstance(found, bool) else None


def refusal(line: bytes) -> bytes:
    """Return the error that answers a line which is no message."""
    seen = outline(line)
    if seen.deepest > DEPTH and seen.balanced:
        message = f"the message is nested {seen.deepest} levels deep; it may be {DEPTH}"
        return json_error(seen.request_id, INVALID_REQUEST, message)
    try:
        parsed: Any = json.loads(line)
    except (ValueError, RecursionError):
        return json_error(seen.request_id, PARSE_ERROR, "the line is not JSON")
    try:
        json.dumps(parsed, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return json_error(seen.request_id, INVALID_REQUEST, SURROGATE)
    return json_error(seen.request_id, INVALID_REQUEST, NO_MESSAGE)


def json_error(request_id: str | int | None, code: int, message: str) -> bytes:
    """Return a JSON-RPC error as a line."""
    body = {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": message}}
    return json.dumps(body).encode("utf-8") + b"\n"
