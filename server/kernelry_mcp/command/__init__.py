"""The command line: serve, doctor, client-config and the rest."""

from kernelry_mcp.command.cli import main

__all__ = [
    "main",
]
