"""MCP over stdin and stdout, as a kernel server needs it.

Differs from the SDK's runner, measured in reference/mcp.md section 5: SIGTERM, SIGINT and
SIGHUP end the sessions too, and quickly; lines go through asyncio pipes instead of threads
(about 40 % off a call); a line that can't be read is answered instead of ignored; a line
has a largest size; a request id in use is refused; a client that leaves its answers unread
is waited for; one that is gone is noticed by either pipe, and by its process. fd 0 and 1
are moved away before anything else runs, so that no kernel and no stray print can touch
the wire.
"""

import asyncio
import logging
import os
import selectors
import sys
from contextlib import ExitStack, suppress
from typing import IO

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp import types
from mcp.server import MCPServer
from mcp.shared.dispatcher import coerce_request_id
from mcp.shared.message import ServerMessageMetadata, SessionMessage
from pydantic_core import PydanticSerializationError

from kernelry_mcp.context import App
from kernelry_mcp.process import ending_on_signals, watching_loop, watching_parent, watching_reader
from kernelry_mcp.transports.inflight import InFlight, RefusedError
from kernelry_mcp.transports.wire import (
    CHUNK,
    INVALID_REQUEST,
    Lines,
    LineTooLongError,
    Writer,
    json_error,
    outline,
    refusal,
)

log = logging.getLogger(__name__)

ANSWERS = (types.JSONRPCResponse, types.JSONRPCError)
UNSAID = "the answer has text that can't be sent; kernelry's log says more. Nothing else is harmed."


async def serve_stdio(server: MCPServer[App]) -> None:
    """Serve until stdin ends, the host is gone, or a signal asks us to end."""
    wire_in, wire_out = claim_stdio()
    low = server._lowlevel_server  # private, but what the SDK's own runners use
    to_server, from_wire = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    to_wire, from_server = anyio.create_memory_object_stream[SessionMessage](0)
    async with anyio.create_task_group() as tasks:
        end = tasks.cancel_scope.cancel
        with ExitStack() as watching:
            watching.enter_context(ending_on_signals(end))
            watching.enter_context(watching_loop())
            watching.enter_context(watching_parent(end))
            watching.enter_context(watching_reader(wire_out, end))
            # The reader closes its own descriptor at the end.
            writer = Writer(wire_out, os.dup(wire_in))
            wire = Wire(await open_reader(wire_in), writer)

            async def write() -> None:
                try:
                    await wire.write_messages(from_server)
                except OSError:  # nobody reads: the host is gone
                    end()

            async def read() -> None:
                with suppress(OSError):
                    await wire.read_messages(to_server)

            tasks.start_soon(write)
            tasks.start_soon(read)
            await low.run(from_wire, to_wire, low.create_initialization_options())
            end()


def claim_stdio() -> tuple[int, int]:
    """Move the wire away from fd 0 and 1; reads there get EOF, writes go to stderr."""
    wire_in, wire_out = os.dup(0), os.dup(1)  # not inheritable
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return wire_in, wire_out


async def open_reader(fd: int) -> asyncio.StreamReader:
    """Return a reader of a descriptor of any kind; it keeps little unread."""
    reader = asyncio.StreamReader(limit=CHUNK)
    loop = asyncio.get_running_loop()
    if not can_be_waited_for(fd):  # `kernelry serve < file`
        with os.fdopen(os.dup(fd), "rb") as file:
            reader.feed_data(file.read())
        reader.feed_eof()
        return reader
    pipe: IO[bytes] = os.fdopen(fd, "rb", buffering=0)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return reader


def can_be_waited_for(fd: int) -> bool:
    """Say whether an event loop can wait for a descriptor; files and /dev/null can't be."""
    with selectors.DefaultSelector() as selector:
        try:
            selector.register(fd, selectors.EVENT_READ)
        except PermissionError:
            return False
    return True


class Wire:
    """Messages between the client's lines and the SDK's streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        self._lines = Lines(reader)
        self._writer = writer
        self._in_flight = InFlight()

    async def read_messages(
        self, to_server: MemoryObjectSendStream[SessionMessage | Exception]
    ) -> None:
        """Hand over each line as a message; answer those that are none.

        While the client leaves answers unread nothing is taken that would make another;
        what comes before that, like a cancellation, is.

        Raises:
            OSError: Nobody reads our answers any more.
        """
        async with to_server:
            while True:
                try:
                    line = await self._lines.next()
                    if not line:
                        return
                    taken = self._take(line) if line.strip() else None
                except LineTooLongError as error:
                    found = outline(error.head).request_id
                    taken = json_error(found, INVALID_REQUEST, str(error))
                if taken is None:
                    continue
                if not isinstance(taken, SessionMessage):
                    await self._writer.write(taken)
                    continue
                if isinstance(taken.message, types.JSONRPCRequest):
                    await self._writer.flow()
                with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
                    await to_server.send(taken)

    def _take(self, line: bytes) -> SessionMessage | bytes:
        """Return what a line says, or the line that refuses it."""
        try:
            message = types.jsonrpc_message_adapter.validate_json(line, by_name=False)
        except ValueError:
            return refusal(line)
        if not isinstance(message, types.JSONRPCRequest):
            # To the SDK a request whose id is null, or none, is a notification.
            no_notification = isinstance(message, types.JSONRPCNotification) and (
                b'"id"' in line and outline(line).has_id
            )
            return refusal(line) if no_notification else SessionMessage(message)
        key = coerce_request_id(message.id)  # the SDK takes "7" for 7
        try:
            self._in_flight.take(key, message.id)
        except RefusedError as error:
            return json_error(message.id, error.code, str(error))

        async def unanswered() -> None:
            self._in_flight.release(key)

        # In flight until it is answered, or its call was cancelled and has wound up.
        metadata = ServerMessageMetadata(on_request_unanswered=unanswered)
        return SessionMessage(message, metadata=metadata)

    async def write_messages(self, from_server: MemoryObjectReceiveStream[SessionMessage]) -> None:
        """Write each message as a line.

        Raises:
            OSError: Nobody reads any more.
        """
        async with from_server:
            async for item in from_server:
                message = item.message
                if line := line_of(message):
                    await self._writer.write(line)
                if isinstance(message, ANSWERS) and message.id is not None:
                    self._in_flight.release(coerce_request_id(message.id))


def line_of(message: types.JSONRPCMessage) -> bytes:
    """Return a message as a line; an answer that can't be said as one is an error, not our end."""
    try:
        text = message.model_dump_json(by_alias=True, exclude_unset=True)
        return text.encode("utf-8") + b"\n"
    except (PydanticSerializationError, ValueError):
        log.exception("a message can't be sent")
    if isinstance(message, ANSWERS) and message.id is not None:
        return json_error(message.id, types.INTERNAL_ERROR, UNSAID)
    return b""


def run(server: MCPServer[App]) -> None:
    """Serve stdio in a fresh event loop; the process's exit code is 0 at any orderly end."""
    if sys.platform == "win32":
        anyio.run(server.run_stdio_async)
        return
    anyio.run(serve_stdio, server)
