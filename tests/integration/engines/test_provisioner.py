"""Jupyter's own programs with kernels forked by us."""

# jupyter_client's annotations know only the base class of provisioners.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager

from kernelry.engines import provisioner

HANG = 60.0  # seconds after which a test is stuck


def write_kernelspec(folder: Path) -> None:
    """Write the kernelspec that docs/provisioner.md shows."""
    (folder / "kernelry").mkdir(parents=True)
    spec = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python (forked)",
        "language": "python",
        "metadata": {"kernel_provisioner": {"provisioner_name": "kernelry-fork"}},
    }
    (folder / "kernelry" / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")


@pytest.fixture
async def manager(tmp_path: Path) -> AsyncIterator[AsyncKernelManager]:
    write_kernelspec(tmp_path)
    specs = KernelSpecManager(kernel_dirs=[str(tmp_path)], ensure_native_kernel=False)
    kernel = AsyncKernelManager(
        kernel_name="kernelry",
        kernel_spec_manager=specs,
        transport="ipc",
        connection_file=str(tmp_path / "connection.json"),
    )
    await kernel.start_kernel(stderr=None)
    yield kernel
    await kernel.shutdown_kernel(now=True)
    await close_servers()


async def close_servers() -> None:
    """End the fork servers of this process."""
    for server in list(provisioner._servers.values()):
        await server.aclose()
    provisioner._servers.clear()


async def execute(kernel: AsyncKernelManager, code: str) -> str:
    """Run code as any Jupyter client does; return what it printed."""
    client = kernel.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=HANG)
        printed: list[str] = []

        def hear(message: dict[str, object]) -> None:
            content = message["content"]
            if message["msg_type"] == "stream" and isinstance(content, dict):
                printed.append(content["text"])

        reply = await client.execute_interactive(code, output_hook=hear, timeout=HANG)
        assert reply["content"]["status"] == "ok"
        return "".join(printed)
    finally:
        client.stop_channels()


async def test_jupyter_client_uses_a_forked_kernel(manager: AsyncKernelManager) -> None:
    assert manager.provisioner is not None
    pid = manager.provisioner.pid
    parent = psutil.Process(pid).parent()
    assert parent is not None
    assert parent.pid != os.getpid()
    assert await execute(manager, "print('x' * 1_000_000)") == "x" * 1_000_000 + "\n"
    assert await manager.is_alive()


async def test_interrupt_restart_and_shutdown_work(manager: AsyncKernelManager) -> None:
    client = manager.client()
    client.start_channels()
    await client.wait_for_ready(timeout=HANG)
    msg_id = client.execute("while True: pass")
    async with asyncio.timeout(HANG):
        while True:
            message = await client.get_iopub_msg()
            if message["msg_type"] == "execute_input":
                break
        await asyncio.sleep(0.05)
        await manager.interrupt_kernel()
        while True:
            reply = await client.get_shell_msg()
            if reply["parent_header"].get("msg_id") == msg_id:
                break
    client.stop_channels()
    assert reply["content"]["ename"] == "KeyboardInterrupt"
    before = manager.provisioner.pid
    await manager.restart_kernel(now=True)
    assert manager.provisioner.pid != before
    assert await execute(manager, "print(1)") == "1\n"
    await manager.shutdown_kernel()
    assert not await manager.is_alive()


async def test_a_kernel_that_dies_is_noticed(manager: AsyncKernelManager) -> None:
    os.kill(manager.provisioner.pid, 9)
    async with asyncio.timeout(HANG):
        while await manager.is_alive():
            await asyncio.sleep(0.02)


async def test_a_kernel_that_can_t_start_is_found_dead(tmp_path: Path) -> None:
    """As stock: whose port another one has was started, and ends."""
    write_kernelspec(tmp_path)
    specs = KernelSpecManager(kernel_dirs=[str(tmp_path)], ensure_native_kernel=False)
    kernel = AsyncKernelManager(
        kernel_name="kernelry", kernel_spec_manager=specs, cache_ports=False
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        kernel.shell_port = taken.getsockname()[1]
        await kernel.start_kernel()
        async with asyncio.timeout(HANG):
            while await kernel.is_alive():
                await asyncio.sleep(0.02)
    await kernel.shutdown_kernel(now=True)
    await close_servers()


async def test_a_console_gets_its_history_and_its_ports(manager: AsyncKernelManager) -> None:
    for code in ("a = 1", "b = 2", "a = 1", "print(a)"):
        await execute(manager, code)
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=HANG)

        async def history(output: bool = False, **asked: object) -> list[Any]:
            content = {"raw": True, "output": output, **asked}
            client.shell_channel.send(client.session.msg("history_request", content))
            while (reply := await client.get_shell_msg(timeout=HANG))[
                "msg_type"
            ] != "history_reply":
                pass
            assert reply["content"]["status"] == "ok"
            return [code for _, _, code in reply["content"]["history"]]

        assert await history(hist_access_type="tail", n=2) == ["a = 1", "print(a)"]
        assert await history(hist_access_type="search", pattern="a*") == ["a = 1", "a = 1"]
        once = await history(hist_access_type="search", pattern="*=*", unique=True)
        assert once == ["b = 2", "a = 1"]
        assert await history(hist_access_type="range", start=2, stop=4) == ["b = 2", "a = 1"]
        assert await history(True, hist_access_type="tail", n=1) == [["print(a)", None]]
        client.shell_channel.send(client.session.msg("connect_request", {}))
        while (reply := await client.get_shell_msg(timeout=HANG))["msg_type"] != "connect_reply":
            pass
        ports = {f"{name}_port" for name in ("shell", "iopub", "stdin", "control", "hb")}
        assert ports <= reply["content"].keys()
    finally:
        client.stop_channels()


FORKING = """
import multiprocessing, nbformat
from concurrent.futures import ProcessPoolExecutor
from nbclient import NotebookClient

def run(number):
    cell = nbformat.v4.new_code_cell(f"print({number})")
    notebook = nbformat.v4.new_notebook(cells=[cell])
    NotebookClient(notebook, kernel_name="kernelry", timeout=60).execute()
    return notebook.cells[0].outputs[0].text.strip()

if __name__ == "__main__":
    assert run(0) == "0"
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        assert list(pool.map(run, range(6))) == [*"012345"]
    assert run(7) == "7"
"""


async def test_a_process_forked_from_one_that_has_kernels_gets_its_own(tmp_path: Path) -> None:
    """It shares the loop's selector with its parent and siblings, and what wakes that."""
    write_kernelspec(tmp_path / "kernels")
    environment = os.environ | {"JUPYTER_PATH": str(tmp_path)}
    argv = [sys.executable, "-c", FORKING]
    done = await asyncio.to_thread(
        lambda: subprocess.run(
            argv, timeout=HANG, check=False, capture_output=True, text=True, env=environment
        )
    )
    assert done.returncode == 0, done.stderr
