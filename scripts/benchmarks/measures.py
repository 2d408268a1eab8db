"""What is measured; each function fills figures, its sides in turn."""

from __future__ import annotations

import asyncio
import gc
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
from baselines import EMPTY_SERVER, NOOP_SERVER, StockKernel, kernelry_server, mcp_server, pss
from figures import Comparison, Figure, timed

from kernelry import Config, Session, Sessions, SessionSpec

MS = 1000.0
MIB = float(1 << 20)
HANG = 120.0  # seconds
BYTES_PER_SESSION = 20 << 20  # more than one costs


@asynccontextmanager
async def service(**config: Any) -> AsyncIterator[Sessions]:
    """The library with settings of its own, its fork server up and its pool filled."""
    with tempfile.TemporaryDirectory(prefix="kernelry-bench-") as scratch:
        given = Config(
            state_dir=Path(scratch) / "s",
            state_dir_named=True,
            workspace=Path(scratch) / "w",
            max_sessions=1000,
            **config,
        )
        async with Sessions(given) as sessions:
            await sessions.wait_until_warm()
            yield sessions


async def run(sessions: Sessions, session: Session, code: str) -> None:
    execution = await sessions.run(session, code)
    assert await execution.wait(HANG)


async def first_result(sessions: Sessions) -> Session:
    """Create a session and run its first cell."""
    session = await sessions.create(SessionSpec())
    await run(sessions, session, "1+1")
    return session


async def start_stock() -> StockKernel:
    kernel = StockKernel()
    await kernel.start()
    await kernel.run("1+1")
    return kernel


async def create_to_first_result(rounds: int) -> list[Comparison]:
    """Warm, one fork, spawned and stock, in turn."""
    warm = Figure("warm pool", "ms")
    warm_loaded = Figure("warm pool, numpy+pandas+pyplot in it", "ms")
    fork = Figure("one fork", "ms")
    spawned = Figure("spawned", "ms")
    stock = Figure("jupyter_client", "ms")
    async with (
        service(preloads=(), warm=1) as pooled,
        service(warm=1) as loaded,
        service(preloads=(), warm=0) as forking,
        service(kernel_start="spawn") as spawning,
    ):
        sides = ((pooled, warm), (loaded, warm_loaded), (forking, fork), (spawning, spawned))
        for _ in range(rounds):
            for sessions, figure in sides:
                await asyncio.sleep(0.4)  # the pool refills; nothing else runs
                started = time.perf_counter()
                session = await first_result(sessions)
                figure.samples.append((time.perf_counter() - started) * MS)
                await sessions.delete(session.id)
            await asyncio.sleep(0.4)
            started = time.perf_counter()
            kernel = await start_stock()
            stock.samples.append((time.perf_counter() - started) * MS)
            await kernel.stop()
    what = "create to first result"
    return [
        Comparison(f"{what}, warm", warm, stock, "<= 1/40", 1 / 40),
        Comparison(f"{what}, warm, preloaded", warm_loaded, stock, "<= 1/40", 1 / 40),
        Comparison(f"{what}, one fork", fork, stock, "<= 1/12", 1 / 12),
        Comparison(f"{what}, spawned", spawned, stock, "none", float("inf")),
    ]


async def creation_rate(count: int, rounds: int) -> list[Comparison]:
    """Many sessions asked for at once, each with its first result.

    The baseline is what a user of jupyter_client does, one kernel after the other; four at
    a time, which keeps two cores busy, is there to be seen too.
    """
    ours = Figure(f"{count} at once", "/s")
    stock = Figure("jupyter_client, one by one", "/s")
    stock_four = Figure("jupyter_client, 4 at a time", "/s")
    few = min(count, 20)
    for _ in range(rounds):
        async with service(preloads=()) as sessions:
            everyone = asyncio.gather(*(first_result(sessions) for _ in range(count)))
            ours.samples.append(count / await timed(everyone))
        for figure, width in ((stock, 1), (stock_four, 4)):
            started = time.perf_counter()
            kernels = await start_many(few, width)
            figure.samples.append(few / (time.perf_counter() - started))
            for kernel in kernels:
                await kernel.stop()
    what = f"create {count} at once"
    return [
        Comparison(what, ours, stock, ">= 15x (aim 20x)", 1 / 15, rate=True),
        Comparison(f"{what}, stock 4 at a time", ours, stock_four, "none", 1.0, rate=True),
    ]


async def start_many(count: int, width: int) -> list[StockKernel]:
    """Start stock kernels, `width` at a time."""
    gate = asyncio.Semaphore(width)

    async def one() -> StockKernel:
        async with gate:
            return await start_stock()

    return await asyncio.gather(*(one() for _ in range(count)))


Lines = dict[str, list[tuple[float, float]]]


async def memory(counts: list[int]) -> tuple[list[Comparison], list[Figure], Lines, Lines]:
    """PSS of what sessions add, and how long each takes to create, by sessions alive."""
    comparisons: list[Comparison] = []
    extra: list[Figure] = []
    lines: Lines = {"kernelry": [], "kernelry, preloaded": []}
    creation: Lines = {"kernelry": [], "kernelry, preloaded": []}
    me = psutil.Process()
    for name, preloads in (("kernelry", ()), ("kernelry, preloaded", None)):
        touch_memory(counts[-1] * BYTES_PER_SESSION)
        async with service(preloads=preloads, warm=0) as sessions:
            gc.collect()
            base, fds, threads = family_pss(me), me.num_fds(), me.num_threads()
            alive = 0
            took: list[float] = []
            for count in counts:
                while alive < count:
                    took.append(await timed(first_result(sessions)) * MS)
                    alive += 1
                creation[name].append((alive, statistics.median(took[-9:])))
                await asyncio.sleep(1)
                each = (family_pss(me) - base) / alive / MIB
                lines[name].append((alive, each))
                extra.append(Figure(f"{name}: memory per session, {alive} alive", "MiB", [each]))
            early, late = Figure(f"{name}: creations 2 to 10", "ms", took[1:10]), took[-9:]
            last = Figure(f"{name}: the last 9 of {alive}", "ms", late)
            what = f"creation with {alive} alive ({name})"
            comparisons.append(Comparison(what, last, early, "<= 1.5x", 1.5))
            extra.append(Figure(f"{name}: fds per session", "", [(me.num_fds() - fds) / alive]))
            extra.append(
                Figure(f"{name}: threads per session", "", [(me.num_threads() - threads) / alive])
            )
    stock = Figure("jupyter_client, kernels only", "MiB")
    kernels = [await start_stock() for _ in range(min(counts[-1], 20))]
    await asyncio.sleep(1)
    stock.samples = [pss(kernel.pid) / MIB for kernel in kernels]
    for kernel in kernels:
        await kernel.stop()
    lines["jupyter_client"] = [(count, stock.median) for count in counts]
    at = 50 if 50 in counts else counts[-1]
    for name in ("kernelry", "kernelry, preloaded"):
        ours = Figure(f"{name}, {at} alive", "MiB", [y for x, y in lines[name] if x == at])
        goal = Comparison(f"memory per idle session ({name})", ours, stock, "<= 1/2 (aim 1/3)", 0.5)
        comparisons.append(goal)
    return comparisons, extra, lines, creation


def touch_memory(size: int) -> None:
    """Use memory once and give it back.

    A virtual machine's host hands out pages that were never used ten times slower than a
    kernel of the guest copies them (measured: 25 ms instead of 2 ms of system time for the
    2,550 pages that a fork copies), which would be laid at the door of the later sessions.
    """
    block = bytearray(size)
    for offset in range(0, size, 4096):
        block[offset] = 1


def family_pss(me: psutil.Process) -> int:
    """Return the PSS of this process, its fork server and all kernels."""
    processes = [me, *me.children(recursive=True)]
    return sum(pss(process.pid) for process in processes)


async def round_trip(rounds: int, blocks: int = 6) -> list[Comparison]:
    """``1+1``: over stdio, in the library, stock, and a tool that does nothing."""
    ours = Figure("run_python_code over stdio", "ms")
    library = Figure("the library", "ms")
    stock = Figure("jupyter_client execute", "ms")
    noop = Figure("MCP no-op over the same stdio", "ms")
    kernel = await start_stock()
    with tempfile.TemporaryDirectory(prefix="kernelry-bench-") as scratch:
        async with (
            kernelry_server(Path(scratch), "--preload", "none") as client,
            mcp_server(NOOP_SERVER) as floor,
            service(preloads=()) as sessions,
        ):
            session = await sessions.create(SessionSpec())
            await client.call_tool("run_python_code", {"code": "1+1"})
            await floor.call_tool("noop", {"code": "1+1"})
            for _ in range(blocks):
                for _ in range(rounds // blocks):
                    for figure, work in (
                        (ours, client.call_tool("run_python_code", {"code": "1+1"})),
                        (stock, kernel.run("1+1")),
                        (noop, floor.call_tool("noop", {"code": "1+1"})),
                        (library, run(sessions, session, "1+1")),
                    ):
                        figure.samples.append(await timed(work) * MS)
    await kernel.stop()
    floor_sum = Figure(
        "jupyter_client + MCP no-op",
        "ms",
        [a + b for a, b in zip(stock.samples, noop.samples, strict=True)],
    )
    return [
        Comparison("round trip of 1+1 over stdio", ours, floor_sum, "<= 1.3x", 1.3),
        Comparison("round trip against stock's execute alone", ours, stock, "aim 1.0x", 1.0),
        Comparison("round trip in the library", library, stock, "none", float("inf")),
    ]


async def round_trip_beside(counts: list[int], rounds: int) -> tuple[list[Figure], dict[str, Any]]:
    """``1+1`` with idle sessions alive."""
    figures = []
    line: list[tuple[float, float]] = []
    async with service(preloads=()) as sessions:
        session = await first_result(sessions)
        alive = 1
        for count in counts:
            while alive < count:
                await first_result(sessions)
                alive += 1
            figure = Figure(f"library round trip, {count} sessions alive", "ms")
            for _ in range(rounds):
                seconds = await timed(run(sessions, session, "1+1"))
                figure.samples.append(seconds * MS)
            figures.append(figure)
            line.append((count, figure.median))
    return figures, {"kernelry": line}


async def throughput(rounds: int) -> list[Comparison]:
    """16 sessions x 20 cells at once."""
    ours = Figure("16 x 20 cells", "/s")
    stock = Figure("jupyter_client", "/s")
    code = "print(sum(range(1000)))"
    kernels = [await start_stock() for _ in range(16)]
    async with service(preloads=()) as sessions:
        created = [await first_result(sessions) for _ in range(16)]

        async def cells(session: Session) -> None:
            for _ in range(20):
                await run(sessions, session, code)

        async def stock_cells(kernel: StockKernel) -> None:
            for _ in range(20):
                await kernel.run(code)

        for _ in range(rounds):
            ours.samples.append(320 / await timed(gather(cells, created)))
            stock.samples.append(320 / await timed(gather(stock_cells, kernels)))
    for kernel in kernels:
        await kernel.stop()
    return [Comparison("16 sessions x 20 cells at once", ours, stock, ">= 1x", 1.0, rate=True)]


async def gather(work: Any, items: list[Any]) -> None:
    await asyncio.gather(*(work(item) for item in items))


async def verbs(rounds: int) -> list[Figure]:
    """Restart, delete, interrupt, and a megabyte and more of output."""
    restart, delete = Figure("restart", "ms"), Figure("delete", "ms")
    interrupt = Figure("interrupt a busy loop", "ms")
    outputs = {size: Figure(f"print {size} MB", "ms") for size in (1, 10, 100)}
    async with service(preloads=()) as sessions:
        for _ in range(rounds):
            session = await first_result(sessions)
            busy = await sessions.run(session, "while True: pass")
            await busy.begun.wait()
            await asyncio.sleep(0.02)
            interrupt.samples.append(await timed(session.interrupt()) * MS)
            assert await busy.wait(HANG)
            restart.samples.append(await timed(session.restart()) * MS)
            for size, figure in outputs.items():
                code = f"for _ in range({size}): print('x' * 999_999)"
                figure.samples.append(await timed(run(sessions, session, code)) * MS)
            delete.samples.append(await timed(sessions.delete(session.id)) * MS)
    return [restart, delete, interrupt, *outputs.values()]


async def server_start(rounds: int) -> list[Comparison]:
    """From starting the server's process to the first tool's answer."""
    ours = Figure("kernelry serve, list_sessions", "ms")
    empty = Figure("an empty MCPServer, no-op", "ms")
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="kernelry-bench-") as scratch:
            started = time.perf_counter()
            async with kernelry_server(Path(scratch)) as client:
                await client.call_tool("list_sessions", {})
                ours.samples.append((time.perf_counter() - started) * MS)
        started = time.perf_counter()
        async with mcp_server(EMPTY_SERVER) as client:
            await client.call_tool("noop", {"code": ""})
            empty.samples.append((time.perf_counter() - started) * MS)
    return [Comparison("server start to first answer", ours, empty, "<= 1.2x", 1.2)]
