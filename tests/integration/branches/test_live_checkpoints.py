"""Live checkpoints: everything as it was, any number of times; bounded; told when they are gone."""

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from kernelry import Config, ExecutionStatus, Session, Sessions, SessionSpec
from kernelry.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    ConflictError,
    KernelDeadError,
    LimitExceededError,
)
from kernelry.models import Checkpoint, Isolation
from kernelry.session.queueing import Turn
from tests.faults.kernels import pid_of, printed, run, until, value
from tests.integration.branches.test_branches import CHECKS, EVERYTHING


async def frozen(service: Sessions, session: Session, name: str = "") -> Checkpoint:
    """Make a live checkpoint."""
    return await service.checkpoints.create(session, name=name, live=True)


def process_of(checkpoint: Checkpoint) -> int:
    """Return the process that a live checkpoint is."""
    assert checkpoint.process is not None
    return checkpoint.process.pid


async def has_gone(checkpoint: Checkpoint) -> None:
    """Wait until the process of a live checkpoint has ended, and its origin has waited for it."""
    pid = process_of(checkpoint)
    await until(lambda: not psutil.pid_exists(pid), "its process is gone")


LEVELS = ("process", "guard", "box")


@pytest.fixture
def session(origin: Session) -> Session:
    return origin


async def test_everything_is_as_it_was_any_number_of_times(
    live: Sessions, session: Session
) -> None:
    await printed(live, session, EVERYTHING)
    kept = await frozen(live, session)
    assert kept.is_live
    for _ in range(5):
        await printed(live, session, "shared.append(3); next(it); counter.add(); later = 1")
        done = await live.checkpoints.restore(kept.id, session)
        assert done.checkpoint.id == kept.id
        for expression, expected in CHECKS.items():
            assert await value(live, session, expression) == expected, expression
        assert await value(live, session, "'later' in globals()") == "False"


async def test_what_was_asked_for_later_runs_on_what_was_brought_back(
    live: Sessions, session: Session
) -> None:
    await printed(live, session, "import time; n = 1")
    kept = await frozen(live, session)
    await printed(live, session, "n = 2")
    before = await live.run(session, "time.sleep(0.5); n += 10; print(n)")
    restoring = asyncio.create_task(live.checkpoints.restore(kept.id, session))
    waiting = session._executions._queue
    await until(lambda: any(isinstance(one, Turn) for one in waiting), "it waits for its turn")
    after = [await live.run(session, f"n += {add}; print(n)") for add in (100, 1000)]
    await restoring
    for one in (before, *after):
        assert await one.wait(60)
    texts = [one.snapshot().outputs[0].text for one in (before, *after)]  # type: ignore[union-attr]
    assert texts == ["12\n", "101\n", "1101\n"]


async def test_a_dead_kernel_comes_back_as_it_was(live: Sessions, session: Session) -> None:
    await printed(live, session, "it = iter([1, 2, 3]); next(it)")
    kept = await frozen(live, session)
    for end in ("import os; os.abort()", "import os; os._exit(3)"):
        assert (await run(live, session, end)).status is ExecutionStatus.DIED
        with pytest.raises(KernelDeadError):
            await live.run(session, "1")
        await live.checkpoints.restore(kept.id, session)
        assert await value(live, session, "next(it)") == "2"


async def test_another_session_gets_everything_too(live: Sessions, session: Session) -> None:
    await printed(live, session, EVERYTHING)
    kept = await frozen(live, session)
    other = await live.create(SessionSpec(id="b"))
    await printed(live, other, "mine = 1")
    if live.walls.isolation is not Isolation.PROCESS:
        with pytest.raises(CheckpointError, match=r"nothing was\. Restore it into 'a'"):
            await live.checkpoints.restore(kept.id, other)
        assert await value(live, other, "mine") == "1"
        return
    await live.checkpoints.restore(kept.id, other)
    assert await value(live, other, "next(it)") == "1"
    assert await value(live, session, "next(it)") == "1"
    found = await value(live, other, "(kernelry_session.session_id, 'mine' in globals())")
    assert found == "('b', False)"
    limits = replace(live.walls.limits, open_files=500)
    narrow = await live.create(SessionSpec(id="c", limits={"open_files": 500}))
    assert narrow.walls.limits == limits
    with pytest.raises(CheckpointError, match="another walls or limits"):
        await live.checkpoints.restore(kept.id, narrow)
    assert await value(live, narrow, "1") == "1"


async def test_branches_and_checkpoints_of_what_was_restored(
    live: Sessions, session: Session
) -> None:
    await printed(live, session, "n = 1")
    first = await frozen(live, session)
    await printed(live, session, "n = 2")
    await live.checkpoints.restore(first.id, session)
    await printed(live, session, "n += 10")
    second = await frozen(live, session)
    (made,) = (await live.branching.create(session, SessionSpec(id="t"))).branches
    assert made.is_live, made.why
    assert await value(live, made.session, "n") == "11"
    await live.checkpoints.restore(first.id, session)
    assert await value(live, session, "n") == "1"
    await live.checkpoints.restore(second.id, session)
    assert await value(live, session, "n") == "11"


async def test_a_checkpoint_goes_with_its_session(live: Sessions, session: Session) -> None:
    await printed(live, session, "1")
    kept = await frozen(live, session)
    other = await live.create(SessionSpec(id="b"))
    if live.walls.isolation is Isolation.PROCESS:
        await live.checkpoints.restore(kept.id, other)
    await live.delete("a")
    await has_gone(kept)
    assert await value(live, other, "1 + 1") == "2"


async def test_one_whose_process_was_killed_is_gone_and_harms_nobody(
    live: Sessions, session: Session
) -> None:
    await printed(live, session, "n = 1")
    kept = await frozen(live, session, "before")
    await live.checkpoints.restore(kept.id, session)  # this kernel is a child of it
    os.kill(process_of(kept), signal.SIGKILL)
    await until(lambda: kept.id not in live.checkpoints.live, "its end is noted")
    with pytest.raises(CheckpointNotFoundError, match=r"is gone: its process ended \(killed by"):
        await live.checkpoints.restore(kept.id, session)
    assert await value(live, session, "n") == "1"
    found = await live.checkpoints.list()
    assert kept.id not in {one.id for one in found}


async def test_the_oldest_goes_when_there_are_too_many(config: Config) -> None:
    settings = replace(config, isolation="process", live_checkpoints=2)
    async with Sessions(settings) as live:
        session = await live.create(SessionSpec(id="a"))
        kept = [await frozen(live, session) for _ in range(3)]
        assert [one.id for one in await live.checkpoints.list()] == [kept[2].id, kept[1].id]
        await has_gone(kept[0])
        with pytest.raises(CheckpointNotFoundError, match="the oldest of more than 2 went"):
            await live.checkpoints.restore(kept[0].id, session)
        named = await frozen(live, session, "loaded")
        for _ in range(2):
            await frozen(live, session)
        assert named.id not in live.checkpoints.live
        with pytest.raises(CheckpointNotFoundError, match="the oldest of more than 2 went"):
            await live.checkpoints.restore("loaded", session)


async def test_the_oldest_goes_when_they_have_too_much_memory(config: Config) -> None:
    settings = replace(config, isolation="process", live_memory=40 << 20)
    async with Sessions(settings) as live:
        session = await live.create(SessionSpec(id="a"))
        await printed(live, session, "data = bytearray(b'x' * (150 << 20))")
        old, new = await frozen(live, session), await frozen(live, session)
        assert len(await live.checkpoints.list()) == 2  # what is shared costs nothing
        await printed(live, session, "data[:] = b'y' * len(data)")
        await until(lambda: old.id not in live.checkpoints.live, "it has gone")
        await until(lambda: new.id not in live.checkpoints.live, "so has what shared it")
        with pytest.raises(CheckpointNotFoundError, match="all together had over"):
            await live.checkpoints.get(old.id)


async def test_linux_ends_them_first_and_not_what_comes_of_them(
    live: Sessions, session: Session
) -> None:
    def score(pid: int) -> str:
        return Path(f"/proc/{pid}/oom_score_adj").read_text().strip()

    before = score(pid_of(session))
    kept = await frozen(live, session)
    assert score(process_of(kept)) == "1000"
    await live.checkpoints.restore(kept.id, session)
    assert score(pid_of(session)) == before


async def test_all_go_when_little_memory_is_left(
    live: Sessions, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = [await frozen(live, session) for _ in range(2)]
    monkeypatch.setattr("kernelry.checkpoints.live.PRESSURE", 2.0)
    await until(lambda: live.checkpoints.live.is_empty, "they have gone")
    for one in kept:
        with pytest.raises(CheckpointNotFoundError, match="of memory were left"):
            await live.checkpoints.restore(one.id, session)
    with pytest.raises(CheckpointError, match="of memory were left"):
        await frozen(live, session)


async def test_all_go_before_branches_are_refused(
    live: Sessions, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = await frozen(live, session)
    monkeypatch.setattr("kernelry.lives.branching.OWN_BYTES", 1 << 60)
    with pytest.raises(LimitExceededError):
        await live.branching.create(session, SessionSpec())
    with pytest.raises(CheckpointNotFoundError, match="branches needed the memory"):
        await live.checkpoints.get(kept.id)


async def test_what_copies_keep_is_not_held_against_their_session(live: Sessions) -> None:
    session = await live.create(SessionSpec(id="m", limits={"memory": 300 << 20}))
    touch = "data[::4096] = b'%d' * (len(data) // 4096)"
    await printed(live, session, f"data = bytearray(150 << 20); {touch % 0}")
    for number in range(1, 5):  # in a control group the pages of each stay counted
        await frozen(live, session)
        await printed(live, session, touch % number)
    assert await value(live, session, "len(data)") == str(150 << 20)


async def test_none_is_made_where_a_copy_would_hang_or_may_not_be(config: Config) -> None:
    async with Sessions(replace(config, isolation="process")) as live:
        session = await live.create(SessionSpec(id="a"))
        await printed(
            live,
            session,
            "from concurrent.futures import ThreadPoolExecutor\n"
            "pool = ThreadPoolExecutor(1); pool.submit(int).result()",
        )
        with pytest.raises(CheckpointError, match="a pool of threads"):
            await frozen(live, session)
        assert not await live.checkpoints.list()
        assert await value(live, session, "pool.submit(int).result()") == "0"
    async with Sessions(replace(config, isolation="process", live_checkpoints=0)) as live:
        with pytest.raises(CheckpointError, match="live_checkpoints is 0"):
            await frozen(live, await live.create(SessionSpec(id="b")))


async def test_files_are_open_where_they_were(live: Sessions, session: Session) -> None:
    (live.workspace.root / "long.txt").write_text("0123456789" * 5000)
    await printed(live, session, "f = open('long.txt'); _ = f.read(8)")
    kept = await frozen(live, session)
    assert not any("position" in line for line in kept.named)
    for _ in range(2):
        assert await value(live, session, "(f.tell(), len(f.read()))") == "(8, 49992)"
        await live.checkpoints.restore(kept.id, session)
    if live.walls.isolation is Isolation.PROCESS:
        other = await live.create(SessionSpec(id="b"))
        await live.checkpoints.restore(kept.id, other)
        assert await value(live, other, "f.read(2)") == "'89'"
    assert await value(live, session, "f.read(2)") == "'89'"


async def test_pipes_to_programs_are_named(live: Sessions, session: Session) -> None:
    code = "import subprocess; p = subprocess.Popen(['cat'], stdin=subprocess.PIPE)"
    await printed(live, session, code)
    kept = await frozen(live, session)
    assert any("ends of pipes" in line for line in kept.named)


async def test_whoever_is_cancelled_leaves_the_session_as_it_was_or_is_to_be(
    live: Sessions, session: Session
) -> None:
    await printed(live, session, "n = 1")
    kept = await frozen(live, session)
    for turns in (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144):
        await printed(live, session, "n = 2")
        restoring = asyncio.create_task(live.checkpoints.restore(kept.id, session))
        for _ in range(turns):
            await asyncio.sleep(0)
        restoring.cancel()
        await asyncio.wait([restoring])
        assert await value(live, session, "n") in ("1", "2")


async def test_whoever_is_cancelled_makes_one_that_is_there_or_none(
    live: Sessions, session: Session
) -> None:
    await printed(live, session, "n = 1")
    for turns in (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233):
        making = asyncio.create_task(frozen(live, session))
        for _ in range(turns):
            await asyncio.sleep(0)
        making.cancel()
        await asyncio.wait([making])
    await asyncio.gather(*live.checkpoints.unfinished)
    for one in await live.checkpoints.list():
        assert one.id in live.checkpoints.live
        await live.checkpoints.restore(one.id, session)
    assert await value(live, session, "n") == "1"


async def test_a_session_that_is_deleted_meanwhile_stays_deleted(
    live: Sessions, session: Session
) -> None:
    await printed(live, session, "n = 1")
    kept = await frozen(live, session)
    other = await live.create(SessionSpec(id="b"))
    await live.run(other, "import time; time.sleep(600)")
    restoring = asyncio.create_task(live.checkpoints.restore(kept.id, other))
    waiting = other._executions._queue
    await until(lambda: any(isinstance(one, Turn) for one in waiting), "it waits for its turn")
    await live.delete("b")
    with pytest.raises((ConflictError, CheckpointError), match=r"was deleted|can.t become"):
        await restoring
    assert {record.id for record in await live._store.sessions()} == {"default", "a"}


async def test_start_up_code_has_run_in_what_is_frozen(live: Sessions) -> None:
    session = await live.create(SessionSpec(id="s", startup="ready = 1"))
    await session.restart()
    kept = await frozen(live, session)
    await live.checkpoints.restore(kept.id, session)
    assert await value(live, session, "ready") == "1"


async def test_nothing_is_left_of_them(config: Config, tmp_path: Path) -> None:
    me = psutil.Process()
    before = {child.pid for child in me.children(recursive=True)}
    async with Sessions(replace(config, isolation="process")) as live:
        session = await live.create(SessionSpec(id="a"))
        kept = await frozen(live, session)
        await live.checkpoints.restore(kept.id, session)
        gone = pid_of(session)
        assert await value(live, session, "1") == "1"
        await live.checkpoints.restore(kept.id, session)
        stat = Path(f"/proc/{gone}")
        await until(lambda: not stat.exists(), "the frozen copy has waited for its children")
    assert {child.pid for child in me.children(recursive=True)} <= before
    assert not psutil.pid_exists(process_of(kept))


async def test_the_same_random_numbers_are_drawn_again(live: Sessions, session: Session) -> None:
    await printed(live, session, "import random, numpy; random.seed(1); numpy.random.seed(1)")
    kept = await frozen(live, session)
    draw = "(random.random(), float(numpy.random.random()))"
    drawn = [await value(live, session, draw)]
    for _ in range(2):
        await live.checkpoints.restore(kept.id, session)
        drawn.append(await value(live, session, draw))
    assert len(set(drawn)) == 1
