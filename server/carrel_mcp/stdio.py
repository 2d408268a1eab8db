"""MCP over stdin and stdout, as a kernel server needs it.

Differs from the SDK's runner, measured in reference/mcp.md section 5: SIGTERM, SIGINT and
SIGHUP end the sessions too, and quickly; lines go through asyncio pipes instead of threads
(about 40 % off a call); a line that can't be read is answered instead of ignored; a line
has a largest size; nobody reading our stdout ends the server. fd 0 and 1 are moved away
before anything else runs, so that no kernel and no stray print can touch the wire.
"""

import asyncio
import json
import os
import selectors
import signal
import sys
from contextlib import suppress
from typing import IO, Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp import types
from mcp.server import MCPServer
from mcp.shared.message import SessionMessage

from carrel_mcp.context import App

LINE_BYTES = 32 << 20  # longest message that is read
PARSE_ERROR = -32700
INVALID_REQUEST = -32600
END_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SURROGATE = "the message holds a lone surrogate (half a character); write it as an escape"


async def serve_stdio(server: MCPServer[App]) -> None:
    """Serve until stdin ends, stdout breaks, or a signal asks us to end."""
    wire_in, wire_out = claim_stdio()
    low = server._lowlevel_server  # private, but what the SDK's own runners use
    to_server, from_wire = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    to_wire, from_server = anyio.create_memory_object_stream[SessionMessage](0)
    writer = Writer(wire_out)
    reader = await open_reader(wire_in)
    async with anyio.create_task_group() as tasks:

        async def end_on_signal() -> None:
            with anyio.open_signal_receiver(*END_SIGNALS) as signals:
                async for _ in signals:
                    tasks.cancel_scope.cancel()
                    return

        async def write() -> None:
            try:
                await write_messages(from_server, writer)
            except OSError:  # nobody reads: the host is gone
                tasks.cancel_scope.cancel()

        tasks.start_soon(end_on_signal)
        tasks.start_soon(write)
        tasks.start_soon(read_messages, reader, to_server, writer)
        await low.run(from_wire, to_wire, low.create_initialization_options())
        tasks.cancel_scope.cancel()


def claim_stdio() -> tuple[int, int]:
    """Move the wire away from fd 0 and 1; reads there get EOF, writes go to stderr."""
    wire_in, wire_out = os.dup(0), os.dup(1)  # not inheritable
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return wire_in, wire_out


async def open_reader(fd: int) -> asyncio.StreamReader:
    """Return a reader of lines from a descriptor of any kind."""
    reader = asyncio.StreamReader(limit=LINE_BYTES)
    loop = asyncio.get_running_loop()
    if not can_be_waited_for(fd):  # `carrel serve < file`
        with os.fdopen(fd, "rb") as file:
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


async def read_messages(
    reader: asyncio.StreamReader,
    to_server: MemoryObjectSendStream[SessionMessage | Exception],
    writer: "Writer",
) -> None:
    """Hand over each line as a message; answer those that are none."""
    async with to_server:
        while line := await read_line(reader, writer):
            if not line.strip():
                continue
            try:
                message = types.jsonrpc_message_adapter.validate_json(line, by_name=False)
            except ValueError:
                await writer.write(refusal(line))
                continue
            with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
                await to_server.send(SessionMessage(message))


async def read_line(reader: asyncio.StreamReader, writer: "Writer") -> bytes:
    """Return the next line; empty at the end. A line that is too long is refused."""
    while True:
        try:
            return await reader.readuntil(b"\n")
        except asyncio.IncompleteReadError as error:
            return error.partial
        except asyncio.LimitOverrunError as error:
            too_long = f"a message may have {LINE_BYTES} bytes"
            await writer.write(json_error(None, INVALID_REQUEST, too_long))
            # Throw the line away as it comes.
            await reader.readexactly(error.consumed)
            while True:
                try:
                    await reader.readuntil(b"\n")
                    break
                except asyncio.LimitOverrunError as more:
                    await reader.readexactly(more.consumed)
                except asyncio.IncompleteReadError:
                    return b""


def refusal(line: bytes) -> bytes:
    """Return the error that answers a line which is no message."""
    request_id = None
    code, message = PARSE_ERROR, "the line is not JSON"
    try:
        parsed: Any = json.loads(line)
    except (ValueError, RecursionError):
        return json_error(None, code, message)
    code, message = INVALID_REQUEST, "the line is JSON, but no JSON-RPC 2.0 message"
    if isinstance(parsed, dict):
        found = parsed.get("id")
        request_id = found if isinstance(found, (str, int)) else None
        try:
            json.dumps(parsed, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            message = SURROGATE
    return json_error(request_id, code, message)


def json_error(request_id: str | int | None, code: int, message: str) -> bytes:
    """Return a JSON-RPC error as a line."""
    body = {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": message}}
    return json.dumps(body).encode("utf-8") + b"\n"


async def write_messages(
    from_server: MemoryObjectReceiveStream[SessionMessage], writer: "Writer"
) -> None:
    """Write each message as a line."""
    async with from_server:
        async for item in from_server:
            text = item.message.model_dump_json(by_alias=True, exclude_unset=True)
            await writer.write(text.encode("utf-8") + b"\n")


class Writer:
    """Writes whole lines to a descriptor without blocking the event loop."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
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
                    await anyio.wait_writable(self._fd)


def run(server: MCPServer[App]) -> None:
    """Serve stdio in a fresh event loop; the process's exit code is 0 at any orderly end."""
    if sys.platform == "win32":
        anyio.run(server.run_stdio_async)
        return
    anyio.run(serve_stdio, server)
