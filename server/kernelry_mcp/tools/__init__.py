"""The tools; importing this package declares all of them, in the order they are listed."""

# isort: off
from kernelry_mcp.tools import sessions, code, packages, scripts, health
from kernelry_mcp.tools import files, control, lives, artifacts, checkpoints, history, events

__all__ = [
    "artifacts",
    "checkpoints",
    "code",
    "control",
    "events",
    "files",
    "health",
    "history",
    "lives",
    "packages",
    "scripts",
    "sessions",
]
