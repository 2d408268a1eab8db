"""How soon the truth is told while something goes on: a loop, a flood, a death, a stop.

Each is asked over stdio, and compared with the same server's answer when nothing goes on.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

from baselines import kernelry_server
from figures import Comparison, Figure, timed
from mcp import Client

MS = 1000.0
TIMEOUT = 1.0  # seconds, of the cell that runs past it
BUSY = "while True: pass"
FLOOD = "while True: print('x' * 200)"
#: text whose lines have to be counted, which is Python's work in threads of the server
LARGE = "print('\\n'.join(f'{n} ' + 'x' * 100 for n in range(300_000)))"
READERS = 2


async def promptness(rounds: int) -> list[Comparison]:
    """Answers of a server in which something goes on, and its end."""
    quiet = Figure("1+1, quiet", "ms")
    listing = Figure("list_sessions, quiet", "ms")
    health = Figure("get_kernel_health, quiet", "ms")
    figures = {
        name: Figure(name, "ms")
        for name in (
            "health",
            "list",
            "handed",
            "neighbour",
            "death",
            "input",
            "late",
            "end",
            "readers",
        )
    }
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="kernelry-bench-") as scratch:
            async with kernelry_server(Path(scratch)) as client:
                for name in ("work", "beside"):
                    await tool(client, "create_session", session_id=name)
                    await cell(client, name, "1+1")
                quiet.samples.append(await timed(cell(client, "beside", "1+1")) * MS)
                listing.samples.append(await timed(tool(client, "list_sessions")) * MS)
                health.samples.append(await timed(health_of(client)) * MS)
                await beside_work(client, figures)
                ended = time.perf_counter()
            figures["end"].samples.append((time.perf_counter() - ended) * MS)
    return [
        within(300, "health of a session in a loop", figures["health"], health),
        within(300, "sessions listed beside a loop", figures["list"], listing),
        within(1000, "a cell handed back (wait=0)", figures["handed"], quiet),
        within(1000, "1+1 beside a flood", figures["neighbour"], quiet),
        within(1000, "1+1 beside two reads of 32 MB", figures["readers"], quiet),
        within(500, "a kernel's death is the answer", figures["death"], quiet),
        within(1000, "input() is refused", figures["input"], quiet),
        within(1000, "past a timeout of 1 s", figures["late"], quiet),
        within(5000, "the server's end beside a loop", figures["end"], quiet),
    ]


def within(goal: float, what: str, ours: Figure, baseline: Figure) -> Comparison:
    """Return a comparison whose goal is a time in ms, as the docs promise it."""
    return Comparison(what, ours, baseline, f"<= {goal:g} ms", goal / baseline.median)


async def beside_work(client: Client, figures: dict[str, Figure]) -> None:
    """Measure each answer once; leaves a session in a loop."""
    await beside_readers(client, figures["readers"])
    handed = cell(client, "work", FLOOD, "running", wait=0)
    figures["handed"].samples.append(await timed(handed) * MS)
    await asyncio.sleep(0.3)  # the flood is up
    figures["neighbour"].samples.append(await timed(cell(client, "beside", "1+1")) * MS)
    await tool(client, "interrupt_execution", session_id="work")
    for name, code, status in (
        ("input", "input()", "failed"),
        ("death", "import os; os._exit(3)", "died"),
    ):
        figures[name].samples.append(await timed(cell(client, "work", code, status)) * MS)
    await tool(client, "restart_kernel", session_id="work")
    await cell(client, "work", "1+1")
    overrun = await timed(cell(client, "work", BUSY, "timed_out", timeout=TIMEOUT)) - TIMEOUT
    figures["late"].samples.append(overrun * MS)
    await cell(client, "work", BUSY, "running", wait=0)
    figures["health"].samples.append(await timed(health_of(client)) * MS)
    figures["list"].samples.append(await timed(tool(client, "list_sessions")) * MS)


async def beside_readers(client: Client, figure: Figure) -> None:
    """Measure a cell while texts are read that take long to be read."""
    said = await tool(client, "run_python_code", session_id="work", code=LARGE)

    async def read() -> None:
        while True:
            await tool(client, "get_execution", execution_id=said["execution_id"], search="nothing")

    reading = [asyncio.create_task(read()) for _ in range(READERS)]
    for _ in range(5):
        figure.samples.append(await timed(cell(client, "beside", "1+1")) * MS)
    for task in reading:
        task.cancel()
    await asyncio.wait(reading)


async def cell(
    client: Client, session: str, code: str, status: str = "completed", **more: Any
) -> None:
    """Run a cell that must come to a status."""
    said = await tool(client, "run_python_code", session_id=session, code=code, **more)
    assert said["status"] == status, said


async def health_of(client: Client) -> None:
    await tool(client, "get_kernel_health", session_id="work")


async def tool(client: Client, name: str, **arguments: Any) -> dict[str, Any]:
    """Call a tool and return what it says."""
    answer = await client.call_tool(name, arguments)
    assert answer.structured_content, answer.content
    return dict(answer.structured_content)
