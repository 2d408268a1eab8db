"""Kernels of other interpreters than the server's: other Pythons, ipykernel 6."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from kernelry import Config, Execution, ExecutionStatus, Sessions, SessionSpec
from kernelry.output.fold import Display, Spill, stream_text
from tests.faults.kernels import answered_health

HANG = 60  # seconds after which a test is stuck
SCRATCH = Path(__file__).parents[3] / ".scratch"  # filled by scripts/clients
TARGETS = ("python3.12", "python3.13", "ipykernel6")


@pytest.fixture(params=TARGETS)
def python(request: pytest.FixtureRequest) -> Path:
    found = SCRATCH / str(request.param) / "bin" / "python"
    if found.exists():
        return found
    listed = (SCRATCH / f"{request.param}.missing").exists()
    if os.environ.get("KERNELRYTEST_REQUIRE_ALL") and not listed:
        pytest.fail(f"{found} is missing: run scripts/clients")
    pytest.skip(f"no {request.param} here: scripts/clients could not make it")


async def test_the_whole_path_works_with_another_interpreter(config: Config, python: Path) -> None:
    version = "import sys; print(sys.version_info[:2])"
    expected = subprocess.check_output([python, "-c", version], text=True)
    async with Sessions(replace(config, python=python)) as sessions:
        session = await sessions.create(SessionSpec(id="a"))

        async def run(code: str, timeout: float | None = None) -> Execution:
            running = await sessions.run(session, code, timeout=timeout)
            assert await running.wait(HANG)
            return running.snapshot()

        assert stream_text((await run(version)).outputs, "stdout") == expected
        shown = (await run("display(1)\n2")).outputs
        assert [o.text for o in shown if isinstance(o, Display)] == ["1", "2"]
        assert (await run("1/0")).status is ExecutionStatus.FAILED
        assert "variable" in str((await run("input()")).error)
        for forever in ("while True: pass", "await __import__('asyncio').sleep(60)"):
            assert (await run(forever, timeout=0.3)).status is ExecutionStatus.TIMED_OUT
        flood = await run("print('x' * 300_000)")
        assert any(isinstance(o, Spill) for o in flood.outputs)
        written = await run("open('outputs/f', 'w').write('x')")
        assert written.new_files == ("outputs/f",)
        assert "raw\n" in stream_text((await run("!echo raw")).outputs, "stdout")
        assert (await answered_health(sessions, session)).responsive
        assert [item.name for item in (await session.variables(10))[0]] == ["sys"]
        kept = await sessions.checkpoints.restart(session, "for the test", HANG)
        assert kept.restored == ("sys",) and not kept.failed and not kept.checkpoint.skipped
        assert (await run("import os; os._exit(5)")).status is ExecutionStatus.DIED


async def test_a_debugger_is_there_in_each(config: Config, python: Path) -> None:
    async with Sessions(replace(config, python=python)) as sessions:
        session = await sessions.create(SessionSpec(id="a"))
        assert session.kernel is not None
        request = {"type": "request", "seq": 1, "command": "debugInfo", "arguments": {}}
        ask = session.kernel.channels.ask
        reply = await ask("control", "debug_request", request, deadline=HANG)
        assert reply["success"]
