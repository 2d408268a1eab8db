"""What is said of a kernel, in every state it can be in."""

import asyncio
import signal

import pytest

from kernelry import Health, Session, Sessions, SessionSpec
from kernelry.models.reports import Activity, HealthStatus
from kernelry.session.health import Probe, judge
from kernelry.usage import ProcessTree
from tests.faults.kernels import answered_health, halted, started

HANG = 60  # seconds after which a test is stuck


@pytest.fixture
async def session(sessions: Sessions) -> Session:
    return await sessions.create(SessionSpec(id="s"))


async def health_during(sessions: Sessions, session: Session, code: str) -> Health:
    """Return the health while `code` runs, asked after it has printed."""
    running = await sessions.run(session, "print(1, flush=True)\n" + code)
    async with asyncio.timeout(HANG):
        while not running.fold.outputs:
            await asyncio.sleep(0.01)
    return await sessions.health(session)


async def health_once(
    sessions: Sessions, session: Session, code: str, activity: Activity
) -> Health:
    """Return the health once `code` has brought the kernel where it no longer answers."""
    found = await health_during(sessions, session, code)
    async with asyncio.timeout(HANG):
        while found.activity is not activity:
            # On its way there; or in a look during which it got no processor.
            assert found.activity in (Activity.BUSY, Activity.BUSY_NATIVE, Activity.BLOCKED), found
            found = await sessions.health(session)
    return found


async def test_a_kernel_that_was_not_started_is_no_failure(sessions: Sessions) -> None:
    found = await sessions.health(sessions.get("default"))
    assert (found.status, found.activity) == (HealthStatus.STOPPED, Activity.NOT_STARTED)
    assert found.memory_usage == 0


async def test_an_idle_kernel_is_healthy(sessions: Sessions, session: Session) -> None:
    found = await answered_health(sessions, session)
    assert (found.status, found.activity) == (HealthStatus.HEALTHY, Activity.IDLE)
    assert found.memory_usage > 5 << 20
    assert found.num_threads > 1
    assert found.pid > 0


@pytest.mark.parametrize("code", ["import time; time.sleep(600)", "while True: pass"])
async def test_a_busy_kernel_is_healthy_and_responsive(
    sessions: Sessions, session: Session, code: str
) -> None:
    await started(sessions, session, "print(1, flush=True)\n" + code)
    found = await answered_health(sessions, session)
    assert (found.status, found.activity) == (HealthStatus.HEALTHY, Activity.BUSY)
    assert found.execution_id


async def test_native_code_that_computes_is_busy_not_dead(
    sessions: Sessions, session: Session
) -> None:
    code = "sum(range(10**12))"
    found = await health_once(sessions, session, code, Activity.BUSY_NATIVE)
    assert found.status is HealthStatus.HEALTHY
    assert not found.responsive


async def test_a_native_call_that_waits_is_reported_with_its_stack(
    sessions: Sessions, session: Session
) -> None:
    """However many threads there are beside it, and however deep they are."""
    code = (
        "import ctypes, threading\n"
        "def deep(n): deep(n - 1) if n else threading.Event().wait()\n"
        "for _ in range(9): threading.Thread(target=deep, args=(50,), daemon=True).start()\n"
        "def waits_here(): ctypes.PyDLL(None).sleep(60)\nwaits_here()"
    )
    found = await health_once(sessions, session, code, Activity.BLOCKED)
    assert found.status is HealthStatus.UNRESPONSIVE
    assert "waits_here" in found.stack


async def test_a_halted_kernel_is_stopped_and_comes_back(
    sessions: Sessions, session: Session
) -> None:
    assert session.kernel is not None
    await halted(session)
    found = await sessions.health(session)
    assert (found.status, found.activity) == (HealthStatus.STOPPED, Activity.STOPPED)
    assert not found.responsive
    session.kernel.process.send_signal(signal.SIGCONT)
    assert (await answered_health(sessions, session)).activity is Activity.IDLE


def test_a_kernel_that_answers_and_is_halted_then_is_halted() -> None:
    probe = Probe({"busy": False}, 0.01, ProcessTree(stopped=True), cpu_used=0.0, watched=0.1)
    assert judge(probe, dead=False) is Activity.STOPPED


async def test_a_dead_kernel_is_dead_with_its_cause(sessions: Sessions, session: Session) -> None:
    run = await sessions.run(session, "import os; os._exit(7)")
    await run.wait(HANG)
    found = await sessions.health(session)
    assert (found.status, found.activity) == (HealthStatus.DEAD, Activity.DEAD)
    assert "exit code 7" in found.cause


async def test_memory_is_that_of_the_whole_tree_and_its_peak_is_kept(
    sessions: Sessions, session: Session
) -> None:
    before = await sessions.health(session)
    code = (
        "import subprocess, sys\n"
        "program = 'x = bytearray(200 << 20); print(1, flush=True); input()'\n"
        "child = subprocess.Popen([sys.executable, '-c', program], stdin=subprocess.PIPE,"
        " stdout=subprocess.PIPE)\nchild.stdout.readline()"
    )
    run = await sessions.run(session, code)
    assert await run.wait(HANG)
    during = await sessions.health(session)
    assert during.memory_usage - before.memory_usage > 150 << 20
    assert during.num_processes == 2
    run = await sessions.run(session, "child.kill(); child.wait()")
    assert await run.wait(HANG)
    after = await sessions.health(session)
    assert after.memory_usage < during.memory_usage - (150 << 20)
    assert after.peak_memory >= during.memory_usage
