"""The tools; importing this package declares all of them, in the order they are listed."""

from carrel_mcp.tools import sessions, code, packages, scripts, health, files, control, events  # noqa: I001  # order of listing

__all__ = ["code", "control", "events", "files", "health", "packages", "scripts", "sessions"]
