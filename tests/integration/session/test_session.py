"""One session with a real kernel, through the library."""

import asyncio
import signal

import pytest

from kernelry import ExecutionStatus, KernelState, Session, Sessions, SessionSpec
from kernelry.errors import KernelDeadError
from kernelry.models.reports import InterruptStep
from kernelry.output.fold import Display, Spill, stream_text
from kernelry.session import interrupts
from tests.faults.kernels import run, started
from tests.faults.matrix import fault

HANG = 60  # seconds after which a test is stuck; nothing here takes that long

#: a C function that sleeps and keeps the interpreter lock, ending only with the call
HOLD_LOCK = "import ctypes; ctypes.PyDLL(None).usleep({microseconds})"


@pytest.fixture
async def session(sessions: Sessions) -> Session:
    return await sessions.create(SessionSpec(id="s"))


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupts that wait for a kernel which gets no processor, instead of the next step."""
    monkeypatch.setattr(interrupts, "GRACES", (HANG, HANG))
    monkeypatch.setattr(interrupts, "BEGIN_DEADLINE", HANG)
    monkeypatch.setattr(interrupts, "PROBE_DEADLINE", HANG)


async def test_variables_last_from_one_execution_to_the_next(
    sessions: Sessions, session: Session
) -> None:
    await run(sessions, session, "x = 20")
    execution = await run(sessions, session, "x + 1")
    assert [o.text for o in execution.outputs if isinstance(o, Display)] == ["21"]
    assert execution.status is ExecutionStatus.COMPLETED


async def test_all_that_is_written_is_there_when_the_execution_ends(
    sessions: Sessions, session: Session
) -> None:
    """An idle that overtook the last text was a race of ours, seen under load."""
    for i in range(100):
        code = f"import os\nprint({i})\nos.write(1, b'raw\\n')\nprint('end', flush=True)"
        execution = await run(sessions, session, code)
        text = stream_text(execution.outputs, "stdout")
        assert sorted(text.split()) == sorted([str(i), "raw", "end"])


async def test_executions_run_in_the_order_they_were_asked_for(
    sessions: Sessions, session: Session
) -> None:
    await run(sessions, session, "seen = []")
    runs = [await sessions.run(session, f"seen.append({i})") for i in range(20)]
    execution = await run(sessions, session, "print(seen)")
    assert stream_text(execution.outputs, "stdout") == f"{list(range(20))}\n"
    assert [r.execution.index for r in runs] == list(range(2, 22))


@fault("B18")
async def test_a_cell_behind_a_failing_one_runs(sessions: Sessions, session: Session) -> None:
    failing = await sessions.run(session, "import time; time.sleep(0.3); 1/0")
    behind = await run(sessions, session, "print('ran')")
    assert failing.snapshot().status is ExecutionStatus.FAILED
    assert stream_text(behind.outputs, "stdout") == "ran\n"


async def test_an_exception_is_a_result_without_escapes(
    sessions: Sessions, session: Session
) -> None:
    execution = await run(sessions, session, "def f(): 1/0\nf()")
    assert execution.status is ExecutionStatus.FAILED
    assert execution.error is not None
    assert execution.error.type == "ZeroDivisionError"
    assert "\x1b" not in execution.error.traceback
    assert "in f()" in execution.error.traceback


@fault("B9")
@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time; time.sleep(60)",
        "await __import__('asyncio').sleep(60)",
        "import re; re.match(r'(a+)+$', 'a' * 40 + 'b')",
        "!sleep 60",
    ],
)
async def test_a_timeout_stops_the_cell_and_keeps_the_kernel(
    sessions: Sessions, session: Session, code: str
) -> None:
    await run(sessions, session, "kept = 1")
    execution = await run(sessions, session, code, timeout=0.5)
    after = await run(sessions, session, "kept")
    assert execution.status is ExecutionStatus.TIMED_OUT
    assert after.status is ExecutionStatus.COMPLETED


@pytest.mark.usefixtures("patient")
async def test_an_interrupt_says_which_step_worked(sessions: Sessions, session: Session) -> None:
    await started(sessions, session, "print(1)\nimport time\nwhile True: time.sleep(1)")
    report = await session.interrupt()
    assert report.step is InterruptStep.SIGINT
    assert report.responsive
    execution = await sessions.execution(report.execution_id)
    assert execution.status is ExecutionStatus.INTERRUPTED


@fault("B9")
async def test_a_cell_that_swallows_the_first_interrupt_gets_a_second(
    sessions: Sessions, session: Session
) -> None:
    code = (
        "import time\nprint(1)\n"
        "try:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    time.sleep(60)"
    )
    running = await started(sessions, session, code)
    report = await session.interrupt()
    # A busy machine may take longer to end it than that is waited for.
    assert report.step in (InterruptStep.SIGINT_AGAIN, InterruptStep.NO_EFFECT)
    assert await running.wait(HANG)
    assert running.snapshot().status is ExecutionStatus.INTERRUPTED


@fault("B9")
async def test_native_code_that_holds_the_interpreter_is_reported_with_its_stack(
    sessions: Sessions, session: Session
) -> None:
    code = "print(1, flush=True)\ndef stuck_here(): return sum(range(10**12))\nstuck_here()"
    await started(sessions, session, code)
    report = await session.interrupt()
    assert report.step is InterruptStep.NO_EFFECT
    assert "stuck_here" in report.stack
    forced = await session.interrupt(force=True)
    assert forced.step is InterruptStep.RESTARTED
    assert (await sessions.execution(report.execution_id)).status is ExecutionStatus.DIED
    assert (await run(sessions, session, "1")).status is ExecutionStatus.COMPLETED


@pytest.mark.usefixtures("patient")
async def test_an_interrupt_right_after_the_call_is_not_too_early(
    sessions: Sessions, session: Session
) -> None:
    for _ in range(20):
        running = await sessions.run(session, "while True: pass")
        report = await session.interrupt()
        assert report.step in (InterruptStep.SIGINT, InterruptStep.DEQUEUED)
        assert await running.wait(HANG)


async def test_a_queued_execution_that_is_interrupted_never_runs(
    sessions: Sessions, session: Session
) -> None:
    await started(sessions, session, "print(1)\nimport time; time.sleep(60)")
    queued = await sessions.run(session, "ran = True")
    report = await session.interrupt(queued)
    assert report.step is InterruptStep.DEQUEUED
    await session.interrupt()
    execution = await run(sessions, session, "'ran' in globals()")
    assert [o.text for o in execution.outputs if isinstance(o, Display)] == ["False"]
    assert queued.snapshot().status is ExecutionStatus.CANCELLED


@fault("B2")
@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("import os; os._exit(3)", "exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", "SIGKILL"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
        ("import os; os.abort()", "SIGABRT"),
    ],
)
async def test_a_death_names_its_cause_and_keeps_what_was_printed(
    sessions: Sessions, session: Session, code: str, cause: str
) -> None:
    execution = await run(
        sessions, session, f"import time\nprint('before', flush=True)\ntime.sleep(0.5)\n{code}"
    )
    assert execution.status is ExecutionStatus.DIED
    assert execution.error is not None
    assert cause in execution.error.message
    assert stream_text(execution.outputs, "stdout") == "before\n"
    assert session.kernel_state is KernelState.DEAD
    with pytest.raises(KernelDeadError, match="restart_kernel"):
        await sessions.run(session, "1")
    await session.restart()
    assert (await run(sessions, session, "1")).status is ExecutionStatus.COMPLETED
    assert session.record.generation == 2


@fault("B10")
@pytest.mark.parametrize("state", ["idle", "busy", "stopped", "dead", "native"])
async def test_a_restart_works_from_every_state(
    sessions: Sessions, session: Session, state: str
) -> None:
    await run(sessions, session, "gone = 1")
    assert session.kernel is not None
    process = session.kernel.process
    match state:
        case "busy":
            await started(sessions, session, "print(1)\nwhile True: pass")
        case "native":
            hold = HOLD_LOCK.format(microseconds=60_000_000)
            await started(sessions, session, f"print(1, flush=True)\n{hold}")
        case "stopped":
            process.send_signal(signal.SIGSTOP)
        case "dead":
            process.send_signal(signal.SIGKILL)
            assert await process.wait(HANG)
    await session.restart()
    assert process.exit is not None
    execution = await run(sessions, session, "'gone' in globals()")
    assert [o.text for o in execution.outputs if isinstance(o, Display)] == ["False"]


async def test_what_runs_and_waits_at_a_restart_is_told_so(
    sessions: Sessions, session: Session
) -> None:
    running = await started(sessions, session, "print(1)\nwhile True: pass")
    queued = await sessions.run(session, "1")
    await session.restart()
    assert running.snapshot().status is ExecutionStatus.DIED
    assert (await sessions.execution(queued.id)).status is ExecutionStatus.CANCELLED


async def test_a_kernel_killed_while_idle_is_dead_at_once(
    sessions: Sessions, session: Session
) -> None:
    assert session.kernel is not None
    session.kernel.process.send_signal(signal.SIGKILL)
    assert await session.kernel.process.wait(HANG)
    assert session.kernel_state is KernelState.DEAD
    assert "SIGKILL" in session.death


async def test_input_is_refused_at_once_with_advice(sessions: Sessions, session: Session) -> None:
    execution = await run(sessions, session, "input('name? ')")
    assert execution.status is ExecutionStatus.FAILED
    assert execution.error is not None
    assert "variable" in execution.error.message


@fault("B11")
@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.stdout = None",
        "import sys; sys.stdout = sys.stderr = open('log', 'w')",
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)",
        "print('\\ud800')",
        "raise ValueError('\\ud800')",
        "'\\ud800'",
        "import os, shutil; os.mkdir('t'); os.chdir('t'); os.rmdir('../t')",
        "class Bad:\n    def __repr__(self): raise RuntimeError('no')\nBad()",
    ],
)
async def test_a_cell_can_not_spoil_the_next_one(
    sessions: Sessions, session: Session, code: str
) -> None:
    await run(sessions, session, code)
    after = await run(sessions, session, "print('fine')")
    assert stream_text(after.outputs, "stdout") == "fine\n"
    stopped = await run(sessions, session, "while True: pass", timeout=0.3)
    assert stopped.status is ExecutionStatus.TIMED_OUT


@fault("B12")
async def test_a_thread_that_prints_after_its_cell_is_heard_under_that_cell(
    sessions: Sessions, session: Session
) -> None:
    code = (
        "import threading, time\n"
        "def late():\n    time.sleep(0.3)\n    print('late')\n"
        "threading.Thread(target=late).start()"
    )
    first = await run(sessions, session, code)
    async with asyncio.timeout(HANG):
        while "late" not in stream_text((await sessions.execution(first.id)).outputs, "stdout"):
            await asyncio.sleep(0.05)


async def test_a_forked_child_prints_through_its_parent(
    sessions: Sessions, session: Session
) -> None:
    code = (
        "import os\npid = os.fork()\n"
        "if pid == 0:\n    print('child', flush=True); os._exit(0)\n"
        "os.waitpid(pid, 0)\nprint('parent')"
    )
    execution = await run(sessions, session, code)
    assert "parent\n" in stream_text(execution.outputs, "stdout")
    async with asyncio.timeout(HANG):
        while "child\n" not in stream_text(execution.outputs, "stdout"):
            await asyncio.sleep(0.05)
            execution = await sessions.execution(execution.id)


async def test_multiprocessing_works(sessions: Sessions, session: Session) -> None:
    code = (
        "import multiprocessing as mp\n"
        "with mp.get_context('fork').Pool(2) as pool: print(pool.map(abs, [-1, -2]))"
    )
    execution = await run(sessions, session, code)
    assert "[1, 2]" in stream_text(execution.outputs, "stdout")


async def test_new_files_are_those_of_this_session(sessions: Sessions) -> None:
    a = await sessions.create(SessionSpec(id="a"))
    b = await sessions.create(SessionSpec(id="b"))
    code = (
        "import pathlib, os, time\n"
        "for i in range(20):\n    pathlib.Path(f'outputs/{name}-{i}').write_text('x')\n"
        "    time.sleep(0.01)\n"
        "open(f'outputs/{name}-gone', 'w').close(); os.remove(f'outputs/{name}-gone')\n"
        "open('/dev/null', 'w').close()\nopen(f'outputs/{name}-0').read()"
    )
    runs = [await sessions.run(s, f"name = {s.id!r}\n{code}") for s in (a, b)]
    for running, name in zip(runs, "ab", strict=True):
        assert await running.wait(HANG)
        expected = sorted(f"outputs/{name}-{i}" for i in range(20))
        assert sorted(running.snapshot().new_files) == expected
    changed = await run(sessions, a, "open('outputs/b-3', 'a').write('more')")
    assert changed.new_files == ("outputs/b-3",)


async def test_a_flood_is_cut_in_the_kernel_and_counted(
    sessions: Sessions, session: Session
) -> None:
    execution = await run(sessions, session, "for i in range(100_000): print(i)")
    spill = next(o for o in execution.outputs if isinstance(o, Spill))
    whole = sum(len(str(i)) + 1 for i in range(100_000))
    assert len(stream_text(execution.outputs, "stdout")) + spill.chars + spill.dropped == whole


async def test_variables_are_described_without_running_their_code(
    sessions: Sessions, session: Session
) -> None:
    code = (
        "import numpy as np\n"
        "class Slow:\n    def __repr__(self):\n        import time; time.sleep(100)\n"
        "slow = Slow(); items = [slow, 1]; text = 'x' * 1000; a = np.zeros((3, 4)); _hidden = 1\n"
        "big = 10 ** 100_000; loop = []; loop.append(loop)"
    )
    await run(sessions, session, code)
    found, total = await session.variables(100)
    by_name = {item.name: item for item in found}
    assert set(by_name) == {"np", "Slow", "slow", "items", "text", "a", "big", "loop"}
    assert total == 8
    assert by_name["slow"].repr == "<Slow object>"
    assert by_name["a"].shape == (3, 4)
    assert by_name["text"].size == 1000
    assert len(by_name["text"].repr) <= 120


async def test_an_execution_is_read_from_the_store_when_memory_forgot_it(
    sessions: Sessions, session: Session
) -> None:
    first = await run(sessions, session, "print('kept')")
    for _ in range(20):
        await run(sessions, session, "1")
    assert session.find(first.id) is None
    again = await sessions.execution(first.id)
    assert again == first


@fault("E6")
async def test_a_restart_ends_while_others_keep_asking(
    sessions: Sessions, session: Session
) -> None:
    asking = True

    async def ask() -> None:
        while asking:
            try:
                running = await sessions.run(session, "import time; time.sleep(0.01)")
            except KernelDeadError:
                await asyncio.sleep(0)
            else:
                assert await running.wait(HANG)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(8):
            tasks.create_task(ask())
        try:
            async with asyncio.timeout(HANG):
                for _ in range(5):
                    await session.restart()
        finally:
            asking = False
    assert session.record.generation == 6


async def test_the_working_folder_can_be_imported_from_and_shadows_no_library(
    sessions: Sessions,
) -> None:
    session = await sessions.create(SessionSpec(id="a"))
    for name in ("random", "json", "IPython", "numpy"):
        (sessions.workspace.root / f"{name}.py").write_text("raise RuntimeError('shadowed')")
    code = (
        "open('hh.py', 'w').write('x = 1')\n"
        "import hh, random, json, IPython, os\n"
        "os.makedirs('deep', exist_ok=True); os.chdir('deep')\n"
        "open('mm.py', 'w').write('y = 2')\n"
        "import mm\n"
        "print(hh.x, mm.y, random.__name__)"
    )
    running = await sessions.run(session, code)
    assert await running.wait(60)
    assert running.snapshot().error is None, running.snapshot().error
    await session.restart()
    running = await sessions.run(session, "import random; print(random.random() < 1)")
    assert await running.wait(60)
    assert running.snapshot().error is None, running.snapshot().error


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("len?", "Return the number of items in a container."),
        ("import json\njson.dumps??", "def dumps("),
        ("%prun sum(range(10))", "function calls"),
        ("%pdoc len", "Return the number of items in a container."),
        ("import json\n%psource json.dumps", "def dumps("),
        ("open('f.py', 'w').write('loaded = 7')\n%load f.py", "loaded = 7"),
        ("%pinfo2 os", "OS routines"),
        ("?sum", "Return the sum"),
    ],
)
async def test_what_a_client_shows_in_a_pager_is_output(
    sessions: Sessions, session: Session, code: str, shown: str
) -> None:
    running = await sessions.run(session, f"import os\n{code}" if "pinfo2" in code else code)
    assert await running.wait(60)
    done = running.snapshot()
    assert done.error is None, done.error
    text = "\n".join(item.text for item in done.outputs if isinstance(item, Display))
    assert shown in text, done.outputs
    assert "\x1b" not in text
