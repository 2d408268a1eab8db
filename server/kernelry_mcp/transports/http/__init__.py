"""Streamable HTTP, and what guards it."""

from kernelry_mcp.transports.http.serving import run

__all__ = [
    "run",
]
