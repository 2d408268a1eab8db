"""What a checkpoint of 100 MB costs: how long the kernel is held up, the save, the restore."""

from __future__ import annotations

import asyncio

from figures import Comparison, Figure, timed
from measures import MS, run, service

from kernelry import Session, Sessions, SessionSpec

NAMESPACES = {
    "arrays and tables": """
import numpy as np, pandas as pd
a = np.random.default_rng(1).random(8_000_000)
t = pd.DataFrame({"n": np.arange(2_000_000), "x": np.arange(2_000_000) / 3})
t["c"] = pd.Categorical(np.array(["a", "b", "c", "d"])[np.arange(2_000_000) % 4])
k = 3
def f(x): return x * k
""",
    "small objects": """
rows = [{"id": i, "name": f"name {i}", "at": i / 3} for i in range(300_000)]
k = 3
def f(x): return x * k
""",
}
BLOCKED = 100.0  # ms that a kernel with 100 MB may be held up
#: the same namespace by the standard library, in the kernel, which it holds up meanwhile
PLAIN = """
import pickle
with open("plain.pickle", "wb") as file:
    for name in ("a", "t", "rows"):
        if name in globals(): pickle.dump(globals()[name], file, 5)
"""


async def cost_of_checkpoints(rounds: int) -> tuple[list[Comparison], list[Figure]]:
    """Save and restore each namespace; beside it a plain pickle in a cell."""
    figures: list[Figure] = []
    comparisons: list[Comparison] = []
    async with service(preloads=("numpy", "pandas")) as sessions:
        for name, code in NAMESPACES.items():
            session = await sessions.create(SessionSpec())
            await run(sessions, session, code)
            blocked, saved = await measure(sessions, session, name, rounds)
            figures += saved
            allowed = Figure("allowed", "ms", [BLOCKED])
            what = f"kernel held up by a checkpoint, {name}"
            comparisons.append(Comparison(what, blocked, allowed, "<= 100 ms", 1.0))
            await sessions.delete(session.id)
    return comparisons, figures


async def measure(
    sessions: Sessions, session: Session, name: str, rounds: int
) -> tuple[Figure, list[Figure]]:
    blocked = Figure(f"held up, {name}", "ms")
    save, restore, plain, size, beside = (
        Figure(f"{what}, {name}", unit)
        for what, unit in (
            ("checkpoint until it is on disk", "ms"),
            ("restore", "ms"),
            ("pickle.dump in a cell", "ms"),
            ("size of a checkpoint", "MB"),
            ("the first 1+1 beside a save", "ms"),
        )
    )
    for _ in range(rounds):
        save.samples.append(await timed(sessions.checkpoints.create(session)) * MS)
        (newest, *_) = await sessions.checkpoints.list(session.id)
        blocked.samples.append(newest.blocked * MS)
        size.samples.append(newest.size / 1e6)
        restore.samples.append(
            await timed(sessions.checkpoints.restore(newest.id, session, clear=True)) * MS
        )
        saving = asyncio.ensure_future(sessions.checkpoints.create(session))
        beside.samples.append(await timed(run(sessions, session, "1+1")) * MS)
        await saving
        plain.samples.append(await timed(run(sessions, session, PLAIN)) * MS)
        for item in await sessions.checkpoints.list(session.id):
            await sessions.checkpoints.delete(item.id)
    return blocked, [blocked, save, restore, plain, size, beside]
