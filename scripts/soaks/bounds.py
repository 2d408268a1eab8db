"""What the soaks share: a service of their own, and bounds that are printed and checked."""

from __future__ import annotations

import asyncio
import gc
import os
import tempfile
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from kernelry import Config, Execution, Session, Sessions

HANG = 60.0  # seconds after which a cell counts as stuck
MEBIBYTE = 1 << 20


class BrokenBoundError(AssertionError):
    """Something that was measured is not what it must be."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is done."""

    #: a tenth of it
    quick: bool = False
    #: what chaos and fuzzer throw their dice with
    seed: int = 4
    #: how long each of them lasts
    seconds: float = 600.0

    def of(self, count: int) -> int:
        """Return a count at this scale."""
        return max(count // 10, 1) if self.quick else count


def check(holds: bool, text: str) -> None:
    """Print what was measured, and go on only if it holds."""
    print(f"   {'ok' if holds else 'NOT'}  {text}", flush=True)
    if not holds:
        raise BrokenBoundError(text)


@asynccontextmanager
async def service(**config: Any) -> AsyncIterator[Sessions]:
    """The library in a scratch directory, its fork server up and its pool filled."""
    with tempfile.TemporaryDirectory(prefix="kernelry-soak-") as scratch:
        given = Config(
            state_dir=Path(scratch) / "s",
            state_dir_named=True,
            workspace=Path(scratch) / "w",
            max_sessions=1000,
            preloads=(),
            **config,
        )
        async with Sessions(given) as sessions:
            await sessions.wait_until_warm()
            yield sessions


async def run(sessions: Sessions, session: Session, code: str) -> Execution:
    """Run a cell to its end."""
    running = await sessions.run(session, code)
    if not await running.wait(HANG):
        raise BrokenBoundError(f"a cell does not end: {code[:80]}")
    return running.snapshot()


def text_of(execution: Execution) -> str:
    """Return all that an execution showed."""
    return "".join(getattr(output, "text", "") for output in execution.outputs)


def memory(pid: int = 0) -> int:
    """Return the bytes that a process holds; ours after a collection."""
    if not pid:
        gc.collect()
    return int(psutil.Process(pid or os.getpid()).memory_info().rss)


def kernel_of(session: Session) -> int:
    """Return the process of a session's kernel."""
    assert session.kernel is not None
    return session.kernel.process.pid


def held(sessions: Sessions) -> dict[str, int]:
    """Return what a server must give back: descriptors, threads, processes, directories."""
    return {
        "descriptors": sum(1 for _ in Path("/proc/self/fd").iterdir()),
        "threads": threading.active_count(),
        "processes": len(psutil.Process().children(recursive=True)),
        "directories": sum(1 for _ in (sessions.state_dir / "sessions").iterdir()),
    }


async def settled(sessions: Sessions) -> dict[str, int]:
    """Return what is held once it stays the same."""
    last: dict[str, int] = {}
    same = 0
    while same < 10:
        await asyncio.sleep(0.1)
        found = held(sessions)
        same = same + 1 if found == last else 0
        last = found
    return last


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the slope of the line that fits best."""
    n = len(points)
    mean_x = sum(x for x, _ in points) / n
    mean_y = sum(y for _, y in points) / n
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
