"""A kernel does not end, or does nothing at all: what an interrupt does, step by step."""

import pytest

from kernelry import ExecutionStatus, Session, Sessions, SessionSpec
from kernelry.models.reports import Activity, HealthStatus, InterruptStep
from kernelry.session import interrupts

from .kernels import HANG, halted, pid_of, restarted, run, started, value
from .matrix import fault

pytestmark = pytest.mark.usefixtures("bystander")


@pytest.fixture
async def session(sessions: Sessions) -> Session:
    return await sessions.create(SessionSpec(id="s"))


@fault("B9")
@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time; time.sleep(600)",
        "import ctypes; ctypes.PyDLL(None).sleep(600)",  # holds the interpreter
        "import re; re.match(r'(a+)+$', 'a' * 40 + 'b')",
        "await __import__('asyncio').sleep(600)",
        "!sleep 600",
    ],
    ids=["loop", "sleep", "native sleep", "regex", "await", "child"],
)
async def test_the_first_interrupt_ends_a_cell(
    sessions: Sessions, session: Session, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A second one would only come after a time in which a kernel may get no processor.
    monkeypatch.setattr(interrupts, "GRACES", (HANG, HANG))
    monkeypatch.setattr(interrupts, "PROBE_DEADLINE", HANG)
    await run(sessions, session, "kept = 1")
    running = await started(sessions, session, f"print(1, flush=True)\n{code}")
    report = await session.interrupt()
    assert (report.step, report.responsive) == (InterruptStep.SIGINT, True)
    assert running.snapshot().status is ExecutionStatus.INTERRUPTED
    assert await value(sessions, session, "kept") == "1"


@fault("B9")
async def test_a_cell_that_no_interrupt_ends_is_told_and_ended_by_force(
    sessions: Sessions, session: Session
) -> None:
    code = (
        "while True:\n"
        "    try:\n"
        "        print(1, flush=True)\n"
        "        while True: pass\n"
        "    except BaseException: pass"
    )
    running = await started(sessions, session, code)
    report = await session.interrupt()
    assert (report.step, report.responsive) == (InterruptStep.NO_EFFECT, True)
    assert not running.done.is_set()
    assert (await session.interrupt(force=True)).step is InterruptStep.RESTARTED
    done = running.snapshot()
    assert done.status is ExecutionStatus.DIED
    assert done.error is not None
    assert "force" in done.error.message
    assert await value(sessions, session, "1+1") == "2"


@fault("B10")
async def test_a_halted_kernel_is_said_to_be_and_woken_by_an_interrupt(
    sessions: Sessions, session: Session
) -> None:
    await run(sessions, session, "kept = 1")
    running = await started(sessions, session, "print(1, flush=True)\nwhile True: pass")
    await halted(session)
    health = await sessions.health(session)
    assert (health.status, health.activity) == (HealthStatus.STOPPED, Activity.STOPPED)
    assert (await session.interrupt()).step is InterruptStep.SIGINT
    assert running.snapshot().status is ExecutionStatus.INTERRUPTED
    assert await value(sessions, session, "kept") == "1"
    await halted(session)
    before = pid_of(session)
    await restarted(sessions, session)
    assert pid_of(session) != before
