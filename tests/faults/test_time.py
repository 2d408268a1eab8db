"""Clocks that jump, processes that are halted, deletions and calls that meet."""

import asyncio
import signal
import time
from dataclasses import replace
from datetime import timedelta

import psutil
import pytest

from kernelry import Config, Sessions, SessionSpec, models
from kernelry.errors import SessionNotFoundError
from kernelry.models.reports import HealthStatus
from tests.acceptance.harness import Place, RawServer

from .kernels import answered_health
from .matrix import fault

DAY = 86_400.0
HANG = 60.0


@fault("D11")
@pytest.mark.parametrize("jump", [DAY, -DAY])
async def test_a_clock_that_jumps_expires_nothing_and_makes_no_time_negative(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    session = await sessions.create(SessionSpec(id="a"))
    run = await sessions.run(session, "import time; time.sleep(0.3)", timeout=HANG)
    set_clock(monkeypatch, jump)
    assert await run.wait(HANG)
    done = run.snapshot()
    assert done.status == "completed"
    assert 0 <= done.duration < HANG
    health = await answered_health(sessions, session)
    assert health.status is HealthStatus.HEALTHY
    assert 0 <= health.uptime < 2 * HANG
    assert 0 <= health.idle_seconds < 2 * HANG
    assert (await sessions.clean_up(older_than=3600)).deleted == []
    assert [s.id for s in sessions.list()] == ["default", "a"]


def set_clock(monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    """Let the wall clock of this process be off by so many seconds."""
    real_time, real_now = time.time, models.now
    monkeypatch.setattr(time, "time", lambda: real_time() + jump)
    for module in ("session.run", "session.session", "store.store"):
        shifted = lambda: real_now() + timedelta(seconds=jump)  # noqa: E731
        monkeypatch.setattr(f"kernelry.{module}.now", shifted)


@fault("D11")
@pytest.mark.parametrize("jump", [DAY, -DAY])
async def test_a_clock_that_was_set_between_two_servers_expires_nothing(
    config: Config, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    config = replace(config, keep_kernels=True, orphan_timeout=HANG)
    async with Sessions(config) as sessions:
        session = await sessions.create(SessionSpec(id="a"))
        run = await sessions.run(session, "import time\nwhile True: time.sleep(0.01)", timeout=DAY)
        await run.begun.wait()
    set_clock(monkeypatch, jump)
    async with Sessions(replace(config, keep_kernels=False)) as sessions:
        again = sessions.get("a")
        assert (await sessions.clean_up(older_than=3600)).deleted == []
        health = await answered_health(sessions, again)
        assert health.status is HealthStatus.HEALTHY
        assert health.uptime >= 0 and health.running_for >= 0
        await sessions.interrupt(run.id)


@fault("D12")
def test_a_machine_that_was_asleep_has_no_dead_kernels(place: Place) -> None:
    with RawServer(place, ("--orphan-timeout", "1")) as server:
        server.tool("create_session", session_id="a")
        server.tool("run_python_code", code="kept = 1", session_id="a")
        running = server.tool(
            "run_python_code", code="import time; time.sleep(2); 'done'", session_id="a", wait=0
        )["execution_id"]
        everything = place.processes()
        for process in everything:
            process.send_signal(signal.SIGSTOP)
        asleep = psutil.wait_procs(everything, timeout=3)[1]
        for process in asleep:
            process.send_signal(signal.SIGCONT)
        assert len(asleep) == len(everything)
        done = server.tool("get_execution", execution_id=running, wait=HANG)
        assert (done["status"], done["results"]) == ("completed", ["'done'"])
        for name in ("default", "a"):
            assert server.tool("run_python_code", code="1+1", session_id=name)["results"] == ["2"]
        assert server.tool("run_python_code", code="kept", session_id="a")["results"] == ["1"]


@fault("D13")
async def test_a_clean_up_that_meets_a_call_loses_to_it_or_the_call_is_told(
    sessions: Sessions,
) -> None:
    for turns in range(20):
        session = await sessions.create(SessionSpec(id="a"))
        cleaning = asyncio.create_task(sessions.clean_up(older_than=0))
        for _ in range(turns % 5):
            await asyncio.sleep(0)
        try:
            run = await sessions.run(sessions.get("a"), "6*7")
            assert await run.wait(HANG)
            said = str(run.snapshot().status)
        except SessionNotFoundError:
            said = "told"
        if (await cleaning).deleted:
            assert said in ("told", "completed"), said
            assert "a" not in [s.id for s in sessions.list()]
        else:
            assert said == "completed"
            assert sessions.get("a") is session
            await sessions.delete("a")
