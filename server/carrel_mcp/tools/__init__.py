"""The tools; importing this package declares all of them, in the order they are listed."""

from carrel_mcp.tools import sessions, code, packages, scripts, health, files, control  # noqa: I001  # order of listing

__all__ = ["code", "control", "files", "health", "packages", "scripts", "sessions"]
