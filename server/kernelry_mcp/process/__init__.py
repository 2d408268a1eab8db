"""The server as a process: how it ends, what it logs, who may look into it."""

from kernelry_mcp.process.ends import (
    ending_on_signals,
    exit_on_signals,
    watching_parent,
    watching_reader,
)
from kernelry_mcp.process.logs import logging_to_stderr
from kernelry_mcp.process.secrecy import hide_memory
from kernelry_mcp.process.watchdog import watching_loop

__all__ = [
    "ending_on_signals",
    "exit_on_signals",
    "hide_memory",
    "logging_to_stderr",
    "watching_loop",
    "watching_parent",
    "watching_reader",
]
