"""What every fault is checked against: the neighbours, and what is left behind."""

import asyncio
import gc
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator

import psutil
import pytest

from kernelry import Session, Sessions, SessionSpec
from tests.acceptance.conftest import agent, deadline, place, served, shared_agent  # noqa: F401  # fixtures

HANG = 60.0  # seconds after which a neighbour's cell is stuck, or what has gone is not gone


class Bystander:
    """A session that computes `1+1` again and again while something else is broken."""

    def __init__(self, session: Session, sessions: Sessions) -> None:
        self.session = session
        #: seconds each cell took, from the call to its outcome
        self.latencies: list[float] = []
        self._sessions = sessions

    async def look(self) -> None:
        """Run one cell and check it."""
        started = time.perf_counter()
        run = await self._sessions.run(self.session, "1+1")
        assert await run.wait(HANG), "a neighbour's cell does not end"
        done = run.snapshot()
        assert done.status == "completed", done
        assert [getattr(output, "text", "") for output in done.outputs] == ["2"], done
        self.latencies.append(time.perf_counter() - started)

    async def watch(self) -> None:
        """Run cells until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(0.02)


@pytest.fixture
async def bystander(sessions: Sessions) -> AsyncIterator[Bystander]:
    """A neighbour in the service under test, who must not notice anything."""
    neighbour = Bystander(await sessions.create(SessionSpec(id="bystander")), sessions)
    watching = asyncio.create_task(neighbour.watch())
    yield neighbour
    watching.cancel()
    await asyncio.wait([watching])
    if not watching.cancelled():
        watching.result()
    await neighbour.look()


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Descriptors, threads and child processes of ours are the same when a test is over.

    The pool of an event loop grows to its bound, but it ends with its loop, and so with its test.
    """
    before = _held()
    yield
    end = time.monotonic() + HANG
    while (left := {k: v - before[k] for k, v in _held().items() if v > before[k]}) and (
        time.monotonic() < end
    ):
        gc.collect()
        time.sleep(0.05)
    assert not left, left


def _held() -> dict[str, int]:
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "children": len(psutil.Process().children(recursive=True)),
    }
