"""What a long history costs: searches in 10,000 executions, lists of 1,000 sessions.

Beside it what this part of kernelry costs a run that nobody steers: a safe point, and what it
takes to suspend and resume a small session.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias, cast

import psutil
from baselines import KERNELRY
from figures import Comparison, Figure, timed
from measures import HANG, MS, run, service

from kernelry import Execution, ExecutionStatus, Sessions, SessionSpec, SessionStatus
from kernelry.models.executions import ExecutionError
from kernelry.models.sessions import SessionRecord
from kernelry.output.fold import Display, Stream, stream_text
from kernelry.store import Store, rows
from kernelry.store.statements import Statements

SESSIONS = 1000
EACH = 10  # executions of a session
ALLOWED = 50.0  # ms for an answer
PROTOCOL = "2025-11-25"
LONGEST = 64 << 20  # bytes of an answer
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = ("frame", "model", "price", "churn", "image", "token", "graph", "signal", "batch", "score")
LINES = (
    "import pandas as pd, numpy as np",
    "{0} = pd.read_csv('outputs/{1}_{2}.csv').dropna(subset=['{0}_{2}'])",
    "{0}_{2} = {0}.groupby('{1}').agg({{'value': ['mean', 'std']}}).reset_index()",
    "def fit_{0}_{2}({1}, rate=0.{2}):\n    return np.polyfit({1}['x'], {1}['y'] * rate, {2})",
    "for epoch in range({2}):\n    {0}_loss = train({1}, epoch)\n    print(epoch, {0}_loss)",
    "{0}.plot(x='{1}', y='value', title='{0} by {1}, {2}')",
    "assert len({0}) > {2}, '{1} has too few rows'",
)
#: what is looked for, from what nothing has to what all have
SEARCHES: dict[str, dict[str, Any]] = {
    "a word that is nowhere": {"code_text": "nowhere"},
    "a name that few have": {"code_text": "fit_churn_7"},
    "two words that many have": {"code_text": "frame value"},
    "a beginning that most have": {"code_text": "p"},
    "an error": {"error_text": "KeyError price"},
    "a description": {"description_text": "churn image"},
    "the code of the parent": {"parent_code_text": "epoch train"},
    "what failed in a week": {
        "status": ["failed"],
        "since": BEGAN.timestamp(),
        "until": (BEGAN + timedelta(days=7)).timestamp(),
    },
    "words, error, description, status": {
        "code_text": "frame",
        "error_text": "KeyError",
        "description_text": "churn",
        "status": ["failed"],
    },
    "everything": {},
    "everything, the last page": {"offset": SESSIONS * EACH - 20},
}
LISTS: dict[str, dict[str, Any]] = {
    "a page of 100 of 1,000 sessions": {},
    "the 1,000 sessions": {"limit": 1000},
    "the completed ones, the last used first": {"status": "completed", "sort": "used"},
    "those with two words in the description": {"text": "churn image"},
}
#: prints nanoseconds of one call: the least of seven times 200,000
SAFE_POINT = """
import kernelry_session, timeit
def nothing(progress=None): pass
for call in (kernelry_session.checkpoint, nothing):
    print(min(timeit.repeat(call, number=200_000, repeat=7)) / 200_000 * 1e9)
"""
SMALL = "import math\nrows = [{'id': n, 'root': math.sqrt(n)} for n in range(1000)]\ntotal = 3"


async def cost_of_history(rounds: int) -> tuple[list[Comparison], list[Figure]]:
    """Ask a real server that has a long history, over stdio."""
    comparisons: list[Comparison] = []
    extra: list[Figure] = []
    allowed = Figure("allowed", "ms", [ALLOWED])
    with tempfile.TemporaryDirectory(prefix="kernelry-bench-") as scratch:
        state_dir = Path(scratch) / "s"
        state_dir.mkdir(mode=0o700)
        await fill(state_dir)
        flags = ("--toolsets", "core,history", "--max-sessions", "2000")
        async with plain_client(Path(scratch), *flags) as (call, server):
            for tool, cases in (("search_executions", SEARCHES), ("list_sessions", LISTS)):
                await call(tool, {})
                for name, arguments in cases.items():
                    figure = Figure(name, "ms")
                    before = busy(server)
                    for _ in range(rounds):
                        figure.samples.append(await timed(call(tool, arguments)) * MS)
                    used = Figure(f"processor time of the server, {name}", "ms")
                    used.samples.append((busy(server) - before) / rounds * MS)
                    extra.append(used)
                    what = f"{tool}: {name}"
                    comparisons.append(Comparison(what, figure, allowed, "<= 50 ms", 1.0))
    return comparisons, extra + await cost_of_steering(rounds)


def busy(process: psutil.Process) -> float:
    """Return the seconds of processor time that a process has had."""
    times = process.cpu_times()
    return float(times.user + times.system)


Call: TypeAlias = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]


@asynccontextmanager
async def plain_client(scratch: Path, *flags: str) -> AsyncIterator[tuple[Call, psutil.Process]]:
    """A client that reads answers and does no more, and its server's process.

    The SDK's checks each answer against the tool's schema, in Python: 60 ms for 100 sessions.
    """
    folders = ("--workspace", str(scratch / "w"), "--state-dir", str(scratch / "s"))
    server = await asyncio.create_subprocess_exec(
        *(str(KERNELRY), "serve", *folders, "--log-level", "ERROR", *flags),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LONGEST,
    )
    numbers = itertools.count(1)

    async def ask(method: str, params: dict[str, Any]) -> dict[str, Any]:
        assert server.stdin and server.stdout
        asked = {"jsonrpc": "2.0", "id": next(numbers), "method": method, "params": params}
        server.stdin.write(json.dumps(asked).encode() + b"\n")
        while True:
            answer = json.loads(await server.stdout.readline())
            if answer.get("id") == asked["id"]:
                return cast("dict[str, Any]", answer["result"])

    async def call(tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        result = await ask("tools/call", {"name": tool, "arguments": arguments})
        assert not result["isError"], result
        return cast("dict[str, Any]", result["structuredContent"])

    try:
        who = {"name": "bench", "version": "0"}
        await ask(
            "initialize",
            {"protocolVersion": PROTOCOL, "capabilities": {}, "clientInfo": who},
        )
        assert server.stdin is not None
        server.stdin.write(b'{"jsonrpc": "2.0", "method": "notifications/initialized"}\n')
        yield call, psutil.Process(server.pid)
    finally:
        if server.stdin is not None:
            server.stdin.close()
        await server.wait()


async def fill(state_dir: Path) -> None:
    """Write a history as a server does, all at once."""
    store = Store(state_dir / "kernelry.sqlite")
    await store.open()
    history = list(sessions_and_executions())

    def write(statements: Statements) -> None:
        for record, executions in history:
            statements.execute("save_session", rows.session_row(record))
            statements.execute_many("insert_execution", map(rows.execution_row, executions))

    try:
        await store.commit(write)
        for _, executions in history:
            for execution in executions:
                await store.finish_execution(execution)
    finally:
        await store.aclose()


def sessions_and_executions() -> Iterator[tuple[SessionRecord, list[Execution]]]:
    """Yield sessions with what they ran, the same at each call."""
    dice = random.Random(1)
    statuses = [SessionStatus.COMPLETED] * 6 + [SessionStatus.SUSPENDED] * 3
    statuses.append(SessionStatus.ACTIVE)
    parent: Execution | None = None
    at = BEGAN
    for number in range(SESSIONS):
        record = SessionRecord(
            id=f"session-{number:04}",
            description=f"{' '.join(dice.sample(NAMES, 4))}, part {number}".capitalize(),
            tags=tuple(dice.sample(NAMES, 2)),
            metadata={"number": number, "rate": dice.random()},
            status=dice.choice(statuses),
            created_at=at,
            execution_count=EACH,
            parent_session_id=parent.session_id if parent else "",
            parent_execution_id=parent.id if parent else "",
        )
        executions = []
        for index in range(1, EACH + 1):
            at += timedelta(minutes=dice.random() * 30)
            executions.append(execution(dice, record.id, index, at))
        yield replace(record, last_activity_at=at), executions
        parent = dice.choice(executions) if dice.random() < 0.5 else None


def execution(dice: random.Random, session_id: str, index: int, at: datetime) -> Execution:
    """Return an execution with some lines of code; one of ten raised something."""
    first, second = dice.sample(NAMES, 2)
    code = "\n".join(
        line.format(first, second, dice.randrange(10)) for line in dice.choices(LINES, k=8)
    )
    error = None
    if dice.random() < 0.1:
        kind = dice.choice(("KeyError", "ValueError", "ZeroDivisionError"))
        frames = "".join(f"Cell In[{n}], line {n}\n    {code[:60]}\n" for n in range(5))
        error = ExecutionError(type=kind, message=f"{first} of {second}", traceback=frames)
    return Execution(
        id=f"{session_id}-{index}",
        session_id=session_id,
        index=index,
        generation=1,
        code=code,
        status=ExecutionStatus.FAILED if error else ExecutionStatus.COMPLETED,
        created_at=at,
        started_at=at,
        ended_at=at + timedelta(seconds=1),
        duration=1.0,
        error=error,
        outputs=(Stream("stdout", f"{first}\n" * 20), Display({"text/plain": second}, {})),
    )


async def cost_of_steering(rounds: int) -> list[Figure]:
    """A safe point, and a small session that goes and comes back."""
    point, call = Figure("a safe point", "ns"), Figure("a function that does nothing", "ns")
    suspend, resume = Figure("suspend a small session", "ms"), Figure("resume it", "ms")
    async with service(preloads=()) as sessions:
        session = await sessions.create(SessionSpec())
        await run(sessions, session, SMALL)
        for _ in range(rounds):
            took = (await printed(sessions, session.id, SAFE_POINT)).split()
            point.samples.append(float(took[0]))
            call.samples.append(float(took[1]))
            suspending = sessions.suspension.suspend(session, by="the benchmark")
            suspend.samples.append(await timed(suspending) * MS)
            resuming = sessions.suspension.resume(session, by="the benchmark")
            resume.samples.append(await timed(resuming) * MS)
            assert await printed(sessions, session.id, "print(len(rows))") == "1000\n"
    return [point, call, suspend, resume]


async def printed(sessions: Sessions, session_id: str, code: str) -> str:
    """Return what a cell prints."""
    running = await sessions.run(sessions.get(session_id), code)
    assert await running.wait(HANG)
    return stream_text(running.snapshot().outputs, "stdout")
