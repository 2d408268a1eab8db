"""Many sessions, many cells, much output."""

from __future__ import annotations

import asyncio
import statistics
import time

from bounds import MEBIBYTE, Scale, check, kernel_of, memory, run, service, settled, slope, text_of

from kernelry import ExecutionStatus, Session, SessionSpec
from tests.faults.matrix import fault

SESSIONS = 10
RATE = 250.0  # executions per second, on two cores
GROWTH = 1024.0  # bytes a server may grow by with each execution, after it has settled
KERNEL_GROWTH = 4096.0  # bytes a kernel may grow by: it keeps the source of each of its cells
WARM_UP = 2000  # executions in which caches fill


@fault("E1")
async def many_sessions(scale: Scale) -> None:
    """200 sessions at once, a cell each at once, all deleted at once."""
    count = scale.of(200)
    async with service() as sessions:
        # The event loop's own threads come first.
        await asyncio.gather(*(asyncio.to_thread(time.sleep, 0.05) for _ in range(64)))
        before = await settled(sessions)
        began = time.monotonic()
        made = await asyncio.gather(
            *(sessions.create(SessionSpec(id=f"s{number}")) for number in range(count))
        )
        up = time.monotonic()
        cells = await asyncio.gather(
            *(run(sessions, each, "import os; os.getpid()") for each in made)
        )
        ran = time.monotonic()
        await asyncio.gather(*(sessions.delete(each.id) for each in made))
        down = time.monotonic()
        print(f"   up {up - began:.1f} s, a cell each {ran - up:.1f} s, down {down - ran:.1f} s")
        check(len({text_of(cell) for cell in cells}) == count, f"{count} kernels of their own")
        after = await settled(sessions)
        check(after == before, f"held before {before}, after {after}")


@fault("E2")
async def many_cells(scale: Scale) -> None:
    """10,000 cells in 10 sessions, each right; rate and growth."""
    each = scale.of(10_000) // SESSIONS
    async with service() as sessions:
        made = [await sessions.create(SessionSpec(id=f"s{number}")) for number in range(SESSIONS)]
        done = 0
        ours: list[tuple[float, float]] = []
        theirs: dict[str, list[tuple[float, float]]] = {session.id: [] for session in made}

        async def work(session: Session) -> None:
            nonlocal done
            for number in range(each):
                if number % 2:
                    cell, expected = f"print('{session.id}', {number})", f"{session.id} {number}\n"
                else:
                    cell, expected = f"x = {number}\nx * 2", str(number * 2)
                found = await run(sessions, session, cell)
                if found.status is not ExecutionStatus.COMPLETED or text_of(found) != expected:
                    check(False, f"cell {number} of {session.id}: {found}")
                done += 1
                if done % 250 == 0:
                    ours.append((done, memory()))
                if number % 50 == 0:
                    theirs[session.id].append((number, memory(kernel_of(session))))

        began = time.monotonic()
        await asyncio.gather(*(work(session) for session in made))
        rate = done / (time.monotonic() - began)
        bound = RATE / 5 if scale.quick else RATE  # too few to tell a rate from a busy moment
        check(rate >= bound, f"{done} executions, all right, {rate:.0f} per second")
        settled_at = min(WARM_UP, done // 2)
        growth = slope([point for point in ours if point[0] >= settled_at])
        bound = GROWTH * 10 if scale.quick else GROWTH  # too few to tell a slope from noise
        check(growth < bound, f"the server grows by {growth:.0f} bytes per execution")
        worst = max(slope(points[len(points) // 5 :]) for points in theirs.values())
        bound = KERNEL_GROWTH * 10 if scale.quick else KERNEL_GROWTH
        check(worst < bound, f"a kernel grows by at most {worst:.0f} bytes per execution")


@fault("E5")
async def much_output(scale: Scale) -> None:
    """1,000 cells that print 1 MB each."""
    count = scale.of(1000)
    async with service() as sessions:
        session = await sessions.create(SessionSpec(id="s"))
        for _ in range(10):
            await run(sessions, session, "print('x' * 1_000_000)")
        pid = kernel_of(session)
        before, kernel_before = memory(), memory(pid)
        began = time.monotonic()
        for number in range(count):
            found = await run(sessions, session, "print('x' * 1_000_000)")
            check_quietly(
                found.status is ExecutionStatus.COMPLETED, f"cell {number}: {found.error}"
            )
        took = time.monotonic() - began
        ours, theirs = memory() - before, memory(pid) - kernel_before
        spilled = sum(path.stat().st_size for path in session.spill_dir.glob("*"))
        database = (sessions.state_dir / "kernelry.sqlite").stat().st_size
        print(f"   {count} cells in {took:.1f} s, database {database >> 20} MiB")
        check(ours < 20 * MEBIBYTE, f"the server grew by {ours / MEBIBYTE:.1f} MiB")
        check(theirs < 50 * MEBIBYTE, f"the kernel grew by {theirs / MEBIBYTE:.1f} MiB")
        check(
            spilled <= 600 * MEBIBYTE, f"{spilled / MEBIBYTE:.0f} MiB of spilled output on the disk"
        )


@fault("E7")
async def idle_neighbours(scale: Scale) -> None:
    """How long 1+1 takes with 1, 50 and 200 idle sessions beside it."""
    async with service() as sessions:
        session = await sessions.create(SessionSpec(id="s"))
        medians = []
        there = 0
        for count in (1, 50, 200):
            wanted = scale.of(count)
            while there < wanted:
                await sessions.create(SessionSpec(id=f"idle{there}"))
                there += 1
            await sessions.wait_until_warm()
            times = []
            for _ in range(scale.of(1000)):
                began = time.perf_counter()
                await run(sessions, session, "1+1")
                times.append((time.perf_counter() - began) * 1000)
            medians.append(statistics.median(times))
            slowest = sorted(times)[int(len(times) * 0.99)]
            print(f"   {wanted:3} idle: median {medians[-1]:.2f} ms, p99 {slowest:.2f} ms")
        check(
            medians[-1] < medians[0] * 1.3 + 1,
            f"{medians[-1] / medians[0]:.2f} times as long beside most as beside one",
        )


def check_quietly(holds: bool, text: str) -> None:
    """Check without a line for each success."""
    if not holds:
        check(holds, text)
