"""What a branch costs: time to its first result, and memory of its own, whatever its origin has.

Beside it the same by a checkpoint (save, a new session, restore), and a stock kernel that runs
the set-up again. At level `process`, where kernels are forked as they are.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from baselines import StockKernel
from figures import Comparison, Figure, timed
from measures import MS, run, service

from kernelry import Session, Sessions, SessionSpec
from kernelry.errors import KernelryError
from kernelry.lives import Branch

SIZES = {"1 MB": 1, "50 MB": 50, "1 GB": 1000}
SETUP = """
import numpy as np
data = [np.random.default_rng(n).random(125_000) for n in range({size})]
"""
FIRST_RESULT = 60.0  # ms on a quiet machine
OWN_MEMORY = 16.0  # MiB of a branch
MANY = 20
#: what a branch may take of the way by a checkpoint
SHARES = {"50 MB": 1 / 5, "1 GB": 1 / 100}


async def cost_of_branches(rounds: int) -> tuple[list[Comparison], list[Figure]]:
    """Branch sessions of each size."""
    comparisons: list[Comparison] = []
    figures: list[Figure] = []
    async with service(preloads=("numpy",), isolation="process") as sessions:
        await sessions.wait_until_warm()
        for name, size in SIZES.items():
            code = SETUP.format(size=size)
            origin = await sessions.create(SessionSpec())
            await run(sessions, origin, code)
            live, saved, stock, own = (
                Figure(f"{what}, {name}", unit)
                for what, unit in (
                    ("branch", "ms"),
                    ("by a checkpoint", "ms"),
                    ("stock, set-up again", "ms"),
                    ("own memory of a branch", "MiB"),
                )
            )
            for _ in range(rounds):
                live.samples.append(await branch(sessions, origin, own) * MS)
            for _ in range(max(rounds // 3, 2)):
                saved.samples.append(await timed(by_checkpoint(sessions, origin)) * MS)
                stock.samples.append(await timed(set_up_again(code)) * MS)
            allowed = Figure("allowed", "ms", [FIRST_RESULT])
            what = f"first result of a branch of {name}"
            comparisons.append(Comparison(what, live, allowed, "<= 60 ms", 1.0))
            if share := SHARES.get(name):
                goal = f"<= 1/{1 / share:.0f}"
                comparisons.append(Comparison(f"{name}: a checkpoint", live, saved, goal, share))
            comparisons.append(Comparison(f"{name}: stock", live, stock, "< 1", 1.0))
            most = Figure("allowed", "MiB", [OWN_MEMORY])
            comparisons.append(Comparison(f"{name}: own memory", own, most, "<= 16 MiB", 1.0))
            if name == "1 GB":
                figures.append(await many(sessions, origin))
            figures += await freezes(sessions, origin, name, rounds)
            await sessions.delete(origin.id)
        comparisons.append(await rewinds(sessions, rounds))
    return comparisons, figures


async def freezes(sessions: Sessions, origin: Session, name: str, rounds: int) -> list[Figure]:
    """Return what a live checkpoint costs: hold-up, own memory, restore to the first result."""
    held, own = Figure(f"freeze, {name}: held up", "ms"), Figure(f"frozen, {name}: own", "MiB")
    back = Figure(f"restore, {name}: to the first result", "ms")

    async def restore(checkpoint: str) -> None:
        await sessions.checkpoints.restore(checkpoint, origin)
        await run(sessions, origin, "len(data)")

    for _ in range(rounds):
        made = await sessions.checkpoints.create(origin, live=True)
        assert made.process is not None
        held.samples.append(made.blocked * MS)
        own.samples.append(private_of(made.process.pid) / (1 << 20))
        back.samples.append(await timed(restore(made.id)) * MS)
        await sessions.checkpoints.delete(made.id)
    return [held, own, back]


async def rewinds(sessions: Sessions, rounds: int) -> Comparison:
    """Return what a cell costs with something kept before each, beside one without."""
    figures = []
    for name, keeps in (("cell with rewind=5", 5), ("cell", 0)):
        session = await sessions.create(SessionSpec(rewind=keeps))
        await run(sessions, session, SETUP.format(size=50))
        figure = Figure(name, "ms")
        for _ in range(10 * rounds):
            figure.samples.append(await timed(run(sessions, session, "sum(data[0])")) * MS)
        figures.append(figure)
        await sessions.delete(session.id)
    kept, bare = figures
    return Comparison("a cell with rewind=5", kept, bare, "<= 1.5x", 1.5)


async def branch(sessions: Sessions, origin: Session, own: Figure) -> float:
    """Return the seconds to a branch's first result; its end is not measured."""
    began = time.perf_counter()
    done = await sessions.branching.create(origin, SessionSpec())
    session = done.branches[0].session
    assert done.branches[0].is_live, done.branches[0].why
    await run(sessions, session, "len(data)")
    took = time.perf_counter() - began
    own.samples.append(private(session) / (1 << 20))
    await sessions.delete(session.id)
    return took


async def by_checkpoint(sessions: Sessions, origin: Session) -> None:
    """Do the same by saving and restoring."""
    saved = await sessions.checkpoints.create(origin)
    session = await sessions.create(SessionSpec())
    await sessions.checkpoints.restore(saved.id, session)
    await run(sessions, session, "len(data)")
    with suppress(KernelryError):
        await sessions.checkpoints.delete(saved.id)
    await sessions.delete(session.id)


async def set_up_again(code: str) -> None:
    """Do the same by a stock kernel that runs the set-up."""
    kernel = StockKernel()
    await kernel.start()
    await kernel.run(code)
    await kernel.run("len(data)")
    await kernel.stop()


async def many(sessions: Sessions, origin: Session) -> Figure:
    """Return how long a lot of branches of a large session take, all at once."""
    figure = Figure(f"{MANY} branches of 1 GB at once", "ms")
    spec = replace(SessionSpec(), id="many")
    made: list[Branch] = []

    async def make() -> None:
        done = await sessions.branching.create(origin, spec, MANY)
        made.extend(done.branches)

    figure.samples.append(await timed(make()) * MS)
    for item in made:
        await sessions.delete(item.session.id)
    return figure


def private(session: Session) -> int:
    """Return the bytes of memory that a kernel has for itself."""
    assert session.kernel is not None
    return private_of(session.kernel.process.pid)


def private_of(pid: int) -> int:
    """Return the bytes of memory that a process has for itself."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    words = (line.split() for line in rollup.splitlines())
    return sum(1024 * int(line[1]) for line in words if line[0].startswith("Private_"))
