"""How messages come in and go out: stdio, and what both transports have in common."""

from kernelry_mcp.transports import stdio
from kernelry_mcp.transports.inflight import (
    HELD,
    INVALID_REQUEST,
    Held,
    InFlight,
    RefusedError,
    hold_while_called,
)
from kernelry_mcp.transports.wire import LINE_BYTES, outline

__all__ = [
    "HELD",
    "INVALID_REQUEST",
    "LINE_BYTES",
    "Held",
    "InFlight",
    "RefusedError",
    "hold_while_called",
    "outline",
    "stdio",
]
