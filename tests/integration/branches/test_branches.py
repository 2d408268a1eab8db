"""Branches: all that a session has is in them, each goes its own way, nothing is left behind."""

import ast
import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from kernelry import Config, ExecutionStatus, Session, Sessions, SessionSpec
from kernelry.errors import (
    ConflictError,
    InvalidArgumentError,
    KernelDeadError,
    LimitExceededError,
    SessionBusyError,
    SessionExistsError,
)
from kernelry.lives import Branch
from kernelry.processes import cpu_time, family
from kernelry.session import steering
from kernelry.usage.measuring import own_cpu_time
from tests.faults.kernels import printed, run, started, until, value

EVERYTHING = """
import io, sqlite3, sys, threading
class Counter:
    def __init__(self): self.n = 0
    def add(self): self.n += 1; return self.n
def numbers():
    for i in range(9): yield i
shared = [1, 2]; alias = shared
it = numbers(); next(it)
lock = threading.Lock(); lock.acquire()
counter = Counter(); bound = counter.add
buffer = bytearray(b'abc'); view = memoryview(buffer)
closure = (lambda n: lambda: n)(5)
database = sqlite3.connect(':memory:')
_ = database.execute('create table t (n)'); _ = database.execute('insert into t values (7)')
opened = open('opened.txt', 'w+'); opened.write('abc'); opened.flush()
cyclic = []; cyclic.append(cyclic)
old_stdout = sys.stdout
"""
CHECKS = {
    "shared is alias": "True",
    "next(it)": "1",
    "lock.locked()": "True",
    "bound()": "1",
    "view.obj is buffer": "True",
    "closure()": "5",
    "database.execute('select n from t').fetchall()": "[(7,)]",
    "(opened.seek(0), opened.read())": "(0, 'abc')",
    "cyclic[0] is cyclic": "True",
    "type(counter) is Counter": "True",
}


async def branch(service: Sessions, origin: Session, session_id: str = "") -> Branch:
    """Make one branch, which must be live."""
    done = await service.branching.create(origin, SessionSpec(id=session_id))
    (made,) = done.branches
    assert made.is_live, made.why
    return made


LEVELS = ("process", "guard", "box")


async def test_all_that_a_session_has_is_in_its_branch(live: Sessions, origin: Session) -> None:
    await printed(live, origin, EVERYTHING)
    made = (await branch(live, origin)).session
    assert made.id == "a.1"
    for expression, expected in CHECKS.items():
        assert await value(live, made, expression) == expected, expression


async def test_origin_and_branch_go_their_own_ways(live: Sessions, origin: Session) -> None:
    await printed(live, origin, EVERYTHING)
    made = (await branch(live, origin)).session
    await printed(live, made, "shared.append(3); counter.add(); x = 1")
    await printed(live, origin, "shared.append(4)")
    assert (
        await value(live, origin, "(alias, counter.n, 'x' in globals())") == "([1, 2, 4], 0, False)"
    )
    assert await value(live, made, "(alias, counter.n)") == "([1, 2, 3], 1)"
    assert await value(live, origin, "next(it)") == await value(live, made, "next(it)") == "1"


async def test_branches_of_branches(live: Sessions, origin: Session) -> None:
    session = origin
    for depth in range(5):
        await printed(live, session, f"x{depth} = {depth}")
        session = (await branch(live, session)).session
    assert session.id == "a.1.1.1.1.1"
    assert await value(live, session, "[x0, x1, x2, x3, x4]") == "[0, 1, 2, 3, 4]"
    assert await value(live, origin, "'x1' in globals()") == "False"
    for name in ("a", "a.1.1", "a.1"):  # whoever goes first
        await live.delete(name)
    assert await value(live, session, "x0 + x4") == "4"


async def test_many_at_once(live: Sessions, origin: Session) -> None:
    await printed(live, origin, "state = {'n': 1}")
    done = await live.branching.create(origin, SessionSpec(id="try", tags=("t",)), 5)
    assert [item.session.id for item in done.branches] == [f"try.{n}" for n in range(1, 6)]
    assert all(item.is_live for item in done.branches)

    async def work(number: int, session: Session) -> str:
        await printed(live, session, f"state['n'] += {number}")
        return await value(live, session, "state['n']")

    works = (work(number, item.session) for number, item in enumerate(done.branches))
    assert await asyncio.gather(*works) == ["1", "2", "3", "4", "5"]
    assert await value(live, origin, "state") == "{'n': 1}"
    record = done.branches[0].session.record
    assert record.parent_session_id == "a" and record.tags == ("t",)
    assert record.parent_execution_id == done.after != ""


async def test_what_was_known_by_other_names_speaks_for_the_branch(
    live: Sessions, origin: Session
) -> None:
    await printed(
        live, origin, "import kernelry_session as k, sys\nout = sys.stdout; k.context['n'] = 1"
    )
    made = (await branch(live, origin)).session
    assert await printed(live, made, "print(k.session_id, k.context['n'], file=out)") == "a.1 1\n"
    await printed(live, made, "k.context['n'] = 2")
    assert await value(live, origin, "(k.session_id, k.context['n'])") == "('a', 1)"
    await until(lambda: made.record.context == {"n": 2}, "the branch's context is its own")
    assert origin.record.context == {"n": 1}


async def test_files_are_named_where_they_were_written(live: Sessions, origin: Session) -> None:
    await printed(live, origin, "1")
    made = (await branch(live, origin)).session
    one, other = await asyncio.gather(
        run(live, origin, "open('of_origin.txt', 'w').write('1')"),
        run(live, made, "open('of_branch.txt', 'w').write('1'); 1"),
    )
    assert "of_origin.txt" in one.new_files
    assert "of_branch.txt" in other.new_files


async def test_folders_and_variables_of_the_environment_are_its_own(
    live: Sessions, origin: Session
) -> None:
    await printed(
        live, origin, "import os, tempfile\nos.environ['MINE'] = '1'; t = tempfile.gettempdir()"
    )
    made = (await branch(live, origin)).session
    own = str(made.directory)
    await printed(live, made, "import sys")
    places = "tempfile.gettempdir(), os.environ['TMPDIR'], sys.prefix"
    mine, *folders = ast.literal_eval(await value(live, made, f"[os.environ['MINE'], {places}]"))
    assert mine == "1" and all(folder.startswith(own + os.sep) for folder in folders)
    assert await value(live, origin, "tempfile.gettempdir() == t") == "True"
    assert (await printed(live, made, "!echo $TMPDIR")).strip().startswith(own)


async def test_packages_come_along_and_stay_when_the_origin_goes(
    live: Sessions, origin: Session
) -> None:
    await printed(live, origin, "1")
    package = origin.environment.site / "brought"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "later.py").write_text("value = 7")
    await printed(live, origin, "import importlib; importlib.invalidate_caches(); import brought")
    made = (await branch(live, origin)).session
    await live.delete("a")
    assert await value(live, made, "__import__('brought.later').later.value") == "7"
    await made.restart()
    assert await value(live, made, "__import__('brought.later').later.value") == "7"


async def test_ends_are_known_and_end_nobody_else(live: Sessions, origin: Session) -> None:
    await printed(live, origin, "import os, subprocess; child = subprocess.Popen(['sleep', '600'])")
    one, two = (
        item.session for item in (await live.branching.create(origin, SessionSpec(), 2)).branches
    )
    died = await run(live, one, "os._exit(7)")
    assert died.status is ExecutionStatus.DIED and died.error is not None
    assert "exit code 7" in died.error.message
    assert await value(live, origin, "child.poll() is None") == "True"
    assert one.kernel is not None
    gone = Path(f"/proc/{one.kernel.process.leader}")
    await until(lambda: not gone.exists(), "its origin has waited for it")
    killed = await run(live, origin, "os.kill(os.getpid(), 9)")
    assert killed.status is ExecutionStatus.DIED
    assert await value(live, two, "1 + 1") == "2"
    orphaned = await run(live, two, "os._exit(9)")  # its parent is the fork server now
    assert orphaned.error is not None and "exit code 9" in orphaned.error.message
    await origin.restart()
    await two.restart()
    assert await value(live, two, "1 + 1") == "2"


async def test_what_a_branch_started_goes_with_it(live: Sessions, origin: Session) -> None:
    await printed(live, origin, "import subprocess")
    made = (await branch(live, origin)).session
    await printed(live, made, "child = subprocess.Popen(['sleep', '600'])")
    assert made.kernel is not None
    (child,) = made.kernel.process.descendants()
    await live.delete(made.id)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert await value(live, origin, "1 + 1") == "2"


async def test_a_branch_is_no_part_of_what_its_origin_uses(live: Sessions, origin: Session) -> None:
    await printed(live, origin, "1")
    assert origin.kernel is not None
    before = len(family(origin.kernel.process.leader))
    made = (await branch(live, origin)).session
    assert made.kernel is not None
    assert len(family(origin.kernel.process.leader)) == before
    assert len(family(made.kernel.process.leader)) == 1
    told = [(await live.health(session)).num_threads for session in (origin, made)]
    assert told[0] == told[1]


async def test_what_it_lacks_or_shares_is_named(live: Sessions, origin: Session) -> None:
    await printed(
        live,
        origin,
        "import asyncio, threading\n"
        "stop = threading.Event()\n"
        "threading.Thread(target=stop.wait, name='my worker', daemon=True).start()\n"
        "async def tick():\n    await asyncio.sleep(600)\n"
        "task = asyncio.get_running_loop().create_task(tick())\n"
        "opened = open('log.txt', 'w')",
    )
    named = " ".join((await branch(live, origin)).named)
    for words in ("my worker", "tick", "log.txt"):
        assert words in named


async def test_native_threads_stand_against_it_and_a_checkpoint_is_taken(
    live: Sessions, origin: Session
) -> None:
    await printed(
        live,
        origin,
        "import ctypes, threading\nlibc = ctypes.CDLL(None); number = ctypes.c_ulong()\n"
        "libc.pthread_create(ctypes.byref(number), None, libc.sleep, ctypes.c_void_p(600))\n"
        "x = [1]; y = x; lock = threading.Lock()",
    )
    (made,) = (await live.branching.create(origin, SessionSpec())).branches
    assert not made.is_live and "threads of a library" in made.why
    assert await value(live, made.session, "y is x") == "True"
    assert "lock" in [item.name for item in made.left_out]
    assert not await live.checkpoints.list("a")


async def test_start_up_code_does_not_run_again(live: Sessions) -> None:
    origin = await live.create(SessionSpec(id="a", startup="runs = 1"))
    await printed(live, origin, "runs += 1")
    made = (await branch(live, origin)).session
    assert await value(live, made, "runs") == "2"
    await made.restart()
    assert await value(live, made, "runs") == "1"


async def test_a_busy_origin_is_waited_for_and_not_for_ever(live: Sessions) -> None:
    origin = await live.create(SessionSpec(id="a"))
    loop = await started(live, origin, "print('up')\nimport time\nwhile True: time.sleep(0.01)")
    with pytest.raises(SessionBusyError, match="runs code for"):
        await live.branching.create(origin, SessionSpec(), patience=0.1)
    assert [session.id for session in live.list()] == ["default", "a"]
    waiting = asyncio.ensure_future(live.branching.create(origin, SessionSpec()))
    await asyncio.sleep(0)
    await live.interrupt(loop.id)
    done = await waiting
    assert done.branches[0].is_live
    assert await value(live, done.branches[0].session, "1 + 1") == "2"


@pytest.mark.parametrize("count", [0, -1, 10_000])
async def test_a_number_that_can_not_be_makes_nothing(live: Sessions, count: int) -> None:
    origin = live.get("default")
    with pytest.raises(InvalidArgumentError, match="1 to 100"):
        await live.branching.create(origin, SessionSpec(), count)
    assert len(live.list()) == 1


async def test_an_id_that_is_taken_half_way_makes_nothing(live: Sessions) -> None:
    origin = await live.create(SessionSpec(id="a"))
    await live.create(SessionSpec(id="b.3"))
    with pytest.raises(SessionExistsError, match=r"'b\.3'"):
        await live.branching.create(origin, SessionSpec(id="b"), 4)
    assert [session.id for session in live.list()] == ["default", "a", "b.3"]
    done = await live.branching.create(origin, SessionSpec(id="b"), 2)
    assert [item.session.id for item in done.branches] == ["b.1", "b.2"]
    with pytest.raises(InvalidArgumentError, match="too long"):
        await live.branching.create(origin, SessionSpec(id="x" * 64), 2)


async def test_what_has_no_kernel_has_no_branch(live: Sessions) -> None:
    dead = await live.create(SessionSpec(id="dead"))
    await run(live, dead, "import os; os._exit(1)")
    with pytest.raises(KernelDeadError, match="restart_kernel"):
        await live.branching.create(dead, SessionSpec())
    closed = await live.create(SessionSpec(id="closed"))
    await live.close(closed)
    with pytest.raises(ConflictError, match="completed"):
        await live.branching.create(closed, SessionSpec())
    assert {session.id for session in live.list()} == {"default", "dead", "closed"}


async def test_a_suspended_session_comes_back_first(live: Sessions) -> None:
    origin = await live.create(SessionSpec(id="a"))
    await printed(live, origin, "x = 5")
    await live.suspension.suspend(origin, by="a test")
    made = (await branch(live, origin)).session
    assert await value(live, made, "x") == "5"


async def test_too_many_sessions_are_refused_before_any_is_made(config: Config) -> None:
    async with Sessions(replace(config, isolation="process", max_sessions=4)) as service:
        origin = await service.create(SessionSpec(id="a"))
        with pytest.raises(LimitExceededError):
            await service.branching.create(origin, SessionSpec(), 3)
        assert len(service.list()) == 2
        await service.branching.create(origin, SessionSpec(), 2)


async def test_what_a_branch_has_from_its_origin_is_not_asked_for(live: Sessions) -> None:
    with pytest.raises(InvalidArgumentError, match="python"):
        await live.branching.create(live.get("default"), SessionSpec(python="python3"))


async def test_a_copy_that_can_not_start_leaves_nothing(live: Sessions) -> None:
    origin = await live.create(SessionSpec(id="a"))
    await printed(live, origin, "import os\nos.setsid = lambda: os._exit(3)")
    before = folders(live)
    with pytest.raises(Exception, match="exit code 3"):
        await live.branching.create(origin, SessionSpec(), 2)
    await until(lambda: folders(live) == before, "nothing is left of it")
    assert await value(live, origin, "1 + 1") == "2"
    assert len(live.list()) == 2


def folders(service: Sessions) -> set[str]:
    """Return the private folders that there are, but for those of warm kernels."""
    known = {session.directory.name for session in service.list()}
    return {path.name for path in service.sessions_dir.iterdir() if path.name in known}


@pytest.fixture
async def bare(config: Config) -> AsyncIterator[Sessions]:
    async with Sessions(replace(config, isolation="process", warm=0)) as service:
        yield service


async def test_random_branches_leave_nothing(bare: Sessions) -> None:
    """Sessions come by branching and go in any order; what they used is given back."""
    live = bare
    await live.wait_until_warm()
    dice, process = random.Random(15), psutil.Process()
    names = ["default"]
    first = live.get("default")
    await printed(live, first, "trail = []")

    async def once() -> None:
        origin = live.get(dice.choice(names))
        if origin.id != "default" and dice.random() < 0.4:
            names.remove(origin.id)
            await live.delete(origin.id)
        elif len(names) < 8:
            made = (await branch(live, origin)).session
            names.append(made.id)
            await printed(live, made, f"trail.append({made.id!r})")
            assert made.id in await value(live, made, "trail")

    async def clear() -> None:
        for name in names[1:]:
            await live.delete(name)
        del names[1:]

    for _ in range(5):
        await once()
    await clear()
    fds, children = process.num_fds(), len(process.children(recursive=True))
    for _ in range(40):
        await once()
    await clear()
    await until(lambda: len(process.children(recursive=True)) <= children, "no process is left")
    await until(lambda: process.num_fds() <= fds + 2, "no descriptor is left")
    assert await value(live, first, "trail") == "[]"


async def test_signals_for_one_reach_no_other(live: Sessions, origin: Session) -> None:
    await printed(live, origin, "import time")
    made = (await branch(live, origin)).session
    mine = await started(live, origin, "print('up'); time.sleep(600)")
    its = await started(live, made, "print('up'); time.sleep(600)")
    await live.interrupt(its.id)
    assert its.snapshot().status.is_final and not mine.snapshot().status.is_final
    await live.interrupt(mine.id)
    assert made.kernel is not None and origin.kernel is not None
    assert os.getpgid(made.kernel.process.leader) != os.getpgid(origin.kernel.process.leader)
    os.kill(made.kernel.process.leader, signal.SIGKILL)
    assert await value(live, origin, "1 + 1") == "2"


async def test_a_branch_is_a_session_like_any_other(live: Sessions, origin: Session) -> None:
    await printed(live, origin, "import asyncio\nx = [1]; y = x")
    made = (await branch(live, origin)).session
    assert await value(live, made, "await asyncio.sleep(0, 7)") == "7"
    assert "hi" in await printed(live, made, "!echo hi")
    names, total = await made.variables(100)
    assert {"x", "y"} <= {item.name for item in names} and total == len(names)
    saved = await live.checkpoints.create(made)
    await printed(live, made, "x.append(2)")
    await live.checkpoints.restore(saved.id, made)
    assert await value(live, made, "(x, y is x)") == "([1], True)"
    await live.suspension.suspend(made, by="a test")
    assert await value(live, made, "(x, y is x)") == "([1], True)"  # it came back
    again = (await branch(live, made)).session
    assert await value(live, again, "x") == "[1]"
    await made.restart()
    assert await value(live, made, "'x' in globals()") == "False"
    assert (await run(live, again, "1/0")).status is ExecutionStatus.FAILED


async def test_a_busy_loop_in_a_branch_is_stopped_by_its_timeout(
    live: Sessions, origin: Session
) -> None:
    await printed(live, origin, "x = 1")
    made = (await branch(live, origin)).session
    done = await run(live, made, "while True: pass", timeout=0.2)
    assert done.status is ExecutionStatus.TIMED_OUT
    assert await value(live, made, "x") == "1"


async def test_the_end_of_a_branch_ends_nothing_of_its_origin(
    live: Sessions, origin: Session
) -> None:
    await printed(
        live,
        origin,
        "import atexit, multiprocessing, os, tempfile, time, weakref\n"
        "forking = multiprocessing.get_context('fork')\n"
        "child = forking.Process(target=time.sleep, args=(600,), daemon=True)\n"
        "child.start(); kept = tempfile.TemporaryDirectory(); file = open('lines.txt', 'w')\n"
        "file.write('once\\n'); atexit.register(os.mkdir, 'ended')",
    )
    made = (await branch(live, origin)).session
    await printed(live, made, "file.write('branch\\n')")
    await live.delete(made.id)
    assert (
        await value(live, origin, "(child.is_alive(), os.path.exists(kept.name))") == "(True, True)"
    )
    assert await value(live, origin, "os.path.exists('ended')") == "False"
    await printed(live, origin, "file.close()")
    lines = await value(live, origin, "open('lines.txt').read().split()")
    assert lines.count("once") == 1
    await printed(live, origin, "child.kill()")


async def test_a_pool_of_threads_stands_against_it(live: Sessions, origin: Session) -> None:
    await printed(
        live,
        origin,
        "from concurrent.futures import ThreadPoolExecutor\npool = ThreadPoolExecutor(1)\n"
        "_ = pool.submit(int).result()",
    )
    (made,) = (await live.branching.create(origin, SessionSpec())).branches
    assert not made.is_live and "pool of threads" in made.why
    await printed(live, origin, "pool.shutdown(); import asyncio\n_ = await asyncio.to_thread(int)")
    assert (await branch(live, origin)).session.id == "a.2"


async def test_functions_that_were_taken_from_the_module_are_the_branch_s(
    live: Sessions, origin: Session
) -> None:
    await printed(live, origin, "from kernelry_session import checkpoint\nimport time")
    made = (await branch(live, origin)).session
    code = "print('up')\nwhile True:\n    checkpoint(0.5); time.sleep(0.01)"
    running = await started(live, made, code)
    assert (await steering.steer(made, "stop", by="a test", wait=60)).state == "stopped"
    error = running.snapshot().error
    assert error is not None and error.type == "ExecutionStopped"


async def test_deep_branches_are_told_of_nothing_that_is_ours(
    live: Sessions, origin: Session
) -> None:
    await printed(live, origin, "import os\ncount = lambda: len(os.listdir('/proc/self/fd'))")
    session, counts = origin, []
    for _ in range(6):
        made = await branch(live, session)
        assert not made.named
        session = made.session
        counts.append(int(await value(live, session, "count()")))
    assert counts[-1] - counts[1] <= 4 * 10, counts  # sockets that were made after the start


async def test_tasks_are_named_where_the_state_directory_has_our_name(
    config: Config, tmp_path: Path
) -> None:
    given = replace(config, isolation="process", state_dir=tmp_path / "kernelry" / "state")
    async with Sessions(given) as service:
        origin = service.get("default")
        code = "import asyncio\nasync def tick(): await asyncio.sleep(600)\n"
        code += "t = asyncio.ensure_future(tick())"
        await printed(service, origin, code)
        named = (await branch(service, origin)).named
        assert any("tick" in line for line in named), named


async def test_time_that_a_branch_used_is_not_its_origin_s(live: Sessions, origin: Session) -> None:
    await printed(live, origin, "import os, time")
    made = (await branch(live, origin)).session
    await printed(
        live, made, "end = time.process_time() + 1.0\nwhile time.process_time() < end: pass"
    )
    assert made.kernel is not None and origin.kernel is not None
    gone, pid = Path(f"/proc/{made.kernel.process.leader}"), origin.kernel.process.leader
    await live.delete(made.id)
    await until(lambda: not gone.exists(), "its origin has waited for it")
    assert own_cpu_time(pid) < cpu_time(pid) - 0.9


async def test_a_branch_that_ran_nothing_yet_is_saved_when_the_server_stops(
    config: Config,
) -> None:
    given = replace(config, isolation="process", save_on_stop=True)
    async with Sessions(given) as service:
        await printed(service, service.get("default"), "x = 5")
        await branch(service, service.get("default"), "b")
    async with Sessions(given) as service:
        assert await value(service, service.get("b"), "x") == "5"


async def test_branches_of_a_session_that_is_coming_back_have_its_variables(live: Sessions) -> None:
    origin = await live.create(SessionSpec(id="a"))
    await printed(live, origin, "x = list(range(100_000))")
    await live.suspension.suspend(origin, by="a test")
    works = (live.branching.create(origin, SessionSpec(id=name)) for name in ("b", "c"))
    for done in await asyncio.gather(*works):
        assert await value(live, done.branches[0].session, "len(x)") == "100000"


async def test_behind_walls_the_deepest_branch_comes_by_a_checkpoint(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernelry.lives.making.DEEPEST", 2)
    async with Sessions(replace(config, isolation="guard")) as live:
        session = await live.create(SessionSpec(id="a"))
        await printed(live, session, "x = [1]")
        found = []
        for name in ("b", "c", "d", "e"):
            (made,) = (await live.branching.create(session, SessionSpec(id=name))).branches
            found.append(made.is_live)
            assert made.is_live or "no more layers" in made.why
            session = made.session
            assert await value(live, session, "x") == "[1]"
        assert found == [True, True, False, True]
        events = await live.events.latest("d", 100)
        assert not [one for one in events if one.topic == "session.deleted"]


async def test_what_nobody_needs_of_areas_goes_at_the_next_start(config: Config) -> None:
    """A server that was killed, or a session's code, has left it there."""
    settings = replace(config, isolation="guard", save_on_stop=True)
    async with Sessions(settings) as first:
        session = await first.create(SessionSpec(id="a"))
        (made,) = (await first.branching.create(session, SessionSpec(id="b"))).branches
        area = made.session.directory.parent
        for path in (area / "junk", area.parent / "0123456789abcdef" / "x" / "y"):
            path.mkdir(parents=True)
        (area / "file").touch()
        (area / "link").symlink_to(config.workspace)
        needed = made.session.directory
    async with Sessions(settings) as second:
        await until(
            lambda: {path.name for path in area.iterdir()} <= {needed.name, f"{needed.name}-"},
            "what nobody needs is gone",
        )
        await until(lambda: not (area.parent / "0123456789abcdef").exists(), "so has the area")
        assert needed.is_dir() and config.workspace.is_dir()
        assert {one.id for one in second.list()} == {"default", "a", "b"}
