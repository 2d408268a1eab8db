"""One server after the other is killed at a named point, all on one state directory."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from bounds import BrokenBoundError, Scale, check

from kernelry.crashpoints import CRASH_POINTS, VARIABLE
from tests.acceptance.harness import Place, RawServer
from tests.faults.matrix import fault

OPEN = "SELECT DISTINCT session_id FROM executions WHERE ended_at IS NULL"
HANG = 30.0  # seconds after which a round is stuck
TIMES = {"run": 3, "kernel": 4}  # how often a server may come by a point before it is killed
CELLS = {
    "idle": "1",
    "busy": "import time\nwhile True: print('busy'); time.sleep(0.01)",
    "native": "import ctypes; ctypes.PyDLL(None).sleep(2)",
    "parent": "import subprocess; p = subprocess.Popen(['sleep', '100']); p.wait()",
}


@fault("D1")
async def crash_rounds(scale: Scale) -> None:
    """40 times SIGKILL at a named point, with kernels idle, busy, in native code, with children."""
    await asyncio.to_thread(rounds, scale)


def rounds(scale: Scale) -> None:
    """Kill, recover, look; and at last see that nothing is left."""
    rng = random.Random(scale.seed)
    order: list[str] = []
    with somewhere() as place:
        count_of_rounds = scale.of(40)
        for number in range(count_of_rounds):
            if not order:
                order = rng.sample(CRASH_POINTS, len(CRASH_POINTS))
            point = order.pop()
            count = rng.randint(1, TIMES.get(point.split(".")[0], 1))
            die_at(place, point, count, rng)
            with RawServer(place, ("--orphan-timeout", "60")) as server:
                look(place, server, f"round {number}, {point}:{count}")
                server.process.kill()
        with RawServer(place, ("--orphan-timeout", "1")) as server:
            server.tool("list_sessions")
            server.process.kill()
        left = place.survivors(15)
        check(not left, f"{len(left)} processes left after {count_of_rounds} killed servers")
        with RawServer(place):
            statuses = recorded(place)
        print(f"   executions: {dict(statuses)}")
        check(not statuses["lost"], f"{statuses['lost']} executions lost")


@contextmanager
def somewhere() -> Iterator[Place]:
    """Make a place for servers and leave nothing of it."""
    with tempfile.TemporaryDirectory() as root, tempfile.TemporaryDirectory(dir="/tmp") as runtime:
        place = Place(Path(root), Path(runtime))
        try:
            yield place
        finally:
            for process in place.processes():
                process.kill()


def die_at(place: Place, point: str, count: int, rng: random.Random) -> None:
    """Let a server work until it comes to a point at which it is killed."""
    env = {VARIABLE: f"{point}:{count}"}
    victim = RawServer(place, ("--orphan-timeout", "60"), env=env)
    # It dies within a call, or before it answers the first.
    with suppress(AssertionError, OSError), victim:
        end = time.monotonic() + HANG
        while time.monotonic() < end:
            work(victim, rng)
    code = victim.process.wait()
    must(code == -signal.SIGKILL, f"it never came to {point}:{count}, but ended with {code}")


def work(server: RawServer, rng: random.Random) -> None:
    """Come by every named point."""
    for name in rng.sample(sorted(CELLS), len(CELLS)):
        listed = server.tool("list_sessions")["sessions"]
        if name in listed and listed[name]["kernel"] == "dead":
            server.tool("restart_kernel", session_id=name)
        elif name not in listed:
            server.tool("create_session", session_id=name)
        if name not in listed or listed[name]["kernel"] != "busy":
            server.tool("run_python_code", code=CELLS[name], session_id=name, wait=0)
    server.tool("run_python_code", code="2", session_id="idle")
    server.tool(rng.choice(["restart_kernel", "delete_session"]), session_id="idle")


def look(place: Place, server: RawServer, when: str) -> None:
    """Check what a server after the killed one has."""
    sessions = server.tool("list_sessions")["sessions"]
    must("default" in sessions, f"{when}: no default session")
    database = sqlite3.connect(f"file:{place.state}/kernelry.sqlite?mode=ro", uri=True)
    sound = database.execute("PRAGMA integrity_check").fetchone()
    opened = {row[0] for row in database.execute(OPEN)}
    kernels = dict(database.execute("SELECT session_id, pid FROM kernels").fetchall())
    database.close()
    must(sound == ("ok",), f"{when}: {sound}")
    for name in opened:
        must(name in kernels, f"{when}: '{name}' has an open execution and no kernel")
        must(psutil.pid_exists(kernels[name]), f"{when}: the kernel of '{name}' is gone")
    for name, session in sessions.items():
        if session["kernel"] == "idle":
            done = server.tool("run_python_code", code="1+1", session_id=name)
            must(done["results"] == ["2"], f"{when}: '{name}' answers {done}")


def must(holds: bool, otherwise: str) -> None:
    """Go on only if something holds."""
    if not holds:
        raise BrokenBoundError(otherwise)


def recorded(place: Place) -> Counter[str]:
    """Return how many executions have which outcome."""
    database = sqlite3.connect(f"file:{place.state}/kernelry.sqlite?mode=ro", uri=True)
    found = database.execute("SELECT status, count(*) FROM executions GROUP BY status").fetchall()
    database.close()
    return Counter(dict(found))
