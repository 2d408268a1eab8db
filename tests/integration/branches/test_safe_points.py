"""Branches that begin in the middle of an execution, where its code lets them."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from kernelry import ExecutionStatus, Session, Sessions, SessionSpec
from kernelry.errors import InvalidArgumentError, LimitExceededError, SessionBusyError
from kernelry.lives import Branched
from kernelry.models import KernelState
from kernelry.session import steering
from tests.faults.kernels import HANG, printed, run, until, value

LEVELS = ("process", "guard", "box")
#: code that comes to a safe point again and again, until it is told to go on to its end
LOOP = """
import os, random, threading
lock, rows, seen = threading.Lock(), [], []
class Kept:
    def __enter__(self): seen.append("in")
    def __exit__(self, *error): seen.append("out"); os.makedirs("left", exist_ok=True)
def work():
    kept = ["a local"]
    try:
        with Kept(), lock:
            raise KeyError("handled")
    except KeyError:
        with Kept():
            while not os.path.exists("go on"):
                rows.append(len(rows))
                kernelry_session.checkpoint((len(rows), 0))
    finally:
        seen.append("finally")
work(); print("done", seen)
"""


@pytest.fixture
async def running(live: Sessions) -> AsyncIterator[Session]:
    """A session whose code comes to safe points for ever."""
    session = await live.create(SessionSpec(id="a"))
    ran = await live.run(session, LOOP)
    await until(lambda: bool(ran.execution.progress), "it has come to one")
    yield session
    (live.workspace.root / "go on").touch()
    await ran.wait(HANG)


async def inside(live: Sessions, session: Session, count: int = 1, name: str = "") -> Branched:
    return await live.branching.create(
        session, SessionSpec(id=name), count, patience=HANG, inside=True
    )


async def test_a_branch_begins_where_the_code_is(live: Sessions, running: Session) -> None:
    current = running.current
    assert current is not None
    done = await inside(live, running)
    (made,) = done.branches
    assert made.is_live, made.why
    assert done.inside == done.after == current.execution.id
    assert "the execution that runs" in made.named[0]
    # Nothing of the code was gone on with in it: no `with` left, no `finally` reached.
    assert await value(live, made.session, "seen") == "['in', 'out', 'in']"
    before = int(await value(live, made.session, "len(rows)"))
    assert before > 0
    assert await value(live, made.session, "rows == list(range(len(rows)))") == "True"
    assert await value(live, made.session, "(lock.acquire(timeout=0), len(rows))") == (
        f"(True, {before})"
    )
    assert running.current is current and not current.ended.is_set()
    record = made.session.record
    assert record.parent_execution_id == current.execution.id
    (live.workspace.root / "go on").touch()
    assert await current.wait(HANG)
    assert current.snapshot().status is ExecutionStatus.COMPLETED
    assert await value(live, running, "seen") == "['in', 'out', 'in', 'out', 'finally']"


async def test_a_branch_of_half_run_code_is_a_session_like_any_other(
    live: Sessions, running: Session
) -> None:
    made = (await inside(live, running)).branches[0].session
    failed = (await run(live, made, "1 / 0")).error
    assert failed is not None and failed.type == "ZeroDivisionError"
    assert "handled" not in failed.traceback and "During" not in failed.traceback
    stopped = await run(live, made, "import time\nwhile True: time.sleep(0.01)", timeout=0.5)
    assert stopped.status is ExecutionStatus.TIMED_OUT
    assert await printed(live, made, "print('text')") == "text\n"
    awaited = "import asyncio\nawait asyncio.sleep(0)\n[asyncio.current_task() is not None]"
    assert await value(live, made, awaited) == "[True]"
    again = "for n in range(3): kernelry_session.checkpoint()\nn"
    assert await value(live, made, again) == "2"
    deep = "def f(n): return n and f(n - 1)\nf(800)"
    assert await value(live, made, deep) == "0"
    kept = await live.checkpoints.create(made, live=True)
    await printed(live, made, "rows = None")
    await live.checkpoints.restore(kept.id, made)
    assert await value(live, made, "type(rows).__name__") == "'list'"
    (below,) = (await live.branching.create(made, SessionSpec())).branches
    assert below.is_live and await value(live, below.session, "seen") == "['in', 'out', 'in']"
    await made.restart()
    assert await value(live, made, "'rows' in globals()") == "False"
    assert await value(live, below.session, "1 + 1") == "2"


async def test_half_run_code_in_a_branch_of_half_run_code_has_branches(
    live: Sessions, running: Session
) -> None:
    made = (await inside(live, running)).branches[0].session
    code = "import os\nwhile not os.path.exists('go on'): kernelry_session.checkpoint(0.5)"
    ran = await live.run(made, code)
    await until(lambda: bool(ran.execution.progress), "it has come to one")
    done = await inside(live, made)
    assert done.inside == ran.execution.id
    (below,) = done.branches
    assert await value(live, below.session, "seen") == "['in', 'out', 'in']"
    assert await printed(live, below.session, "print(session := kernelry_session.session_id)") == (
        f"{below.session.id}\n"
    )
    await live.delete(made.id)
    assert await value(live, below.session, "1 + 1") == "2"


async def test_all_that_are_made_at_once_begin_with_the_same(
    live: Sessions, running: Session
) -> None:
    done = await inside(live, running, 3, "try")
    sizes = {await value(live, one.session, "len(rows)") for one in done.branches}
    assert len(sizes) == 1
    drawn = {await value(live, one.session, "random.random()") for one in done.branches}
    assert len(drawn) == 3
    assert [one.session.id for one in done.branches] == ["try.1", "try.2", "try.3"]


async def test_code_that_is_paused_is_at_a_safe_point(live: Sessions, running: Session) -> None:
    await steering.steer(running, "pause", by="somebody", wait=HANG)
    current = running.current
    assert current is not None and current.held_since is not None
    (made,) = (await inside(live, running)).branches
    assert made.is_live and current.held_since is not None
    assert await value(live, made.session, "seen") == "['in', 'out', 'in']"
    await steering.steer(running, "resume", by="somebody", wait=HANG)
    (other,) = (await inside(live, running)).branches
    assert other.is_live


async def test_the_end_of_a_branch_ends_none_of_the_code(live: Sessions, running: Session) -> None:
    made = (await inside(live, running)).branches[0].session
    await printed(live, made, "import atexit; atexit.register(os.mkdir, 'ended')")
    await live.delete(made.id)
    await until((live.workspace.root / "ended").is_dir, "its own ends were done")
    (other,) = (await inside(live, running)).branches
    assert await value(live, other.session, "seen") == "['in', 'out', 'in']"


async def test_code_without_a_safe_point_is_waited_for_and_not_for_ever(live: Sessions) -> None:
    session = await live.create(SessionSpec(id="a"))
    ran = await live.run(session, "import os\nwhile not os.path.exists('go on'): pass\nx = 5")
    with pytest.raises(SessionBusyError, match="came to no safe point"):
        await live.branching.create(session, SessionSpec(), patience=0.3, inside=True)
    waiting = asyncio.ensure_future(inside(live, session))
    (live.workspace.root / "go on").touch()
    done = await waiting
    (made,) = done.branches
    assert made.is_live and not done.inside
    assert await value(live, made.session, "x") == "5"
    assert await ran.wait(HANG)
    assert len(live.list()) == 3


async def test_a_session_that_runs_nothing_is_branched_at_once(live: Sessions) -> None:
    session = await live.create(SessionSpec(id="a"))
    await printed(live, session, "x = 5")
    done = await inside(live, session)
    assert not done.inside and done.branches[0].is_live
    assert await value(live, done.branches[0].session, "x") == "5"


async def test_code_that_awaits_comes_to_a_safe_point(live: Sessions) -> None:
    session = await live.create(SessionSpec(id="a"))
    ran = await live.run(
        session,
        "import asyncio, os\nn = 0\n"
        "while not os.path.exists('go on'):\n"
        "    n += 1; await asyncio.sleep(0.001); kernelry_session.checkpoint(f'{n}')\n",
    )
    await until(lambda: bool(ran.execution.progress), "it has come to one")
    done = await inside(live, session)
    (made,) = done.branches
    assert made.is_live and done.inside
    assert not [line for line in made.named if "tasks" in line]
    assert await value(live, made.session, "await asyncio.sleep(0, n > 0)") == "True"
    (live.workspace.root / "go on").touch()
    assert await ran.wait(HANG)
    assert ran.snapshot().status is ExecutionStatus.COMPLETED


async def test_where_no_live_copy_can_be_made_the_end_is_waited_for(live: Sessions) -> None:
    session = await live.create(SessionSpec(id="a"))
    await printed(
        live,
        session,
        "from concurrent.futures import ThreadPoolExecutor\n"
        "pool = ThreadPoolExecutor(); pool.submit(int).result(); x = 1",
    )
    ran = await live.run(
        session,
        "import os\nwhile not os.path.exists('go on'): kernelry_session.checkpoint(0.5)\nx = 2",
    )
    await until(lambda: bool(ran.execution.progress), "it has come to one")
    waiting = asyncio.ensure_future(inside(live, session))
    await asyncio.wait([waiting], timeout=0.5)
    assert not waiting.done()
    (live.workspace.root / "go on").touch()
    (made,) = (await waiting).branches
    assert not made.is_live and "pool" in made.why
    assert await value(live, made.session, "x") == "2"


async def test_a_new_session_begins_with_a_checkpoint(live: Sessions) -> None:
    session = await live.create(SessionSpec(id="a", context={"k": 1}))
    await printed(live, session, "it = iter(range(9)); next(it); x = [1]")
    kept = await live.checkpoints.create(session, live=True)
    saved = await live.checkpoints.create(session)
    await printed(live, session, "next(it); x.append(2)")
    for number in range(2):  # any number of times
        spec = SessionSpec(id=f"b{number}")
        (made,) = (await live.branching.create(session, spec, checkpoint=kept)).branches
        assert made.is_live
        assert await value(live, made.session, "(next(it), x)") == "(1, [1])"
        assert made.session.record.context == {"k": 1}
    done = await live.branching.create(session, SessionSpec(id="d"), 2, checkpoint=saved)
    told = [(one.session.id, one.is_live) for one in done.branches]
    assert told == [("d.1", False), ("d.2", False)]
    assert await value(live, done.branches[0].session, "x") == "[1]"
    with pytest.raises(InvalidArgumentError, match="no safe points"):
        await live.branching.create(session, SessionSpec(), inside=True, checkpoint=kept)


async def test_a_checkpoint_is_begun_with_when_its_session_has_no_kernel(live: Sessions) -> None:
    session = await live.create(SessionSpec(id="a"))
    await printed(live, session, "import threading; lock = threading.Lock()")
    kept = await live.checkpoints.create(session, live=True)
    assert (await run(live, session, "import os; os._exit(3)")).status is ExecutionStatus.DIED
    (made,) = (await live.branching.create(session, SessionSpec(), checkpoint=kept)).branches
    assert await value(live, made.session, "lock.locked()") == "False"
    await live.delete("a")
    assert await value(live, made.session, "lock.locked()") == "False"


async def test_whoever_gave_up_waiting_leaves_nothing_in_the_kernel(live: Sessions) -> None:
    session = await live.create(SessionSpec(id="a"))
    files = "len(os.listdir('/proc/self/fd'))"
    code = f"import os\nbefore = {files}\nopen('up', 'w').close()\n"
    code += f"while not os.path.exists('go on'): pass\nafter = {files}; made = []\n"
    code += "os.register_at_fork(before=lambda: made.append(1))\nkernelry_session.checkpoint(1)"
    ran = await live.run(session, code)
    await until((live.workspace.root / "up").exists, "it runs")
    for _ in range(5):
        with pytest.raises(SessionBusyError, match="no safe point"):
            await live.branching.create(session, SessionSpec(), patience=0.3, inside=True)
    (live.workspace.root / "go on").touch()
    assert await ran.wait(HANG)
    # One request is found to be gone when the next one comes, and the last by the safe point.
    assert int(await value(live, session, "after - before")) <= 5
    assert await value(live, session, "len(made)") == "0"
    assert await value(live, session, f"{files} <= before") == "True"


async def test_a_process_that_code_has_forked_is_no_kernel(live: Sessions) -> None:
    session = await live.create(SessionSpec(id="a"))
    code = (
        "import os, multiprocessing\nfork = multiprocessing.get_context('fork')\n"
        "def work():\n    kernelry_session.checkpoint(0.5)\n"
        "while not os.path.exists('go on'):\n"
        "    one = fork.Process(target=work); one.start(); one.join()\n"
        "    if os.path.exists('asked'): kernelry_session.checkpoint(0.5)\n"
    )
    ran = await live.run(session, code)
    await until(lambda: bool(ran.execution.status is ExecutionStatus.RUNNING), "it runs")
    waiting = asyncio.ensure_future(inside(live, session))
    await asyncio.wait([waiting], timeout=0.5)  # children come to safe points meanwhile
    (live.workspace.root / "asked").touch()
    done = await waiting
    assert done.branches[0].is_live and done.inside == ran.id
    (live.workspace.root / "go on").touch()
    assert await ran.wait(HANG)


async def test_a_loop_that_ends_goes_not_on_with_what_was_half_run(live: Sessions) -> None:
    session = await live.create(SessionSpec(id="a"))
    code = (
        "import os\ntry:\n    while not os.path.exists('go on'): kernelry_session.checkpoint(1)\n"
    )
    ran = await live.run(session, code + "finally:\n    open(f'left{os.getpid()}', 'w').close()")
    await until(lambda: bool(ran.execution.progress), "it has come to one")
    made = (await inside(live, session)).branches[0].session
    ends = await live.run(
        made, "import asyncio, sys\nasyncio.get_running_loop().call_soon(sys.exit)"
    )
    await ends.wait(HANG)
    await until(lambda: made.kernel_state is KernelState.DEAD, "its loop has ended")
    assert not list(live.workspace.root.glob("left*"))
    (live.workspace.root / "go on").touch()
    assert await ran.wait(HANG)
    assert len(list(live.workspace.root.glob("left*"))) == 1


async def test_what_was_captured_is_no_more_in_a_branch(live: Sessions) -> None:
    session = await live.create(SessionSpec(id="a"))
    code = "%%capture said\nimport os\nprint('in')\nwhile not os.path.exists('go on'):\n"
    ran = await live.run(session, code + "    kernelry_session.checkpoint(0.5)")
    await until(lambda: bool(ran.execution.progress), "it has come to one")
    made = (await inside(live, session)).branches[0].session
    assert await printed(live, made, "print('out')") == "out\n"
    assert await value(live, made, "6 * 7") == "42"
    (live.workspace.root / "go on").touch()
    assert await ran.wait(HANG)


async def test_what_is_begun_with_does_not_give_way(
    live: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await live.create(SessionSpec(id="a"))
    await printed(live, session, "x = 1")
    kept = await live.checkpoints.create(session, live=True)
    with monkeypatch.context() as patch:
        patch.setattr("kernelry.lives.branching.OWN_BYTES", 1 << 60)
        with pytest.raises(LimitExceededError, match="make fewer"):
            await live.branching.create(session, SessionSpec(), checkpoint=kept)
    (made,) = (await live.branching.create(session, SessionSpec(), checkpoint=kept)).branches
    assert await value(live, made.session, "x") == "1"


async def test_a_thread_that_imports_does_not_hold_up_a_look(live: Sessions) -> None:
    """Both want the loader's lock, and Python's."""
    session = await live.create(SessionSpec(id="a"))
    code = (
        "import _json, importlib.machinery, importlib.util, os, shutil, tempfile, threading\n"
        "def load(number):\n"
        "    path = os.path.join(tempfile.gettempdir(), f'_json{number}.so')\n"
        "    shutil.copy(_json.__file__, path)\n"
        "    loader = importlib.machinery.ExtensionFileLoader('_json', path)\n"
        "    importlib.util.module_from_spec(importlib.util.spec_from_loader('_json', loader))\n"
        "    os.remove(path)\n"
        "def work():\n"
        "    for number in range(3000):\n"
        "        if stop.is_set(): return\n"
        "        load(number)\n"
        "stop = threading.Event(); thread = threading.Thread(target=work, daemon=True)\n"
        "thread.start()"
    )
    await printed(live, session, code)
    for _ in range(12):
        await live.checkpoints.create(session, live=True)
    assert await value(live, session, "stop.set(), thread.join(60), thread.is_alive()") == (
        "(None, None, False)"
    )
