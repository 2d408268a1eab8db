"""What the tests of kernels' faults share: to run a cell, to wait, to read a kernel's pulse."""

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path

from kernelry import Execution, ExecutionStatus, Health, Session, Sessions
from kernelry.output.fold import Display, stream_text
from kernelry.session.run import Run

HANG = 60.0  # seconds after which a test is stuck


async def run(
    sessions: Sessions, session: Session, code: str, timeout: float | None = None
) -> Execution:
    """Run a cell to its end."""
    running = await sessions.run(session, code, timeout=timeout)
    assert await running.wait(HANG), f"still running: {code[:80]}"
    return running.snapshot()


async def started(sessions: Sessions, session: Session, code: str) -> Run:
    """Return a cell that prints when its first output is there."""
    running = await sessions.run(session, code)
    await until(lambda: bool(running.fold.outputs), f"{code[:80]!r} prints")
    return running


async def value(sessions: Sessions, session: Session, expression: str) -> str:
    """Return the repr of an expression in a session."""
    done = await run(sessions, session, expression)
    assert done.status is ExecutionStatus.COMPLETED, done.error
    return "".join(output.text for output in done.outputs if isinstance(output, Display))


async def printed(sessions: Sessions, session: Session, code: str) -> str:
    """Return what a cell prints, which must complete."""
    done = await run(sessions, session, code)
    assert done.status is ExecutionStatus.COMPLETED, done.error
    return stream_text(done.outputs, "stdout")


async def restarted(sessions: Sessions, session: Session) -> None:
    """Restart a session's kernel; it must work then, and be the next one."""
    before = session.record.generation
    await session.restart()
    assert session.record.generation == before + 1
    assert await value(sessions, session, "1+1") == "2"


async def until(condition: Callable[[], bool], what: str, seconds: float = HANG) -> None:
    """Wait until something has come to pass."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"it does not come to pass that {what}"
        await asyncio.sleep(0.01)


async def answered_health(sessions: Sessions, session: Session) -> Health:
    """Return the health of a kernel that can answer, once it got a processor in time to do so."""
    async with asyncio.timeout(HANG):
        while not (found := await sessions.health(session)).responsive:
            pass
    return found


def pid_of(session: Session) -> int:
    """Return the process of a session's kernel."""
    assert session.kernel is not None
    return session.kernel.process.leader


async def halted(session: Session) -> None:
    """Halt a session's kernel; a signal that was sent has not reached each of its threads yet."""
    assert session.kernel is not None
    process = session.kernel.process
    process.send_signal(signal.SIGSTOP)
    tasks = Path(f"/proc/{process.leader}/task")
    await until(
        lambda: all("State:\tT" in (task / "status").read_text() for task in tasks.iterdir()),
        "all threads of the kernel are halted",
    )
