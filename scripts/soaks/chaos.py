"""Kernels and servers killed at random while cells run: every answer agrees with the model."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from bounds import Scale, check

from tests.acceptance.harness import Place, RawServer
from tests.faults.matrix import fault

SESSIONS = 8
HANG = 60.0  # seconds after which something is stuck
COUNT = "n = globals().get('n', 0) + 1; print('counted'); n"
SLOW = "import time; time.sleep(0.2); " + COUNT
ENDS = ("completed", "died", "cancelled", "interrupted")


class Chaos:
    """A server, what its sessions should hold, and dice."""

    def __init__(self, place: Place, seed: int) -> None:
        self.place = place
        self.dice = random.Random(seed)
        #: how often each session has counted; None: its kernel is dead
        self.model: dict[str, int | None] = {}
        self.done: Counter[str] = Counter()
        self.server = self.start_server()
        for number in range(SESSIONS):
            self.server.tool("create_session", session_id=f"s{number}")
            self.model[f"s{number}"] = 0

    def start_server(self) -> RawServer:
        """Start a server, which takes over what the one before left."""
        return RawServer(self.place, ("--orphan-timeout", "30")).__enter__()

    def round(self) -> None:
        """Let all sessions count, do something bad to one of them, look at all answers."""
        victim = self.dice.choice(sorted(self.model))
        plain = (self.nothing, self.halt, self.restart, self.interrupt, self.cancel)
        evil = self.dice.choice((*plain, self.kill, self.segfault, self.kill_server))
        self.done[evil.__name__] += 1
        asked = {
            name: self.server.tool(
                "run_python_code", session_id=name, code=self.dice.choice([COUNT, SLOW]), wait=0
            )["execution_id"]
            for name, count in self.model.items()
            if count is not None
        }
        pid = self.health(victim)["pid"]
        time.sleep(self.dice.random() * 0.1)
        evil(victim, pid)
        harmless = (self.nothing, self.halt, self.cancel, self.kill_server)
        for name, execution_id in asked.items():
            self.judge(name, execution_id, spared=name != victim or evil in harmless)
        if evil == self.restart:
            self.model[victim] = 0
        self.restart_dead()

    def judge(self, name: str, execution_id: str, *, spared: bool) -> None:
        """Compare how a cell ended with what may have become of it."""
        found = self.server.tool("get_execution", execution_id=execution_id, wait=HANG)
        status, count = found["status"], self.model[name]
        if status == "completed" and count is not None:
            expect(found["stdout"] == "counted\n", f"{name}: {found}")
            expect(found["results"] == [str(count + 1)], f"{name} has {count}: {found}")
            self.model[name] = count + 1
        elif spared:
            expect(False, f"{name} was spared: {found}")
        else:
            expect(status in ENDS, f"{name}: {found}")

    def restart_dead(self) -> None:
        """Look at each session, give it a new kernel if its own died, and let it count."""
        listed = self.server.tool("list_sessions")["sessions"]
        expect(set(listed) == {"default", *self.model}, f"sessions: {sorted(listed)}")
        for name in self.model:
            if listed[name]["kernel"] == "dead":
                self.server.tool("restart_kernel", session_id=name)
                self.model[name] = 0
            done = self.server.tool(
                "run_python_code", session_id=name, code="globals().get('n', 0)"
            )
            expect(done["status"] == "completed", f"{name}: {done}")
            held = int(done["results"][0])
            count = self.model[name]
            # An interrupted cell may have counted before the interrupt came.
            expect(
                count is not None and held in (count, count + 1), f"{name} has {held}, not {count}"
            )
            self.model[name] = held

    # What can be done to a session, or to all of them

    def nothing(self, victim: str, pid: int) -> None:
        """Leave all in peace."""

    def kill(self, victim: str, pid: int) -> None:
        """Kill the kernel."""
        self.end(victim, pid, signal.SIGKILL)

    def segfault(self, victim: str, pid: int) -> None:
        """Let the kernel end as by a fault of native code."""
        self.end(victim, pid, signal.SIGSEGV)

    def end(self, victim: str, pid: int, number: signal.Signals) -> None:
        os.kill(pid, number)
        deadline = time.monotonic() + HANG
        while (health := self.health(victim))["status"] != "dead":
            expect(time.monotonic() < deadline, f"{victim} is not known to be dead: {health}")
        # Of a kernel that a server spawned which is dead now, nobody is told the exit code.
        told = number.name in health["cause"] or "not known" in health["cause"]
        expect(told, f"{victim}: {health['cause']}")

    def halt(self, victim: str, pid: int) -> None:
        """Halt the kernel for a moment."""
        os.kill(pid, signal.SIGSTOP)
        expect(self.health(victim)["status"] != "dead", f"{victim} is halted, not dead")
        time.sleep(self.dice.random() * 0.3)
        os.kill(pid, signal.SIGCONT)

    def restart(self, victim: str, pid: int) -> None:
        """Ask for another kernel."""
        before = self.health(victim)["generation"]
        done = self.server.tool("restart_kernel", session_id=victim)
        expect(done["generation"] == before + 1, f"{victim}: {done}")

    def interrupt(self, victim: str, pid: int) -> None:
        """Interrupt what runs."""
        self.server.tool("interrupt_execution", session_id=victim)

    def cancel(self, victim: str, pid: int) -> None:
        """Give up a call that waits."""
        code = "import time\nwhile True: time.sleep(0.01)"
        number = self.server.start_tool("run_python_code", session_id=victim, code=code, wait=HANG)
        time.sleep(self.dice.random() * 0.1)
        params = {"requestId": number, "reason": "chaos"}
        self.server.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})
        deadline = time.monotonic() + HANG
        while self.server.tool("list_sessions")["sessions"][victim]["kernel"] == "busy":
            expect(time.monotonic() < deadline, f"what {victim} runs was not interrupted")

    def kill_server(self, victim: str, pid: int) -> None:
        """Kill the server, and start another one."""
        self.server.process.kill()
        self.server.process.wait()
        self.server.__exit__(None, None, None)
        self.server = self.start_server()
        expect(self.health(victim)["pid"] == pid, f"{victim} has another kernel")

    def health(self, name: str) -> dict[str, Any]:
        """Return what the server says of a session's kernel."""
        return self.server.tool("get_kernel_health", session_id=name)


def expect(holds: bool, text: str) -> None:
    """Check without a line for each success."""
    if not holds:
        check(False, text)


@fault("E4")
async def chaos(scale: Scale) -> None:
    """Rounds of chaos, from one seed, for some time."""
    seconds = scale.seconds / 10 if scale.quick else scale.seconds
    await asyncio.to_thread(run_chaos, seconds, scale.seed)


def run_chaos(seconds: float, seed: int) -> None:
    """See `chaos`."""
    with tempfile.TemporaryDirectory(prefix="kernelry-soak-") as scratch:
        root = Path(scratch)
        (root / "run").mkdir(mode=0o700)
        place = Place(root, root / "run")
        it = Chaos(place, seed)
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end:
                it.round()
        finally:
            it.server.__exit__(None, None, None)
            left = place.survivors(10)
            for process in left:
                with suppress(Exception):
                    process.kill()
        print(f"   {sum(it.done.values())} rounds: {dict(it.done)}")
        check(not left, f"no process is left: {left}")
        database = sqlite3.connect(place.state / "kernelry.sqlite")
        [(integrity,)] = database.execute("PRAGMA integrity_check").fetchall()
        opened = "SELECT count(*) FROM executions WHERE ended_at IS NULL"
        [(unfinished,)] = database.execute(opened).fetchall()
        database.close()
        check(
            (integrity, unfinished) == ("ok", 0), f"database {integrity}, {unfinished} unfinished"
        )
