"""A kernel dies: at once known, with its cause, and replaced when somebody asks for it."""

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import psutil
import pytest

from kernelry import ExecutionStatus, KernelState, Session, Sessions, SessionSpec
from kernelry.errors import KernelDeadError, KernelryError, KernelSilentError
from kernelry.models.reports import Activity, HealthStatus
from kernelry.output.fold import Display, Stream, stream_text
from kernelry.session.installing import adopt_environment

from .conftest import Bystander
from .kernels import HANG, pid_of, restarted, run, started, until, value
from .matrix import fault

REPEATS = 20  # of each race


@pytest.fixture
async def session(sessions: Sessions) -> Session:
    return await sessions.create(SessionSpec(id="s"))


async def check_death(sessions: Sessions, session: Session, cause: str) -> None:
    """Check all that is said of a dead kernel, and that a restart brings a new one."""
    assert session.kernel_state is KernelState.DEAD
    health = await sessions.health(session)
    assert (health.status, health.activity) == (HealthStatus.DEAD, Activity.DEAD)
    assert cause in health.cause
    with pytest.raises(KernelDeadError, match=cause):
        await sessions.run(session, "1")
    await restarted(sessions, session)
    assert not session.death


@fault("B1")
@pytest.mark.usefixtures("bystander")
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
async def test_a_killed_kernel_is_known_at_once_and_replaced(
    sessions: Sessions, session: Session, busy: bool
) -> None:
    code = "print('before', flush=True)\nwhile True: pass"
    running = await started(sessions, session, code) if busy else None
    assert session.kernel is not None
    os.kill(pid_of(session), signal.SIGKILL)
    # Nobody asks the kernel anything meanwhile: its end itself is seen.
    assert await session.kernel.process.wait(HANG)
    assert session.kernel_state is KernelState.DEAD
    if running is not None:
        assert await running.wait(HANG)
        done = running.snapshot()
        assert done.status is ExecutionStatus.DIED
        assert done.error is not None
        assert "SIGKILL" in done.error.message
        assert stream_text(done.outputs, "stdout") == "before\n"
    await check_death(sessions, session, "SIGKILL")


#: what a kernel does to itself, and what must be said of it
DEATHS = {
    "segfault": ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
    "abort": ("import os; os.abort()", "SIGABRT"),
    "exit": ("import os; os._exit(7)", "exit code 7"),
    # Callbacks through C, each with a frame on the stack of C, which is made small first.
    "stack overflow": (
        "import ctypes, resource, sys\n"
        "hard = resource.getrlimit(resource.RLIMIT_STACK)[1]\n"
        "resource.setrlimit(resource.RLIMIT_STACK, (1 << 18, hard))\n"
        "sys.setrecursionlimit(1 << 30)\n"
        "deeper = ctypes.CFUNCTYPE(None)(lambda: deeper())\n"
        "deeper()",
        "SIGSEGV",
    ),
}


@fault("B2")
@pytest.mark.usefixtures("bystander")
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("how", DEATHS)
async def test_a_kernel_that_ends_itself_is_known_at_once_with_its_cause(
    sessions: Sessions, session: Session, how: str, busy: bool
) -> None:
    code, cause = DEATHS[how]
    last = code
    if not busy:
        # The kernel's own loop calls it, when no cell runs any more and the test knows so.
        last = (
            "import os\nloop = get_ipython().kernel.io_loop\n"
            f"def end():\n    exec({code!r}, dict()) if os.path.exists('go') else later()\n"
            "def later(): loop.call_later(0.05, end)\n"
            "later()"
        )
    assert session.kernel is not None
    done = await run(sessions, session, f"print('before', flush=True)\n{last}")
    (sessions.workspace.root / "go").touch()
    # Nobody asks the kernel anything meanwhile: its end itself is seen.
    assert await session.kernel.process.wait(HANG)
    assert session.kernel_state is KernelState.DEAD
    assert stream_text(done.outputs, "stdout") == "before\n"
    if busy:
        assert done.status is ExecutionStatus.DIED
        assert done.error is not None
        assert cause in done.error.message
    else:
        assert done.status is ExecutionStatus.COMPLETED
    await check_death(sessions, session, cause)


@fault("B3")
@pytest.mark.parametrize("code", ["sys.exit()", "sys.exit(3)", "quit()", "exit"])
async def test_an_exit_is_shown_and_the_session_lives(
    sessions: Sessions, session: Session, bystander: Bystander, code: str
) -> None:
    await run(sessions, session, "import sys; kept = 1")
    done = await run(sessions, session, code)
    assert done.status is ExecutionStatus.FAILED, done
    assert done.error is not None
    assert done.error.type == "SystemExit"
    assert not stream_text(done.outputs, "stderr")
    seen = len(bystander.latencies)
    await until(lambda: len(bystander.latencies) > seen + 5, "a neighbour goes on")
    assert await value(sessions, session, "kept") == "1"
    assert session.record.generation == 1


# B7: a kernel is killed while something is done to it


def kernels_of(sessions: Sessions, *others: Session) -> list[int]:
    """Return the kernels of this service, also those that are just being started."""
    spared = {pid_of(other) for other in others}
    roots = [psutil.Process(sessions.fork_server_pid)]
    found = [child.pid for root in roots for child in root.children()]
    return [pid for pid in found if pid not in spared]


async def restart(sessions: Sessions, session: Session) -> None:
    await session.restart()


async def interrupt(sessions: Sessions, session: Session) -> None:
    await sessions.run(session, "while True: pass")
    await session.interrupt(force=True)


async def shut_down(sessions: Sessions, session: Session) -> None:
    await session.stop(grace=0.5, why="the test stops it")


async def install(sessions: Sessions, session: Session) -> None:
    (session.environment.site / "made").mkdir(parents=True, exist_ok=True)
    await adopt_environment(session, ["six"])


@fault("B7")
@pytest.mark.parametrize("verb", [restart, interrupt, shut_down, install])
async def test_a_kernel_killed_while_something_is_done_to_it_is_ready_or_dead(
    sessions: Sessions,
    session: Session,
    bystander: Bystander,
    verb: Callable[[Sessions, Session], Awaitable[None]],
) -> None:
    dice = random.Random(verb.__name__)
    duration = 0.0  # the first kill comes at once, the others within the time the last one took
    killed = 0
    for attempt in range(20 * REPEATS):

        async def kill(after: float) -> None:
            await asyncio.sleep(after)
            for pid in kernels_of(sessions, bystander.session):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

        killing = asyncio.create_task(kill(dice.random() * duration))
        began = time.perf_counter()
        with suppress(KernelryError):  # it may say that it did not work
            async with asyncio.timeout(HANG):
                await verb(sessions, session)
        duration = time.perf_counter() - began
        killed += killing.done()
        await killing
        await until(lambda: not session.is_busy, "nothing is under way")
        assert session.kernel_state is not KernelState.STARTING
        await restarted(sessions, session)
        if attempt >= REPEATS and killed >= REPEATS // 2:
            break
    assert killed  # while it was under way


@fault("B7")
async def test_who_asks_a_kernel_that_dies_is_told_so_at_once(
    sessions: Sessions, session: Session
) -> None:
    await started(sessions, session, "print(1, flush=True)\nsum(range(10**12))")
    asking = asyncio.create_task(session.variables(10))
    await asyncio.sleep(0)
    os.kill(pid_of(session), signal.SIGKILL)
    with pytest.raises(KernelSilentError, match=r"ended .*SIGKILL"):
        await asking


@fault("B2")
async def test_what_was_flushed_is_kept_however_soon_death_comes(
    sessions: Sessions, session: Session
) -> None:
    last_words = "import os; display('words'); print('last', flush=True); os._exit(0)"
    for _ in range(3 * REPEATS):
        done = await run(sessions, session, last_words)
        assert done.status is ExecutionStatus.DIED
        shown = [output.text for output in done.outputs if isinstance(output, (Stream, Display))]
        assert shown == ["'words'", "last\n"]
        await session.restart()
