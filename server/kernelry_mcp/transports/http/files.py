"""What links to files lead to: downloads by ranges, uploads that can be resumed.

An ASGI layer before the token, which a link does without. Memory is bounded by one chunk per
request, whatever the size of the file.
"""

import asyncio
import errno
import re
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import anyio
from starlette.datastructures import Headers, QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from kernelry.errors import ConflictError, KernelryError
from kernelry.workspace import transfer
from kernelry_mcp.links import OVER, PATH, Grant, LinkError, Links, Purpose

CHUNK = 1 << 20  # bytes that are read or written at once
STALL = 60.0  # seconds without a byte after which an upload is given up; it can be resumed
RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
PART = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")
#: a file of a session is shown by nobody's browser as if it were ours
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "sandbox",
    "X-Content-Type-Options": "nosniff",
}
FULL = (errno.ENOSPC, errno.EDQUOT)


class FileLinks:
    """Answers what asks for a link to a file; all else goes on.

    Args:
        app: The rest.
        links: Those of this server.
        workspace: Where the files are.
    """

    def __init__(self, app: ASGIApp, links: Links, workspace: Path) -> None:
        self._app = app
        self._links = links
        self._workspace = workspace
        self._uploading = set[str]()  # files that are being written

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a link, or pass a request on."""
        if scope["type"] != "http" or not scope["path"].startswith(PATH):
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await self._answer(request, scope["path"].removeprefix(PATH))
        except LinkError as error:
            response = refused(403, str(error))
        except ConflictError as error:
            response = refused(409, str(error))
        except KernelryError as error:
            response = refused(404, str(error))
        except ClientDisconnect:  # what came is kept
            return
        await response(scope, receive, send)

    async def _answer(self, request: Request, path: str) -> Response:
        grant = self._links.check(path, QueryParams(request.scope["query_string"]))
        reads = grant.purpose is Purpose.DOWNLOAD
        allowed = ("GET", "HEAD") if reads else ("PUT", "HEAD")
        if request.method not in allowed:
            return refused(
                405, f"this link takes {' and '.join(allowed)}", Allow=", ".join(allowed)
            )
        if reads and grant.is_over:
            return refused(403, OVER)
        if reads:
            return await self._download(grant, request.headers, body=request.method == "GET")
        there = await asyncio.to_thread(transfer.received, self._workspace, grant.nonce)
        if grant.is_over and not there:  # what has begun goes on
            return refused(403, OVER)
        if request.method == "HEAD":
            return Response(headers=HEADERS | offset(there))
        return await self._upload(grant, request, there)

    async def _download(self, grant: Grant, headers: Headers, *, body: bool) -> Response:
        file = await asyncio.to_thread(transfer.Download, self._workspace, grant.path)
        try:
            start, end = 0, file.size
            tag = f'"{file.tag}"'
            found = RANGE.fullmatch(headers.get("range", ""))
            is_same = headers.get("if-range", tag) == tag
            if found and is_same and any(found.groups()):
                start, end = stretch(found[1], found[2], file.size)
                if start >= end:
                    file.close()
                    return refused(
                        416, "beyond the file", **{"Content-Range": f"bytes */{file.size}"}
                    )
            name = quote(Path(grant.path).name)
            more = {
                "Accept-Ranges": "bytes",
                "Content-Disposition": f"attachment; filename*=UTF-8''{name}",
                "Content-Length": str(end - start),
                "ETag": tag,
            }
            is_part = (start, end) != (0, file.size)
            if is_part:
                more["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
        except BaseException:
            file.close()
            raise
        kind, status = "application/octet-stream", 206 if is_part else 200
        if not body:
            file.close()
            return Response(status_code=status, headers=HEADERS | more, media_type=kind)
        return StreamingResponse(
            chunks_of(file, start, end), status, headers=HEADERS | more, media_type=kind
        )

    async def _upload(self, grant: Grant, request: Request, there: int) -> Response:
        root, name = self._workspace, grant.nonce
        if name in self._uploading:
            return refused(409, "another upload by this link is under way")
        self._uploading.add(name)
        try:
            part = PART.fullmatch(request.headers.get("content-range", ""))
            start, total = (int(part[1]), int(part[3])) if part else (0, 0)
            length = request.headers.get("content-length", "")
            coming = int(length) if length.isdecimal() else 0
            if max(total, start + coming) > grant.size:
                return refused(413, f"this link takes {grant.size} bytes")
            if start != (there if part else 0):
                return refused(409, f"go on at byte {there}", **offset(there))
            if not part and there:
                await asyncio.to_thread(transfer.discard, root, name)
            got = await self._receive(grant, request, start)
            if part and got < total:
                return Response(status_code=202, headers=HEADERS | offset(got))
            if part and got > total:
                await asyncio.to_thread(transfer.discard, root, name)
                return refused(400, f"more came than the {total} bytes of Content-Range")
            if length and got < start + coming:  # the client stopped sending
                return refused(400, f"go on at byte {got}", **offset(got))
            replace = grant.purpose is Purpose.REPLACE
            await asyncio.to_thread(transfer.finish, root, name, grant.path, got, replace=replace)
            return JSONResponse({"path": grant.path, "size": got}, 201, headers=HEADERS)
        except TooLargeError:
            await asyncio.to_thread(transfer.discard, root, name)
            return refused(413, f"this link takes {grant.size} bytes")
        except TimeoutError:
            return refused(408, "nothing came for a minute; HEAD says where to go on")
        except OSError as error:
            full = error.errno in FULL
            return refused(507 if full else 409, error.strerror or "it can't be written")
        finally:
            self._uploading.discard(name)

    async def _receive(self, grant: Grant, request: Request, start: int) -> int:
        """Write what comes; return how many bytes are there.

        Raises:
            TooLargeError: More comes than the link takes.
            TimeoutError: Nothing came for too long.
        """
        written, waiting = start, bytearray()
        stream = request.stream()

        async def write() -> None:
            nonlocal written
            data = bytes(waiting)
            waiting.clear()  # before anybody can be cancelled: nothing is written twice
            written += len(data)
            with anyio.CancelScope(shield=True):
                await asyncio.to_thread(
                    transfer.add, self._workspace, grant.nonce, data, written - len(data)
                )

        try:
            while True:
                with anyio.fail_after(STALL):
                    data = await anext(stream, None)
                waiting += data or b""
                if written + len(waiting) > grant.size:
                    waiting.clear()
                    raise TooLargeError
                if waiting and (data is None or len(waiting) >= CHUNK):
                    await write()
                if data is None:
                    return written
        finally:
            if waiting:  # the connection broke: what came is kept
                await write()


class TooLargeError(Exception):
    """More came than a link takes."""


def stretch(first: str, last: str, size: int) -> tuple[int, int]:
    """Return where a range of bytes begins and ends (exclusive); empty: it is beyond the file."""
    if not first:
        return max(size - int(last), 0), size
    return int(first), min(int(last) + 1 if last else size, size)


async def chunks_of(file: transfer.Download, start: int, end: int) -> AsyncIterator[bytes]:
    """Yield what is in a file from one byte to another, and close it."""
    try:
        while start < end:
            data = await asyncio.to_thread(file.read, start, min(CHUNK, end - start))
            if not data:  # it became shorter: the client sees that something is missing
                return
            start += len(data)
            yield data
    finally:
        file.close()


def offset(there: int) -> dict[str, str]:
    """Return the header that says where to go on."""
    return {"Upload-Offset": str(there)}


def refused(status: int, message: str, **headers: str) -> JSONResponse:
    """Return an answer that says what is wrong."""
    return JSONResponse({"error": message}, status, headers=HEADERS | headers)
