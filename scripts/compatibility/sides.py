"""The two sides of a comparison: a cell as an agent of kernelry has it, and as stock ipykernel."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

HANG = 120.0  # seconds after which a cell hangs
LOOK = 2.0  # seconds between two looks whether a kernel that is silent lives
OK, ERROR, HANGS, DIED = "ok", "error", "hangs", "died"
STATUSES = {"completed": OK, "failed": ERROR}
#: text forms that say nothing but what type it is
BARE = re.compile(r"^<[\w.]+( object| size \d+x\d+ with \d+ Axes)?( at 0x[0-9a-f]+)?>$")


@dataclass(slots=True)
class Seen:
    """What came of a cell."""

    #: ok, error, hangs; or what else kernelry says
    status: str = HANGS
    #: name of what it raised
    error: str = ""
    #: all that can be read
    text: str = ""
    #: pictures that were shown
    pictures: int = 0
    #: what was shown and is neither picture nor told by its text: its MIME types
    rich: list[str] = field(default_factory=list)

    @property
    def is_silent(self) -> bool:
        """Say whether nothing was put out."""
        return not (self.text.strip() or self.pictures or self.rich)


class Stock:
    """A stock kernel of an interpreter, with a client that takes all that it says."""

    def __init__(self, manager: AsyncKernelManager) -> None:
        self._manager = manager
        self._client: Any = manager.client()

    async def run(self, code: str) -> Seen:
        """Run a cell and return what a front end has of it."""
        seen = Seen()
        displays: dict[str, dict[str, Any]] = {}
        texts: list[str] = []
        msg_id = self._client.execute(code, allow_stdin=False, stop_on_error=False)
        try:
            async with asyncio.timeout(HANG):
                clears = False
                while True:
                    message = await self._hear()
                    if message is None:
                        seen.status = DIED
                        return seen
                    if message["parent_header"].get("msg_id") != msg_id:
                        continue
                    kind, content = message["msg_type"], message["content"]
                    if kind == "status" and content["execution_state"] == "idle":
                        break
                    if kind == "clear_output":
                        clears = True
                        continue
                    if clears and kind in ("stream", "display_data", "execute_result"):
                        texts.clear()
                        displays.clear()
                        clears = False
                    if kind == "stream":
                        texts.append(content["text"])
                    elif kind in ("display_data", "execute_result", "update_display_data"):
                        key = content.get("transient", {}).get("display_id") or str(len(displays))
                        displays[key] = content["data"]
                    elif kind == "error":
                        texts.append(f"\n{content['ename']}: {content['evalue']}\n")
                reply = await self._reply(msg_id)
        except TimeoutError:
            return seen
        seen.status = reply["status"]
        seen.error = str(reply.get("ename", ""))
        texts += [f"\n{page_text(page)}" for page in reply.get("payload", ())]
        for data in displays.values():
            take_display(seen, data, texts)
        seen.text = "".join(texts)
        return seen

    async def _hear(self) -> dict[str, Any] | None:
        """Return the next message on IOPub; None: the kernel has ended."""
        while True:
            try:
                message: dict[str, Any] = await self._client.get_iopub_msg(timeout=LOOK)
            except Empty:
                if not await self._manager.is_alive():
                    return None
            else:
                return message

    async def _reply(self, msg_id: str) -> dict[str, Any]:
        while True:
            reply = await self._client.get_shell_msg(timeout=HANG)
            if reply["parent_header"].get("msg_id") == msg_id:
                content: dict[str, Any] = reply["content"]
                return content

    async def start(self) -> None:
        """Wait until it can be used."""
        self._client.start_channels()
        await self._client.wait_for_ready(timeout=HANG)

    def close(self) -> None:
        """Give the client's sockets back."""
        self._client.stop_channels()


def page_text(page: dict[str, Any]) -> str:
    """Return the text of a payload: of help, or of a cell to come."""
    return str(page.get("data", {}).get("text/plain", page.get("text", "")))


def take_display(seen: Seen, data: dict[str, Any], texts: list[str]) -> None:
    """Count what a display is: a picture, something to save, or text."""
    is_picture = any(kind in data for kind in ("image/png", "image/jpeg"))
    seen.pictures += is_picture
    text = str(data.get("text/plain", ""))
    if not (is_picture or BARE.match(text)):
        texts.append(f"\n{text}")
    others = [kind for kind in data if kind != "text/plain" and not kind.startswith("image/")]
    if not is_picture and (not text or BARE.match(text)):
        seen.rich += others or [*data]


@asynccontextmanager
async def stock_kernel(python: Path, folder: Path) -> AsyncIterator[Stock]:
    """Start a stock kernel that works in a folder; by files, since ports may be anybody's."""
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    said = {"argv": argv, "display_name": "stock", "language": "python"}
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "KERNELRY"))}
    null = subprocess.DEVNULL
    with tempfile.TemporaryDirectory(prefix="stock-") as scratch:
        spec = Path(scratch) / "kernels" / "stock"
        spec.mkdir(parents=True)
        (spec / "kernel.json").write_text(json.dumps(said), encoding="utf-8")
        specs = KernelSpecManager(kernel_dirs=[str(spec.parent)], ensure_native_kernel=False)
        manager = AsyncKernelManager(
            kernel_name="stock",
            kernel_spec_manager=specs,
            transport="ipc",
            connection_file=f"{scratch}/kernel.json",
        )
        await manager.start_kernel(cwd=str(folder), env=env, stdout=null, stderr=null)
        stock = Stock(manager)
        try:
            await stock.start()
            yield stock
        finally:
            stock.close()
            await manager.shutdown_kernel(now=True)


class Ours:
    """A session of a kernelry server."""

    def __init__(self, client: Client, session_id: str) -> None:
        self._client = client
        self._session_id = session_id

    async def run(self, code: str) -> Seen:
        """Run a cell and return what an agent has of it."""
        arguments = {"code": code, "session_id": self._session_id, "timeout": HANG}
        try:
            async with asyncio.timeout(HANG + 30):
                answer = await self._client.call_tool("run_python_code", arguments)
        except TimeoutError:
            return Seen()
        told = "\n".join(block.text for block in answer.content if block.type == "text")
        if answer.is_error:
            return Seen(status="refused", text=told)
        data: dict[str, Any] = answer.structured_content or {}
        error = data["error"]["type"] if data["error"] else ""
        return Seen(
            status=STATUSES.get(data["status"], data["status"]),
            error=error,
            text=told.partition("\n")[2],  # the first line says how it ended
            pictures=sum(block.type == "image" for block in answer.content),
            rich=[file["path"] for file in data["outputs"]],
        )


@asynccontextmanager
async def our_server(
    python: Path, folder: Path, isolation: str, log: Path
) -> AsyncIterator[Client]:
    """Start a kernelry server whose sessions work in a folder."""
    program = Path(sys.executable).with_name("kernelry")
    args = ["serve", "--workspace", str(folder), "--state-dir", str(folder.parent / "state")]
    args += ["--python", str(python), "--isolation", isolation, "--log-level", "ERROR"]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "KERNELRY_"))}
    parameters = StdioServerParameters(command=str(program), args=args, env=env)
    with log.open("a", encoding="utf-8") as file:
        async with Client(stdio_client(parameters, errlog=file)) as client:
            yield client


@asynccontextmanager
async def our_session(client: Client, name: str) -> AsyncIterator[Ours]:
    """Create a session for a workload."""
    created = await client.call_tool("create_session", {"session_id": name})
    if created.is_error:
        msg = f"no session: {created.content}"
        raise RuntimeError(msg)
    try:
        yield Ours(client, name)
    finally:
        await client.call_tool("delete_session", {"session_id": name})
