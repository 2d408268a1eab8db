"""Kernel Gateway with its own kernels and with ours, in one gateway and one run."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from figures import Comparison, Figure
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.websocket import websocket_connect

GATEWAY = Path(__file__).parents[2] / ".scratch" / "gateway" / "bin" / "python"
START_DEADLINE = 60.0  # seconds
MS = 1000.0


def write_kernelspec(folder: Path) -> None:
    """Write the kernelspec of docs/provisioner.md."""
    (folder / "kernels" / "kernelry").mkdir(parents=True)
    spec = {
        "argv": [str(GATEWAY), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python (forked)",
        "language": "python",
        "metadata": {"kernel_provisioner": {"provisioner_name": "kernelry-fork"}},
    }
    path = folder / "kernels" / "kernelry" / "kernel.json"
    path.write_text(json.dumps(spec), encoding="utf-8")


@asynccontextmanager
async def kernel_gateway(scratch: Path) -> AsyncIterator[tuple[str, str]]:
    """A Kernel Gateway on loopback; its address and token."""
    write_kernelspec(scratch)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    env = {**os.environ, "JUPYTER_PATH": str(scratch), "KG_AUTH_TOKEN": token}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    process = await asyncio.create_subprocess_exec(
        str(GATEWAY),
        "-m",
        "kernel_gateway",
        "--ip=127.0.0.1",
        f"--port={port}",
        env=env,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    address = f"127.0.0.1:{port}"
    try:
        async with asyncio.timeout(START_DEADLINE):
            while True:
                try:
                    await call(address, token, "/api/kernelspecs")
                    break
                except OSError:
                    await asyncio.sleep(0.1)
        yield address, token
    finally:
        process.terminate()
        await process.wait()


async def call(address: str, token: str, path: str, method: str = "GET", body: str = "") -> Any:
    request = HTTPRequest(
        f"http://{address}{path}",
        method=method,
        headers={"Authorization": f"token {token}"},
        body=body if method == "POST" else None,
    )
    answer = (await AsyncHTTPClient().fetch(request)).body
    return json.loads(answer) if answer else None


async def first_result(address: str, token: str, name: str) -> str:
    """Create a kernel and run 1+1 in it; return its id."""
    kernel = await call(address, token, "/api/kernels", "POST", json.dumps({"name": name}))
    request = HTTPRequest(
        f"ws://{address}/api/kernels/{kernel['id']}/channels",
        headers={"Authorization": f"token {token}"},
    )
    connection = await websocket_connect(request)
    msg_id = secrets.token_hex(8)
    header = {"msg_id": msg_id, "msg_type": "execute_request", "session": "s", "version": "5.3"}
    header |= {"username": "u", "date": "2026-01-01T00:00:00Z"}
    request_message: dict[str, Any] = {"channel": "shell", "header": header}
    request_message |= {"parent_header": {}, "metadata": {}, "buffers": []}
    request_message["content"] = {"code": "1+1", "silent": False}
    connection.write_message(json.dumps(request_message))
    while True:
        message = json.loads(await connection.read_message() or "{}")
        if message.get("parent_header", {}).get("msg_id") == msg_id and (
            message["header"]["msg_type"] == "execute_reply"
        ):
            connection.close()
            return str(kernel["id"])


async def through_kernel_gateway(rounds: int) -> list[Comparison]:
    """Create to first result through the gateway, both kernelspecs in turn."""
    if not GATEWAY.exists():
        print("no .scratch/gateway: run scripts/clients", file=sys.stderr)
        return []
    ours, stock = Figure("kernelry-fork", "ms"), Figure("Jupyter's own python3", "ms")
    with tempfile.TemporaryDirectory(prefix="kernelry-bench-") as scratch:
        async with kernel_gateway(Path(scratch)) as (address, token):
            await first_result(address, token, "kernelry")  # starts the fork server
            for _ in range(rounds):
                for figure, name in ((ours, "kernelry"), (stock, "python3")):
                    started = time.perf_counter()
                    kernel_id = await first_result(address, token, name)
                    figure.samples.append((time.perf_counter() - started) * MS)
                    await call(address, token, f"/api/kernels/{kernel_id}", "DELETE")
    return [Comparison("Kernel Gateway, create to first result", ours, stock, "<= 1/3", 1 / 3)]
