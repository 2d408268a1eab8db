"""Requests that were taken and are not answered yet, over both wires.

A request id names one request from the moment it is taken until it is answered, or its
call was cancelled and has wound up. Until then a second one of the same id would get the
first one's answer or take its cancellation, so it is refused; and so is what goes beyond
a number that no client of good will reaches.
"""

from collections.abc import Hashable
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext

IN_FLIGHT = 1_000  # requests that may wait for their answers at once
INVALID_REQUEST = -32600
LIMIT_EXCEEDED = -32005  # of the range that is left to servers
HELD = "kernelry_held"  # key in an HTTP request's scope
SHOWN = 64  # characters of an id that a message repeats


class RefusedError(Exception):
    """A request is not taken; `code` is JSON-RPC's."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class InFlight:
    """The requests in flight; one for a stdio server, one for all mcp_sessions of HTTP."""

    def __init__(self, limit: int = IN_FLIGHT) -> None:
        self._limit = limit
        self._keys: set[Hashable] = set()

    def __len__(self) -> int:
        return len(self._keys)

    def take(self, key: Hashable, request_id: str | int) -> None:
        """Take a request.

        Args:
            key: What its id is unique by.
            request_id: The id as the client wrote it.

        Raises:
            RefusedError: There is one of this key already, or there are too many.
        """
        if key in self._keys:
            raise RefusedError(INVALID_REQUEST, f"id {shown(request_id)} is in flight already")
        if len(self._keys) >= self._limit:
            msg = f"there are {self._limit} requests in flight, the limit; wait for answers"
            raise RefusedError(LIMIT_EXCEEDED, msg)
        self._keys.add(key)

    def release(self, key: Hashable) -> None:
        """Forget a request: it is answered, or it never will be."""
        self._keys.discard(key)

    def keep(self, key: Hashable) -> None:
        """Count a request, whatever the limit says."""
        self._keys.add(key)


class Held:
    """One request over HTTP: in flight while its exchange or its call goes on.

    The two end on their own: a client that goes away ends the exchange only, and its call
    would answer into the stream of the next request of that id.
    """

    def __init__(self, in_flight: InFlight, key: Hashable) -> None:
        self._in_flight = in_flight
        self._key = key
        self._holders = 0

    def __enter__(self) -> None:
        self._holders += 1
        self._in_flight.keep(self._key)

    def __exit__(self, *_: object) -> None:
        self._holders -= 1
        if not self._holders:
            self._in_flight.release(self._key)


async def hold_while_called(
    ctx: ServerRequestContext[Any, Any], call_next: CallNext
) -> HandlerResult:
    """Keep the id of a request over HTTP taken until its call is over."""
    scope = getattr(ctx.request, "scope", {})
    held: Held | None = scope.get(HELD) if ctx.request_id is not None else None
    if held is None:
        return await call_next(ctx)
    with held:
        return await call_next(ctx)


def shown(request_id: str | int) -> str:
    """Return an id as a message repeats it."""
    text = repr(request_id)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
