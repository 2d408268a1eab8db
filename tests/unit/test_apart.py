"""Work whose size a session decides: in a share of threads, and nobody else waits for it."""

import asyncio
import threading

import pytest

from kernelry import bounds
from kernelry.apart import Apart
from kernelry.errors import SessionBusyError

HANG = 60.0


async def test_work_that_never_ends_holds_up_its_own_session_only() -> None:
    apart, end = Apart(), threading.Event()
    stuck = [asyncio.ensure_future(apart.run("a", end.wait, HANG)) for _ in range(6)]
    try:
        assert await apart.run("b", lambda: 42) == 42
        with pytest.raises(SessionBusyError, match="'a'"):
            await apart.run("a", lambda: 42, seconds=0.01)
        working = [thread for thread in threading.enumerate() if thread.name == "work of a"]
        assert len(working) == bounds.WORKERS
        assert all(thread.daemon for thread in working)
    finally:
        end.set()
    assert await asyncio.gather(*stuck) == [True] * 6
    assert await apart.run("a", lambda: 42) == 42


async def test_a_caller_that_gives_up_while_it_waits_leaves_its_turn_to_the_next() -> None:
    apart, end = Apart(most=1), threading.Event()
    first = asyncio.ensure_future(apart.run("a", end.wait, HANG))
    await asyncio.sleep(0)
    second = asyncio.ensure_future(apart.run("a", lambda: 2))
    third = asyncio.ensure_future(apart.run("a", lambda: 3))
    await asyncio.sleep(0)
    second.cancel()
    end.set()
    assert await first
    assert await third == 3
    assert second.cancelled() or second.done()


async def test_a_long_line_that_moves_is_no_fault() -> None:
    apart = Apart()
    count = 3 * bounds.WORK_WAITING
    doing = [apart.run("a", lambda number=number: number) for number in range(count)]
    assert await asyncio.gather(*doing) == list(range(count))


async def test_much_that_waits_while_nothing_gets_done_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bounds, "WORK_STILL", 0)
    apart, end = Apart(most=1), threading.Event()
    count = bounds.WORK_WAITING + 1
    waiting = [asyncio.ensure_future(apart.run("a", end.wait, HANG)) for _ in range(count)]
    await asyncio.sleep(0)
    try:
        with pytest.raises(SessionBusyError, match="too much waits"):
            await apart.run("a", lambda: 1)
    finally:
        end.set()
    assert all(await asyncio.gather(*waiting))


async def test_what_work_raises_its_caller_gets() -> None:
    def fail() -> None:
        raise KeyError("a")

    with pytest.raises(KeyError):
        await Apart().run("a", fail)
