"""What walls cost, and what a neighbour feels of a session that meets its memory limit."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from figures import Comparison, Figure, timed
from measures import HANG, MS, first_result, run, service

from kernelry import Isolation, Limits, Session, Sessions, SessionSpec

LEVELS = (Isolation.PROCESS, Isolation.GUARD, Isolation.BOX)
ALLOWED = 10.0  # ms that guard may add to the start of a session
GIGABYTE = 10**9
#: what a cell does with memory under a limit of 1 GB; reference/security-and-faults.md 3.4
HUNGRY = (
    "x = bytearray(4 << 30)",
    "import numpy\nx = numpy.ones(1 << 29)",
    "x = []\nwhile True: x.append(bytes(100_000))",
    "import mmap\nm = mmap.mmap(-1, 4 << 30)\nfor i in range(0, 4 << 30, 4096): m[i] = 1",
    "import multiprocessing as mp\ndef f(n): return len(bytearray(n))\n"
    "with mp.get_context('fork').Pool(1) as pool: pool.map(f, [4 << 30])",
    "import multiprocessing as mp, time\ndef f(n):\n    x = bytearray(b'1') * n\n"
    "    time.sleep(60)\n"
    "with mp.get_context('fork').Pool(4) as pool: pool.map(f, [700 << 20] * 4)",
    "f = open('/dev/shm/kernelry-bench', 'wb')\n"
    "for i in range(3000): f.write(b'x' * (1 << 20))\nimport time; time.sleep(60)",
)


async def cost_of_levels(rounds: int, cells: int) -> list[Comparison]:
    """A session's start and a round trip at each level, in turn."""
    starts = {level: Figure(f"start at {level}", "ms") for level in LEVELS}
    trips = {level: Figure(f"1+1 at {level}", "ms") for level in LEVELS}
    async with AsyncExitStack() as stack:
        services = {
            level: await stack.enter_async_context(
                service(preloads=(), warm=0, isolation=level.value)
            )
            for level in LEVELS
        }
        spawning = await stack.enter_async_context(
            service(preloads=(), warm=0, kernel_start="spawn", isolation="process")
        )
        spawned = Figure("start of a spawned kernel at process", "ms")
        sides = [*((services[level], starts[level]) for level in LEVELS), (spawning, spawned)]
        for _ in range(rounds):
            for sessions, figure in sides:
                started = asyncio.get_running_loop().time()
                session = await first_result(sessions)
                figure.samples.append((asyncio.get_running_loop().time() - started) * MS)
                await sessions.delete(session.id)
        alive = {level: await first_result(services[level]) for level in LEVELS}
        for _ in range(cells):
            for level in LEVELS:
                work = run(services[level], alive[level], "1+1")
                trips[level].samples.append(await timed(work) * MS)
    added = Figure("guard adds to a start", "ms")
    pairs = zip(starts[Isolation.GUARD].samples, starts[Isolation.PROCESS].samples, strict=True)
    added.samples = [guard - process for guard, process in pairs]
    allowed = Figure("allowed", "ms", [ALLOWED])
    guard, process, box = Isolation.GUARD, Isolation.PROCESS, Isolation.BOX
    free = float("inf")
    return [
        Comparison("start at guard, beyond process", added, allowed, "<= 10 ms", 1.0),
        Comparison("start at guard", starts[guard], starts[process], "none", free),
        Comparison("start in a box, against spawned", starts[box], spawned, "none", free),
        Comparison("1+1 at guard", trips[guard], trips[process], "none measurable", 1.1),
        Comparison("1+1 in a box", trips[box], trips[process], "none", free),
    ]


async def neighbour_of_hungry(cells: int) -> list[Comparison]:
    """``1+1`` beside sessions that want 4 GB under a limit of 1 GB, and beside none."""
    quiet, beside = Figure("p99 of 1+1, quiet", "ms"), Figure("p99 of 1+1, beside hungry", "ms")
    async with service(preloads=(), warm=0, limits=Limits(memory=GIGABYTE)) as sessions:
        neighbour = await first_result(sessions)
        quiet.samples = [p99([await one(sessions, neighbour) for _ in range(cells)])]
        taken: list[float] = []
        for code in HUNGRY:
            hungry = await sessions.create(SessionSpec())
            execution = await sessions.run(hungry, code)
            while not execution.done.is_set():
                taken.append(await one(sessions, neighbour))
            assert await execution.wait(HANG)
            await sessions.delete(hungry.id)
        beside.samples = [p99(taken)]
    return [Comparison("p99 of a neighbour of hungry sessions", beside, quiet, "<= 3x", 3.0)]


async def one(sessions: Sessions, session: Session) -> float:
    """Return the milliseconds of one ``1+1``."""
    return await timed(run(sessions, session, "1+1")) * MS


def p99(samples: list[float]) -> float:
    """Return the 99th of each 100 samples."""
    return sorted(samples)[int(len(samples) * 0.99)]
