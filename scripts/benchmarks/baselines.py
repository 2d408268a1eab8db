"""What kernelry is compared with: stock jupyter_client, and an MCP server that does nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
from jupyter_client.manager import AsyncKernelManager
from mcp import Client, StdioServerParameters

KERNELRY = Path(sys.executable).with_name("kernelry")

NOOP_SERVER = """
import logging
logging.basicConfig(level="WARNING")
from mcp.server import MCPServer
from kernelry_mcp.transports import stdio
server = MCPServer("noop", log_level="WARNING")

@server.tool()
async def noop(code: str) -> str:
    "Do nothing."
    return ""

stdio.run(server)
"""

EMPTY_SERVER = NOOP_SERVER.replace("from kernelry_mcp.transports import stdio\n", "").replace(
    "stdio.run(server)", "server.run()"
)


class StockKernel:
    """A kernel of jupyter_client's own, as any of its users gets it."""

    def __init__(self) -> None:
        self.manager = AsyncKernelManager(kernel_name="python3")
        self.client: Any = None

    async def start(self) -> None:
        env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        await self.manager.start_kernel(env=env, stderr=subprocess.DEVNULL)
        self.client = self.manager.client()
        self.client.start_channels()
        await self.client.wait_for_ready(timeout=60)

    async def run(self, code: str) -> None:
        """Execute and take all that answers, as a client must."""
        msg_id = self.client.execute(code)
        while True:
            message = await self.client.get_iopub_msg(timeout=60)
            if message["parent_header"].get("msg_id") == msg_id and (
                message["msg_type"] == "status" and message["content"]["execution_state"] == "idle"
            ):
                break
        while True:
            reply = await self.client.get_shell_msg(timeout=60)
            if reply["parent_header"].get("msg_id") == msg_id:
                return

    async def stop(self) -> None:
        self.client.stop_channels()
        await self.manager.shutdown_kernel(now=True)

    @property
    def pid(self) -> int:
        return int(self.manager.provisioner.pid)


@asynccontextmanager
async def mcp_server(program: str) -> AsyncIterator[Client]:
    """A server given as a program's text."""
    parameters = StdioServerParameters(command=sys.executable, args=["-c", program])
    async with Client(parameters) as client:
        yield client


@asynccontextmanager
async def kernelry_server(scratch: Path, *flags: str) -> AsyncIterator[Client]:
    """A real kernelry over stdio."""
    args = ["serve", "--workspace", str(scratch / "w"), "--state-dir", str(scratch / "s")]
    parameters = StdioServerParameters(
        command=str(KERNELRY), args=[*args, "--log-level", "ERROR", *flags]
    )
    async with Client(parameters) as client:
        yield client


def pss(pid: int) -> int:
    """Return the bytes that a process really costs."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0
    return next(int(row.split()[1]) * 1024 for row in text.splitlines() if row.startswith("Pss:"))


def tree_pss(root: psutil.Process) -> int:
    """Return the bytes that a process and its descendants really cost."""
    return sum(pss(process.pid) for process in [root, *root.children(recursive=True)])
