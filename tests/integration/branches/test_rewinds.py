"""Rewinds and rollbacks: a session as it was before an execution, and what is said of that."""

import ast
import asyncio
import random
from collections.abc import Iterator
from dataclasses import replace

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernelry import Config, Execution, ExecutionStatus, Session, Sessions, SessionSpec
from kernelry.errors import CheckpointNotFoundError
from kernelry.history import Search
from kernelry.lives import promote
from kernelry.models import CheckpointReason, InterruptStep, OnError, Undone
from tests.faults.kernels import HANG, printed, run, started, until, value

LEVELS = ("process", "guard", "box")


STATE = "import sys\nitems = [1, 2]; alias = items\ngen = iter(range(9)); next(gen)\nn = 0"
SAME = "(items, alias is items, n, 'made' in globals())"

STUBBORN = (
    "items.clear(); made = 1\n"
    "while True:\n"
    "    try:\n"
    "        print(1, flush=True)\n"
    "        while True: pass\n"
    "    except BaseException: pass"
)


async def tried(
    live: Sessions,
    session: Session,
    code: str,
    on_error: OnError = OnError.ROLLBACK,
    timeout: float | None = None,
) -> Execution:
    """Run a cell that is to be rolled back."""
    running = await live.run(session, code, timeout=timeout, on_error=on_error)
    assert await running.wait(HANG)
    return running.snapshot()


async def rewind(live: Sessions, session: Session, execution: Execution) -> None:
    """Put a session back to before an execution."""
    kept = await live.checkpoints.rewinds.find(execution.id)
    await live.checkpoints.restore(kept.id, session)


async def test_ten_rewinds_over_a_story_of_thirty_cells(live: Sessions) -> None:
    session = await live.create(SessionSpec(id="a", rewind=60))
    await printed(live, session, STATE)
    ran = [await run(live, session, f"n += 1; items.append({n})") for n in range(3, 32)]
    for back in (28, 25, 20, 19, 12, 11, 7, 3, 1, 0):
        await rewind(live, session, ran[back])
        expected = ([1, 2, *range(3, 3 + back)], True, back, False)
        assert ast.literal_eval(await value(live, session, SAME)) == expected
        assert await value(live, session, "next(gen)") == "1"


@pytest.mark.parametrize(
    ("code", "status"),
    {
        "raises": ("made = 1; items.append(3); n = 5; next(gen); 1/0", ExecutionStatus.FAILED),
        "syntax": ("items.append(3); made = 1\n1 +", ExecutionStatus.FAILED),
        "exits": ("items.clear(); import os; os._exit(3)", ExecutionStatus.DIED),
        "aborts": ("items.clear(); import os; os.abort()", ExecutionStatus.DIED),
        "is killed": (
            "items.clear(); import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            ExecutionStatus.DIED,
        ),
        "times out": ("items.clear()\nwhile True: pass", ExecutionStatus.TIMED_OUT),
        "ignores interrupts": (STUBBORN, ExecutionStatus.DIED),
        "interrupts itself": ("items.clear(); raise KeyboardInterrupt", None),
        "system exit": ("items.clear(); raise SystemExit(1)", None),
    }.values(),
    ids=[
        *("raises", "syntax", "exits", "aborts", "is killed", "times out", "ignores interrupts"),
        *("interrupts itself", "system exit"),
    ],
)
async def test_what_does_not_complete_has_not_been(
    live: Sessions, code: str, status: ExecutionStatus | None
) -> None:
    session = await live.create(SessionSpec(id="a"))
    await printed(live, session, STATE)
    failed = await tried(live, session, code, timeout=2 if "while" in code else 60)
    assert failed.status is not ExecutionStatus.COMPLETED
    assert status in (None, failed.status)
    assert failed.undone is Undone.ROLLBACK, failed.note
    assert "Rolled back: variables are as before it" in failed.note
    assert await value(live, session, SAME) == "([1, 2], True, 0, False)"
    assert await value(live, session, "next(gen)") == "1"
    assert not [one for one in await live.checkpoints.list() if one.is_live]
    stored = await live.execution(failed.id)
    assert stored.undone is Undone.ROLLBACK


async def test_what_completes_stays(live: Sessions) -> None:
    session = await live.create(SessionSpec(id="a"))
    await printed(live, session, STATE)
    done = await tried(live, session, "items.append(3); made = 1")
    assert (done.status, done.undone, done.note) == (ExecutionStatus.COMPLETED, Undone.NO, "")
    assert await value(live, session, SAME) == "([1, 2, 3], True, 0, True)"
    await asyncio.gather(*live.checkpoints.unfinished)
    assert not [one for one in await live.checkpoints.list() if one.is_live]


async def test_an_interrupted_one_is_rolled_back_and_the_queue_goes_on(live: Sessions) -> None:
    session = await live.create(SessionSpec(id="a"))
    await printed(live, session, STATE)
    running = await live.run(
        session, "items.clear(); print(1)\nwhile True: pass", on_error=OnError.ROLLBACK
    )
    await until(lambda: bool(running.fold.outputs), "it runs")
    behind = await live.run(session, "items.append(7); print(items)")
    assert (await session.interrupt(running)).responsive
    assert await behind.wait(HANG)
    assert behind.snapshot().outputs[0].text == "[1, 2, 7]\n"  # type: ignore[union-attr]


async def test_force_rolls_back_too(live: Sessions) -> None:
    session = await live.create(SessionSpec(id="a"))
    await printed(live, session, STATE)
    running = await live.run(session, STUBBORN, on_error=OnError.ROLLBACK)
    await until(lambda: bool(running.fold.outputs), "it runs")
    report = await session.interrupt(running, force=True)
    assert (report.step, report.responsive) == (InterruptStep.ROLLED_BACK, True)
    assert running.snapshot().undone is Undone.ROLLBACK
    assert await value(live, session, SAME) == "([1, 2], True, 0, False)"


async def test_a_restart_is_a_restart(live: Sessions) -> None:
    session = await live.create(SessionSpec(id="a"))
    await printed(live, session, STATE)
    running = await live.run(session, "print(1)\nwhile True: pass", on_error=OnError.ROLLBACK)
    await until(lambda: bool(running.fold.outputs), "it runs")
    await session.restart()
    assert running.snapshot().undone is Undone.NO
    assert "is being restarted or ended" in running.snapshot().note
    assert await value(live, session, "'items' in globals()") == "False"


async def test_files_that_it_wrote_are_named_and_stay(live: Sessions) -> None:
    session = await live.create(SessionSpec(id="a"))
    failed = await tried(live, session, "open('kept.txt', 'w').write('1'); 1/0")
    assert "What it wrote to files stays: kept.txt" in failed.note
    assert (live.workspace.root / "kept.txt").exists()


POOL = (
    "from concurrent.futures import ThreadPoolExecutor\n"
    "pool = ThreadPoolExecutor(1); pool.submit(int).result(); x = 1"
)


async def test_where_it_can_t_be_rolled_back_it_does_not_run(live: Sessions) -> None:
    session = await live.create(SessionSpec(id="a"))
    await printed(live, session, POOL)
    refused = await tried(live, session, "x = 2")
    assert refused.status is ExecutionStatus.CANCELLED and refused.error is not None
    assert "could not be rolled back" in refused.error.message
    assert "a pool of threads" in refused.error.message
    assert await value(live, session, "x") == "1"
    done = await tried(live, session, "x = 2", OnError.IF_POSSIBLE)
    assert (done.status, done.note) == (ExecutionStatus.COMPLETED, "")
    failed = await tried(live, session, "x = 3; 1/0", OnError.IF_POSSIBLE)
    assert failed.undone is Undone.NO and "Not rolled back: " in failed.note
    assert await value(live, session, "x") == "3"


async def test_only_the_newest_are_kept_and_the_others_are_named(live: Sessions) -> None:
    session = await live.create(SessionSpec(id="a", rewind=2))
    ran = [await run(live, session, f"x = {n}") for n in range(4)]
    await live.checkpoints.rewinds.settled()
    kept = [one for one in await live.checkpoints.list() if one.is_live]
    assert {one.reason for one in kept} == {CheckpointReason.REWIND}
    assert [one.execution_id for one in kept] == [ran[3].id, ran[2].id]
    with pytest.raises(CheckpointNotFoundError, match=f"{ran[3].id}, {ran[2].id}"):
        await live.checkpoints.rewinds.find(ran[0].id)
    with pytest.raises(CheckpointNotFoundError, match="newest first: none"):
        await live.checkpoints.rewinds.find("unknown")


async def test_what_was_undone_is_marked_and_unmarked(live: Sessions) -> None:
    session = await live.create(SessionSpec(id="a", rewind=20))

    async def undone() -> list[str]:
        found = await live.history.search(Search(session_ids=["a"]))
        return [one.undone.value for one in reversed(found)]

    ran = [await run(live, session, f"x = {n}") for n in range(4)]
    await rewind(live, session, ran[2])
    assert await undone() == ["", "", "rewind", "rewind"]
    assert (await live.execution(ran[3].id)).undone is Undone.REWIND
    assert await value(live, session, "x") == "1"
    last = await run(live, session, "x += 10")
    await rewind(live, session, ran[3])  # on the way that was left
    assert await value(live, session, "x") == "2"
    assert await undone() == ["", "", "", "rewind", "rewind", "rewind", ""]
    await rewind(live, session, last)
    assert await value(live, session, "x") == "1"
    assert await undone() == ["", "", "rewind", "rewind", "", "rewind", "rewind", ""]


async def test_a_session_rewinds_as_the_server_says_unless_it_says(config: Config) -> None:
    settings = replace(config, isolation="process", rewind=1)
    async with Sessions(settings) as live:
        one, none = (
            await live.create(SessionSpec(id="a")),
            await live.create(SessionSpec(id="b", rewind=0)),
        )
        for session in (one, none):
            await run(live, session, "x = 1")
        await live.checkpoints.rewinds.settled()
        kept = [item for item in await live.checkpoints.list() if item.is_live]
        assert [item.session_id for item in kept] == ["a"]


async def test_nothing_is_said_twice_of_what_can_t_be_kept(live: Sessions) -> None:
    session = await live.create(SessionSpec(id="a", rewind=2))
    first = await run(live, session, POOL)
    assert first.note == ""
    notes = [(await run(live, session, "x")).note for _ in range(3)]
    assert "Nothing is kept to rewind to" in notes[0] and notes[1:] == ["", ""]


async def test_many_at_once_are_rolled_back_each_in_its_session(live: Sessions) -> None:
    sessions = [await live.create(SessionSpec(id=f"s{n}")) for n in range(6)]

    async def story(session: Session) -> str:
        await printed(live, session, STATE)
        for _ in range(3):
            failed = await tried(live, session, "items.clear(); 1/0")
            assert failed.undone is Undone.ROLLBACK
        return await value(live, session, SAME)

    assert set(await asyncio.gather(*map(story, sessions))) == {"([1, 2], True, 0, False)"}


async def test_a_cell_that_waits_is_begun_when_its_copy_is_there(live: Sessions) -> None:
    session = await live.create(SessionSpec(id="a", rewind=3))
    running = await started(live, session, "print(1)\nwhile True: pass")
    behind = [await live.run(session, f"y = {n}") for n in range(3)]
    await session.interrupt(running)
    for one in behind:
        assert await one.wait(HANG)
        assert one.snapshot().status is ExecutionStatus.COMPLETED
    await rewind(live, session, behind[1].execution)
    assert await value(live, session, "y") == "0"


async def test_a_restart_and_a_rollback_at_once_both_end(live: Sessions) -> None:
    session = await live.create(SessionSpec(id="a"))
    await printed(live, session, STATE)
    for number in range(8):
        failing = await live.run(session, "items.clear(); 1/0", on_error=OnError.ROLLBACK)
        queued = [await live.run(session, "1") for _ in range(20)]
        for _ in range(number * 3):
            await asyncio.sleep(0)
        await asyncio.wait_for(session.restart(), HANG)
        for one in (failing, *queued):
            assert await one.wait(HANG)
        assert await value(live, session, "1 + 1") == "2"


async def test_what_a_rollback_ends_is_named(live: Sessions) -> None:
    session = await live.create(SessionSpec(id="a"))
    await printed(
        live,
        session,
        "import subprocess, threading\np = subprocess.Popen(['sleep', '600'])\n"
        "e = threading.Event(); threading.Thread(target=e.wait, name='poll', daemon=True).start()",
    )
    failed = await tried(live, session, "1/0")
    assert "child processes, which are the origin's: sleep" in failed.note
    assert "threads that are not in it: poll" in failed.note


async def test_what_is_kept_of_a_session_goes_when_it_is_closed(live: Sessions) -> None:
    session = await live.create(SessionSpec(id="a", rewind=3))
    await run(live, session, "x = 1")
    await live.checkpoints.rewinds.settled()
    assert live.checkpoints.live.of("a")
    await live.close(session)
    assert not live.checkpoints.live.of("a")


async def test_a_cell_of_a_full_disk_runs_on_without(
    live: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await live.create(SessionSpec(id="a", rewind=3))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kernelry.engines.launch.write_private", full)
    done = await run(live, session, "x = 1; x")
    assert done.status is ExecutionStatus.COMPLETED
    assert "Nothing is kept to rewind to" in done.note and "No space left" in done.note


#: statements of random programs; each works whatever ran before it
STATEMENTS = (
    "a = [len(names)]",
    "b = a",
    "a.append(len(a))",
    "b = list(b)",
    "names['k%d' % len(names)] = a",
    "c = a is b",
    "f = lambda n, a=a: (n, len(a))",
    "del names['k0']",
    "import math; d = math.sqrt(len(b))",
    "class C:\n    items = a\ne = C.items is a",
    "g = (n for n in range(9)); next(g)",
    "names = {**names, 'self': names}",
)
BEGIN = "names, a, b, c, d, e = {}, [], [], 0, 0, 0\nf = g = None"
TOLD = (
    "(a, b, a is b, c, d, e, sorted(map(str, names)), f and f(1), any(v is a for v in "
    "names.values()), a is getattr(globals().get('C'), 'items', None), g and sum(g))"
)
programs = st.lists(st.sampled_from(STATEMENTS), max_size=6)


@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(prefix=programs, ways=st.lists(programs, min_size=1, max_size=3))
def test_random_programs_go_on_as_if_each_way_had_been_the_only_one(
    shared: tuple[asyncio.Runner, Sessions], prefix: list[str], ways: list[list[str]]
) -> None:
    """From one point by a branch, by a rewind, and by a live checkpoint: as in a fresh kernel."""
    runner, service = shared

    async def done(session: Session, program: list[str]) -> None:
        for statement in program:
            await run(service, session, statement)  # one that raises is a step, too

    async def told(session: Session, program: list[str]) -> str:
        await done(session, program)
        return await value(service, session, TOLD)  # which draws from the generator

    async def story() -> None:
        for session in service.list():  # of an example that failed
            if session.id != "default":
                await service.delete(session.id)
        origin = await service.create(SessionSpec(rewind=60))
        await done(origin, [BEGIN, *prefix])
        kept = await service.checkpoints.create(origin, live=True)
        mark = await run(service, origin, "0")
        made = (await service.branching.create(origin, SessionSpec(), len(ways))).branches
        for way, branch in zip(ways, made, strict=True):
            fresh = await service.create(SessionSpec())
            expected = await told(fresh, [BEGIN, *prefix, *way])
            assert branch.is_live
            assert await told(branch.session, way) == expected
            assert await told(origin, way) == expected
            await rewind(service, origin, mark)
            assert await told(origin, way) == expected
            await service.checkpoints.restore(kept.id, origin)
            await service.delete(fresh.id)
            await service.delete(branch.session.id)
        await service.delete(origin.id)

    runner.run(story())


@pytest.fixture
def shared(config: Config) -> Iterator[tuple[asyncio.Runner, Sessions]]:
    """A service for all examples, in a loop of its own."""
    with asyncio.Runner() as runner:
        service = Sessions(replace(config, isolation="process"))
        runner.run(service.__aenter__())
        try:
            yield runner, service
        finally:
            runner.run(service.__aexit__(None, None, None))


async def test_random_operations_on_forty_sessions_leave_nothing(config: Config) -> None:
    """Created, branched, run, frozen, rewound, rolled back, promoted, deleted in any order."""
    dice, process = random.Random(7), psutil.Process()
    async with Sessions(replace(config, isolation="process", warm=0)) as live:
        await live.wait_until_warm()
        first = live.get("default")
        await printed(live, first, "n = 0")
        names: list[str] = []
        values = {"default": 0}

        async def once() -> None:
            name = dice.choice(names) if names else "default"
            session = live.get(name)
            match dice.choice(["create", "branch", "run", "undo", "freeze", "delete", "promote"]):
                case "create" if len(names) < 40:
                    made = await live.create(SessionSpec(rewind=2))
                    await run(live, made, "n = 0")
                    names.append(made.id)
                    values[made.id] = 0
                case "branch" if len(names) < 40:
                    (branch,) = (await live.branching.create(session, SessionSpec())).branches
                    names.append(branch.session.id)
                    values[branch.session.id] = values[name]
                case "run":
                    await run(live, session, "n += 1")
                    values[name] += 1
                case "undo" if name != "default":
                    ran = await run(live, session, "n += 100")
                    await rewind_if_kept(live, session, ran)
                    failed = await tried(live, session, "n = None; 1/0")
                    assert failed.undone is Undone.ROLLBACK, failed.note
                case "freeze":
                    kept = await live.checkpoints.create(session, live=True)
                    await run(live, session, "n = -1")
                    await live.checkpoints.restore(kept.id, session)
                case "delete" if names and dice.random() < 0.5:
                    names.remove(name)
                    await live.delete(name)
                case "promote" if len(names) > 1:
                    other = dice.choice([one for one in names if one != name])
                    await promote(live.checkpoints, live.get(other), session, None)
                    values[name] = values[other]
                case _:
                    pass
            if name in names:
                assert await value(live, session, "n") == str(values[name])

        async def clear() -> None:
            for name in names:
                await live.delete(name)
            names.clear()
            for kept in await live.checkpoints.list():
                await live.checkpoints.delete(kept.id)
            await asyncio.gather(*live.checkpoints.unfinished)

        for _ in range(20):
            await once()
        await clear()
        fds, children = process.num_fds(), len(process.children(recursive=True))
        folders = len(list(live.sessions_dir.iterdir()))
        for _ in range(280):
            await once()
        await clear()
        await until(lambda: len(process.children(recursive=True)) <= children, "no process is left")
        await until(lambda: process.num_fds() <= fds + 2, "no descriptor is left")
        await until(lambda: len(list(live.sessions_dir.iterdir())) <= folders, "no folder is left")
        assert await value(live, first, "n") == str(values["default"])


async def rewind_if_kept(live: Sessions, session: Session, execution: Execution) -> None:
    """Undo an execution by a rewind, or by hand in a session that keeps nothing."""
    if session.record.rewind:
        await rewind(live, session, execution)
    else:
        await run(live, session, "n -= 100")
