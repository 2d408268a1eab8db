"""Rewinds and rollbacks: a session as it was before an execution, and what is said of that."""

import ast
import asyncio
from dataclasses import replace

import pytest

from kernelry import Config, Execution, ExecutionStatus, Session, Sessions, SessionSpec
from kernelry.errors import CheckpointNotFoundError
from kernelry.history import Search
from kernelry.models import CheckpointReason, OnError, Undone
from tests.faults.kernels import HANG, printed, run, started, until, value

STATE = "import sys\nitems = [1, 2]; alias = items\ngen = iter(range(9)); next(gen)\nn = 0"
SAME = "(items, alias is items, n, 'made' in globals())"


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
        "ignores interrupts": (
            "items.clear(); made = 1\nimport ctypes\nctypes.PyDLL(None).sleep(100)",
            ExecutionStatus.TIMED_OUT,
        ),
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
    failed = await tried(live, session, code, timeout=2 if "100" in code or "while" in code else 60)
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
    assert not [one for one in await live.checkpoints.list() if one.is_live]


async def test_an_interrupted_one_is_rolled_back_and_the_queue_goes_on(live: Sessions) -> None:
    session = await live.create(SessionSpec(id="a"))
    await printed(live, session, STATE)
    running = await live.run(
        session, "items.clear(); print(1)\nwhile True: pass", on_error=OnError.ROLLBACK
    )
    await until(lambda: bool(running.fold.outputs), "it runs")
    behind = await live.run(session, "items.append(7); print(items)")
    await session.interrupt(running)
    assert await behind.wait(HANG)
    assert behind.snapshot().outputs[0].text == "[1, 2, 7]\n"  # type: ignore[union-attr]


async def test_force_rolls_back_too(live: Sessions) -> None:
    session = await live.create(SessionSpec(id="a"))
    await printed(live, session, STATE)
    code = "items.clear(); import ctypes; print(1, flush=True)\nctypes.PyDLL(None).sleep(100)"
    running = await live.run(session, code, on_error=OnError.ROLLBACK)
    await until(lambda: bool(running.fold.outputs), "it runs")
    await session.interrupt(running, force=True)
    assert running.snapshot().undone is Undone.ROLLBACK
    assert await value(live, session, SAME) == "([1, 2], True, 0, False)"


async def test_a_restart_is_a_restart(live: Sessions) -> None:
    session = await live.create(SessionSpec(id="a"))
    await printed(live, session, STATE)
    running = await live.run(session, "print(1)\nwhile True: pass", on_error=OnError.ROLLBACK)
    await until(lambda: bool(running.fold.outputs), "it runs")
    await session.restart()
    assert running.snapshot().undone is Undone.NO
    assert "Not rolled back: its kernel was restarted" in running.snapshot().note
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
