"""A stop stops: after its answer no further statement runs, or the answer says that it may."""

from pathlib import Path

import pytest

from kernelry import ExecutionStatus, Session, Sessions, SessionSpec

HANG = 60.0
#: how a cell waits -> what it says first: each would go on with the next statement by itself
WAITS = {
    "a program": "!sleep 30",
    "a program's output": "z = !sleep 30",
    "a program of the system's": "import os\nos.system('sleep 30')",
    "a subprocess": "import subprocess\nsubprocess.run(['sleep', '30'])",
    "a loop of programs": "while True:\n    !true",
    "a loop of programs of the system's": "import os\nwhile True: os.system('true')",
    "a program in the middle": "for n in range(3):\n    !sleep 30",
    "sleep": "import time\ntime.sleep(30)",
    "a loop": "while True: pass",
    "a loop of short sleeps": "import time\nfor n in range(3000): time.sleep(0.01)",
    "await": "import asyncio\nawait asyncio.sleep(30)",
    "tasks that block": (
        "import asyncio, time\nasync def blocking(): time.sleep(3)\n"
        "await asyncio.gather(*[blocking() for _ in range(20)])"
    ),
    "a block in an awaiting cell": "import asyncio, time\nawait asyncio.sleep(0)\ntime.sleep(30)",
    "a lock": "import threading\nlock = threading.Lock(); lock.acquire()\nlock.acquire()",
    "a thread": (
        "import threading, time\nthread = threading.Thread(target=time.sleep, args=(5,))\n"
        "thread.start(); thread.join()"
    ),
    "a block with a program of the system's": (
        "import os\nif True:\n    os.system('sleep 30')\n    open('went on', 'w').close()"
    ),
    "a cell of bash": "get_ipython().run_cell_magic('bash', '', 'sleep 30')",
    "a line of the shell": "%sx sleep 30",
    "a pipe": "import os\nos.popen('sleep 30').read()",
    "a queue": "import queue\nqueue.Queue().get()",
    "a loop of its own": (
        "import asyncio, threading\n"
        "t = threading.Thread(target=lambda: asyncio.run(asyncio.sleep(5))); t.start(); t.join()"
    ),
    "a pool": (
        "import multiprocessing, time\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool: pool.map(time.sleep, [30, 30])"
    ),
}


@pytest.fixture
async def session(sessions: Sessions) -> Session:
    return await sessions.create(SessionSpec(id="a"))


def waiting(case: str, root: Path) -> str:
    """Return a cell that says when it waits, and when it goes on after that."""
    return (
        f"open({str(root / 'begun')!r}, 'w').close()\n{WAITS[case]}\n"
        f"open({str(root / 'went on')!r}, 'w').close()"
    )


@pytest.mark.parametrize("case", WAITS)
@pytest.mark.parametrize("how", ["timeout", "interrupt"])
async def test_no_statement_runs_after_a_stop(
    sessions: Sessions, session: Session, case: str, how: str
) -> None:
    root = sessions.workspace.root
    kept = await sessions.run(session, "kept = 1")
    assert await kept.wait(HANG)
    timeout = 1 if how == "timeout" else None
    run = await sessions.run(session, waiting(case, root), timeout=timeout)
    if how == "interrupt":
        await run.begun.wait()
        while not (root / "begun").exists():
            await run.wait(0.05)
        await session.interrupt(run)
    assert await run.wait(HANG)
    done = run.snapshot()
    expected = ExecutionStatus.TIMED_OUT if how == "timeout" else ExecutionStatus.INTERRUPTED
    assert done.status is expected, done
    assert done.error is not None
    said = "stopped by its timeout of 1 s" if how == "timeout" else "stopped by an interrupt"
    assert done.error.message.startswith(f"{said}; variables stay")
    assert "kernelry" not in done.error.traceback.replace(str(root), "")
    after = await sessions.run(session, "kept")
    assert await after.wait(HANG)
    assert after.snapshot().status is ExecutionStatus.COMPLETED
    assert not (root / "went on").exists()


async def test_code_that_catches_a_stop_may_end_in_its_own_way_but_begins_nothing_new(
    sessions: Sessions, session: Session
) -> None:
    code = (
        "import time\ntry:\n    time.sleep(30)\nexcept KeyboardInterrupt:\n    print('tidied')\n"
        "open('went on', 'w').close()"
    )
    run = await sessions.run(session, code, timeout=1)
    assert await run.wait(HANG)
    done = run.snapshot()
    assert done.status is ExecutionStatus.TIMED_OUT
    assert "tidied" in str(done.outputs)
    assert not (sessions.workspace.root / "went on").exists()
    alone = code.rpartition("\n")[0]
    run = await sessions.run(session, alone, timeout=1)
    assert await run.wait(HANG)
    error = run.snapshot().error
    assert error is not None
    assert "its code caught that, and ended in its own way" in error.message


async def test_what_had_ended_before_a_stop_reached_it_is_completed(
    sessions: Sessions, session: Session
) -> None:
    """Native code that can't be interrupted, and is the last thing that the cell does."""
    code = "import ctypes, time\nctypes.PyDLL(None).usleep(2_000_000)\nNone"
    run = await sessions.run(session, code, timeout=0.3)
    assert await run.wait(HANG)
    done = run.snapshot()
    assert done.status in (ExecutionStatus.COMPLETED, ExecutionStatus.TIMED_OUT)
    if done.status is ExecutionStatus.COMPLETED:
        assert "had ended before that reached it" in done.note


async def test_a_task_of_an_earlier_cell_outlives_the_stop_of_a_later_one(
    sessions: Sessions, session: Session
) -> None:
    first = await sessions.run(
        session, "import asyncio\ntask = asyncio.create_task(asyncio.sleep(1000))"
    )
    assert await first.wait(HANG)
    run = await sessions.run(session, "await asyncio.sleep(1000)", timeout=1)
    assert await run.wait(HANG)
    assert run.snapshot().status is ExecutionStatus.TIMED_OUT
    after = await sessions.run(session, "print(task.done())")
    assert await after.wait(HANG)
    assert "False" in str(after.snapshot().outputs)
