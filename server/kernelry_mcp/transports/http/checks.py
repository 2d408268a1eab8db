"""What of an HTTP request is checked before it is parsed: its media type, size, speed, id.

ASGI layers around the SDK's application, behind the token: whoever gets here may run code
anyway, so this is against accidents. The address is checked in auth.py, before the token.
"""

import asyncio

import anyio
import h11
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from kernelry_mcp.transports import (
    HELD,
    INVALID_REQUEST,
    LINE_BYTES,
    Held,
    InFlight,
    RefusedError,
    outline,
)

BODY_BYTES = LINE_BYTES  # the same message fits both wires
HEAD_DEADLINE = 10.0  # seconds in which a request's head must be complete
BODY_STALL = 5.0  # seconds without a byte after which a body is given up
BODY_DEADLINE = 120.0  # seconds in which all of a body must be there
TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class BoundedBody:
    """Takes JSON of at most `BODY_BYTES`, from clients that send it.

    Answers 415 to another media type, 413 to a larger body, 408 to one that does not come,
    and closes the connection then: what is still sent is not read.
    """

    def __init__(self, app: ASGIApp, *, size: int = BODY_BYTES, stall: float = BODY_STALL) -> None:
        self._app = app
        self._size = size
        self._stall = stall

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its whole body, or refuse it."""
        if not is_post(scope):
            await self._app(scope, receive, send)
            return
        try:
            check_media_type(scope)
            body = await self._read(scope, receive)
        except HTTPRefusal as refusal:
            await refused(refusal.status, str(refusal))(scope, receive, send)
            return
        if body is None:  # the client is gone
            return
        await self._app(scope, replaying(body, receive), send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        declared = Headers(scope=scope).get("content-length", "0")
        too_large = f"a request may have {self._size} bytes"
        if not declared.isdecimal() or int(declared) > self._size:
            raise HTTPRefusal(413, too_large)
        chunks: list[bytes] = []
        size = 0
        deadline = anyio.current_time() + BODY_DEADLINE
        more = True
        while more:
            left = min(self._stall, deadline - anyio.current_time())
            try:
                with anyio.fail_after(left):
                    message = await receive()
            except TimeoutError:
                raise HTTPRefusal(408, "the body of the request did not come") from None
            if message["type"] != "http.request":
                return None
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > self._size:
                raise HTTPRefusal(413, too_large)
            more = message.get("more_body", False)
        return b"".join(chunks)


class HTTPRefusal(Exception):
    """A request is not taken; `status` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def check_media_type(scope: Scope) -> None:
    """Refuse a body that is not declared as JSON."""
    given = Headers(scope=scope).get("content-type", "")
    if given.partition(";")[0].strip().lower() != "application/json":
        raise HTTPRefusal(415, "send application/json")


def refused(status: int, message: str) -> JSONResponse:
    """Return an answer after which the connection is closed."""
    return JSONResponse({"error": message}, status_code=status, headers={"Connection": "close"})


def replaying(body: bytes, receive: Receive) -> Receive:
    """Return what gives the application a body that was read already."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return first.pop() if first else await receive()

    return replay


class OneIdOnce:
    """Refuses a request id that is in flight in the same mcp_session (the older wire).

    Each request of the newer wire is an exchange of its own, which no id can confuse.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._in_flight = InFlight()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with 409 or 503."""
        mcp_session = Headers(scope=scope).get("mcp-session-id") if is_post(scope) else None
        if mcp_session is None:
            await self._app(scope, receive, send)
            return
        body = (await receive()).get("body", b"")  # all of it: BoundedBody is around us
        replay = replaying(body, receive)
        seen = outline(body)
        if seen.request_id is None or not seen.has_method:  # no request
            await self._app(scope, replay, send)
            return
        key = (mcp_session, str(seen.request_id))  # the SDK takes "7" for 7
        try:
            self._in_flight.take(key, seen.request_id)
        except RefusedError as error:
            answer = {"code": error.code, "message": str(error)}
            response = JSONResponse(
                {"jsonrpc": "2.0", "id": seen.request_id, "error": answer},
                status_code=409 if error.code == INVALID_REQUEST else 503,
            )
            await response(scope, receive, send)
            return
        held = scope[HELD] = Held(self._in_flight, key)
        with held:
            await self._app(scope, replay, send)


def is_post(scope: Scope) -> bool:
    """Say whether an ASGI scope is a POST."""
    return bool(scope["type"] == "http" and scope["method"] == "POST")


class PatientProtocol(H11Protocol):
    """uvicorn's HTTP, with an end to its patience: the head of a request must come in time."""

    _overdue: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Give the first request its time."""
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Give each further request its time from its first byte on."""
        super().data_received(data)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing more."""
        super().connection_lost(exc)
        self._stop_expecting()

    def _expect_head(self) -> None:
        # Between two requests uvicorn's own keep-alive timer runs instead.
        if self.conn.their_state is not h11.IDLE or self.timeout_keep_alive_task is not None:
            self._stop_expecting()
        elif self._overdue is None:
            self._overdue = self.loop.call_later(HEAD_DEADLINE, self._give_up)

    def _stop_expecting(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(TOO_SLOW)
            self.transport.close()
