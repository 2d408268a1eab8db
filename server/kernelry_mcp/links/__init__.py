"""Links to workspace files that carry their own permission, for what no model should read."""

from kernelry_mcp.links.signing import OVER, PATH, Grant, LinkError, Links, Purpose

__all__ = [
    "OVER",
    "PATH",
    "Grant",
    "LinkError",
    "Links",
    "Purpose",
]
