"""A fuzzer of all that comes from kernels: structure at random, and frames broken at random.

The dice are in a cell of the session that is fuzzed, so a seed is all there is to keep. It sends
signed messages with fields of any type, replies and answers of any form, frames with flipped and
missing bytes, bytes that are no frames, and writes what its kernel writes: journal, spill files,
stacks, log. A neighbour computes meanwhile, and everything is looked at in all ways.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from kernelry import Execution, Session, Sessions, SessionSpec
from kernelry.errors import KernelryError
from kernelry.history import Form, export
from kernelry_mcp.answers import Answered, Look, look_at, render

FUZZERS = 2  # sessions that are fuzzed at once
ROUND = 2.0  # seconds of one cell
HANG = 60.0  # seconds after which something is stuck
TEXT_BUDGET = 10_000

#: what is run, with a line that is replaced
CELL = Path(__file__).with_name("fuzz_cell.py").read_text(encoding="utf-8")
GIVEN = 'SEED, SECONDS, DIRECTORY = 0, 0.0, ""'


@dataclass(slots=True)
class Report:
    """What was seen."""

    #: seconds of a neighbour's cells before
    quiet: list[float] = field(default_factory=list)
    #: the same meanwhile
    meanwhile: list[float] = field(default_factory=list)
    #: bytes by which the server has grown at most
    growth: int = 0
    #: how the cells ended
    ends: Counter[str] = field(default_factory=Counter)
    #: failures of ours, with the seed that brought them
    failures: list[str] = field(default_factory=list)

    def ratio(self, share: float = 0.99) -> float:
        """Return how much longer a neighbour's cells took meanwhile, at a percentile."""
        return percentile(self.meanwhile, share) / percentile(self.quiet, share)


def percentile(values: list[float], share: float) -> float:
    """Return the value below which a share of values is."""
    return sorted(values)[int(len(values) * share)]


async def fuzz(sessions: Sessions, seed: int, seconds: float) -> Report:
    """Fuzz a service for some seconds."""
    report = Report()
    neighbour = await sessions.create(SessionSpec(id="neighbour"))
    kept = report.quiet

    async def compute() -> None:
        while True:
            began = time.perf_counter()
            run = await sessions.run(neighbour, "1+1")
            assert await run.wait(HANG), "a neighbour's cell does not end"
            assert run.snapshot().status == "completed", run.snapshot()
            kept.append(time.perf_counter() - began)
            await asyncio.sleep(0.01)

    process = psutil.Process()
    computing = asyncio.create_task(compute())
    attacked = [await sessions.create(SessionSpec(id=f"fuzzed{n}")) for n in range(FUZZERS)]
    await asyncio.sleep(max(seconds / 10, 3))
    before, kept = process.memory_info().rss, report.meanwhile
    end = time.monotonic() + seconds
    dice = random.Random(seed)

    async def attack(session: Session) -> None:
        while time.monotonic() < end:
            number = dice.randrange(1 << 32)
            try:
                await one_round(sessions, session, number, report)
            except KernelryError:
                pass
            except Exception as error:  # of ours: what the fuzzer looks for
                report.failures.append(f"seed {number}: {error!r}")
            report.growth = max(report.growth, process.memory_info().rss - before)

    await asyncio.gather(*map(attack, attacked))
    computing.cancel()
    await asyncio.wait([computing])
    if not computing.cancelled():
        computing.result()
    for session in attacked:
        await session.restart()
        run = await sessions.run(session, "6 * 7")
        assert await run.wait(HANG) and run.snapshot().status == "completed", run.snapshot()
        await sessions.delete(session.id)
    await sessions.delete("neighbour")
    return report


def answered(sessions: Sessions, execution: Execution) -> Answered:
    """Return an execution as it is answered to a client."""
    return Answered(execution=execution, sessions=sessions, budget=TEXT_BUDGET, offered=())


async def one_round(sessions: Sessions, session: Session, seed: int, report: Report) -> None:
    """Run one cell of the fuzzer, and look at what came of it in all ways."""
    given = f"SEED, SECONDS, DIRECTORY = {seed}, {ROUND}, {str(session.directory)!r}"
    assert GIVEN in CELL
    code = CELL.replace(GIVEN, given)
    if session.kernel_state == "dead":
        await session.restart()
    run = await sessions.run(session, code)
    looks: list[Callable[[], Any]] = [
        lambda: sessions.health(session),
        lambda: session.variables(100),
        lambda: render(answered(sessions, run.snapshot())),
        lambda: sessions.checkpoints.create(session, patience=0.1),
    ]
    for look in looks:
        try:
            await look()
        except KernelryError:
            continue
    if not await run.wait(ROUND + 4):
        report.ends["stuck"] += 1  # it forged its own end, or never answers: its own affair
        await session.restart()
        return
    report.ends[run.snapshot().status] += 1
    ended = answered(sessions, await sessions.execution(run.id))
    await render(ended)
    await look_at(ended, Look(search="a"))
    await look_at(ended, Look(since="0.0.0"))
    session_dir: Path = sessions.sessions_dir
    await export(
        *(sessions.history, [session.id], sessions.workspace, session_dir),
        form=Form.NOTEBOOK,
        overwrite=True,
    )
    if report.ends.total() % 10 == 0:
        await session.restart()
