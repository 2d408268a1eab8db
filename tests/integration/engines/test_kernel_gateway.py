"""Kernel Gateway 3 with kernels forked by us, through its REST and websocket interface."""

import importlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

REPOSITORY = Path(__file__).parents[3]
GATEWAY = REPOSITORY / ".scratch" / "gateway" / "bin" / "python"
HANG = 60.0  # seconds after which a test is stuck


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark's way to start and to use a gateway."""
    if not GATEWAY.exists():
        why = "Kernel Gateway is missing: run scripts/clients"
        if os.environ.get("KERNELRYTEST_REQUIRE_ALL"):
            pytest.fail(why)
        pytest.skip(why)
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts" / "benchmarks"))
    return importlib.import_module("gateway")


def command(process: psutil.Process) -> list[str]:
    """Return what a process runs; nothing of one that has ended or is no more than a zombie."""
    with suppress(psutil.Error):
        return list(process.cmdline())
    return []


async def test_kernel_gateway_forks_its_kernels(gateway: Any, tmp_path: Path) -> None:
    async with gateway.kernel_gateway(tmp_path) as (address, token):
        kernels = [await gateway.first_result(address, token, "kernelry") for _ in range(3)]
        ours = psutil.Process().children(recursive=True)
        servers = {p.pid: p for p in ours if "forkserver" in command(p)}
        roots = [p for p in servers.values() if p.ppid() not in servers]
        assert len(roots) == 1
        assert len(roots[0].children()) == 3
        for kernel_id in kernels:
            await gateway.call(address, token, f"/api/kernels/{kernel_id}", "DELETE")
        _, alive = psutil.wait_procs(roots[0].children(), timeout=HANG)
        assert not alive
