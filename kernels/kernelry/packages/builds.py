"""Builds from source: what has no wheel is built behind the session's walls, then checked.

Three things never come together: code of a package, what uv knows (passwords, the cache of
all sessions), and the way into an environment.

1. uv looks, and can start no program: it resolves, unpacks the source of what it would have
   to build, and says which that is (`Runs.look`). Its cache is this installation's own.
2. The source's backend builds, without uv: within the session's walls, with the session's
   network, in an environment into which uv has put what the build needs; that too is wheels,
   or was built before by the same steps. It has a folder of its own and none of our variables.
3. What it left is checked and written anew (wheels.py); uv, which goes back to 1 with it, finds
   it beside the index. The wheel goes with the installation: no other session gets it.
"""

import asyncio
import json
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kernelry import bounds
from kernelry.packages.distributions import canonical
from kernelry.packages.interpreters import Interpreter
from kernelry.packages.merging import plan_merge, read_below
from kernelry.packages.runs import Hear, Runs
from kernelry.packages.sources import (
    BuildError,
    BuildSystem,
    find_source,
    needed,
    read_build_system,
)
from kernelry.packages.uv import Aside
from kernelry.packages.wheels import Expected, take_wheel
from kernelry.paths import private_directory
from kernelry.programs import Completed, run_program
from kernelry.shielding import to_the_end
from kernelry.walls import INSIDE, Walls

# Older versions of uv break their lines.
#: what uv would install
PLANNED = re.compile(r"^ \+ ([A-Za-z0-9_.-]+)==(\S+)", re.MULTILINE)
#: what it would have to build, when it may not start a program
UNBUILT = re.compile(r"Failed\s+to\s+(?:download\s+and\s+)?build\s+`([\w.-]+)==([\w.+!-]+)`")
#: what it says of a package without a wheel, when it may take nothing else
NO_WHEEL = re.compile(r"from\s+source\s+is\s+disabled|no\s+(?:usable\s+)?wheels")
UNUSABLE = re.compile(r"[Ww]heels\s+are\s+required\s+for\s+`([\w.-]+)`")
#: what it says when it would have to ask the interpreter, and may not start it
UNMET = re.compile(r"Failed\s+to\s+query\s+Python\s+interpreter")
MEETINGS = 5  # times in one look that it gets to ask it, should its file be changed meanwhile
WANTS_MORE = 75  # exit code; see inside/building.py
FOLDERS = ("builds", "aside", "wheels", "local")  # in a slot
PASSED_ON = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ")
SAID_LINES, SAID_CHARS = 15, 2000  # of a build that failed, in the answer


@dataclass(kw_only=True, slots=True)
class Builds:
    """The builds of one installation."""

    #: its runs of uv
    runs: Runs
    #: those of the session
    walls: Walls
    #: of the session
    interpreter: Interpreter
    #: a bare frame of it
    template: Path
    #: called with what builds write
    hear: Hear
    #: name==version of what was built
    built: set[str] = field(default_factory=set)
    _met: set[Path] = field(default_factory=set)
    _begun: int = 0

    @property
    def _aside(self) -> Aside:
        slot = self.runs.slot
        return Aside(
            cache=private_directory(slot / "aside"), wheels=private_directory(slot / "wheels")
        )

    async def plan(
        self, frame: Path, wanted: Sequence[str], under: tuple[str, ...] = ()
    ) -> Completed:
        """Return what uv would install once all that it needs is there as a wheel.

        Args:
            frame: What is there already.
            wanted: PEP 508 strings, checked.
            under: What is being built and needs this, as name==version.

        Returns:
            uv's plan; or its refusal, which is none that a build would change.

        Raises:
            BuildError: Something can't be built.
        """
        while True:
            plan = await self._look(frame, wanted)
            if plan.returncode != 0:
                if (found := UNBUILT.search(plan.stderr)) is None:
                    return plan
                await self._build(canonical(found[1]), found[2], under)
                continue
            # What says what it needs, and so was not to be built up to now, still has to be.
            rest = [pin for pin in pins_of(plan) if pin not in self.built]
            if not rest:
                return plan
            options = ["--no-deps", "--dry-run"]
            check = await self.runs.pip(frame, options, rest, aside=self._aside)
            if check.returncode == 0:
                return plan
            lacking = UNUSABLE.search(check.stderr)
            versions = dict(pin.split("==") for pin in rest)
            if lacking is None or canonical(lacking[1]) not in versions:
                return check
            await self._build(canonical(lacking[1]), versions[canonical(lacking[1])], under)

    async def _look(self, frame: Path, wanted: Sequence[str]) -> Completed:
        """Have uv look, with what it knows of the interpreter of a frame.

        It forgets that when the status of the interpreter's file is another, as a new link to it
        makes it; then it has to ask again.
        """
        plan = Completed(returncode=1, stdout="", stderr="")
        for _ in range(MEETINGS):
            if frame not in self._met:
                met = await self.runs.meet(frame, self._aside)
                if met.returncode != 0:
                    return met
                self._met.add(frame)
            plan = await self.runs.look(frame, wanted, self._aside)
            if plan.returncode == 0 or not UNMET.search(plan.stderr):
                break
            self._met.discard(frame)
        return plan

    async def install(self, frame: Path, pins: Sequence[str]) -> Completed:
        """Install what was planned into a bare frame.

        What an index has comes by way of the cache of all sessions, which never sees the rest.

        Args:
            frame: Where to.
            pins: All of it, as name==version.
        """
        theirs = [pin for pin in pins if pin not in self.built]
        ours = [pin for pin in pins if pin in self.built]
        done = Completed(returncode=0, stdout="", stderr="")
        if theirs:
            done = await self.runs.pip(frame, ["--no-deps"], theirs, self.hear)
        if done.returncode != 0 or not ours:
            return done
        # A frame of its own: uv asks no interpreter whose packages could answer for it.
        local = self.runs.slot / "local"
        await asyncio.to_thread(renew, self.template, local / "env")
        options = ["--no-deps", "--no-index", "--offline"]
        added = await self.runs.pip(local / "env", options, ours, self.hear, aside=self._aside)
        if added.returncode == 0:
            names = [pin.partition("==")[0] for pin in ours]
            await to_the_end(asyncio.to_thread(put_in, local, frame, self.interpreter.site, names))
        return Completed(
            returncode=added.returncode,
            stdout=done.stdout + added.stdout,
            stderr=done.stderr + added.stderr,
        )

    async def _build(self, name: str, version: str, under: tuple[str, ...]) -> None:
        """Build the wheel of a package whose source uv has unpacked.

        Raises:
            BuildError: It can't be built; says which package, and what helps.
        """
        pin = f"{name}=={version}"
        self.hear(f"{pin} has no wheel that fits: building it from source\n".encode())
        try:
            if pin in under:
                chain = " needs ".join([*under[under.index(pin) :], pin])
                raise BuildError(f"its build needs itself ({chain})")
            if pin in self.built or self._begun >= bounds.BUILDS:
                raise BuildError(f"this takes more than {self._begun} builds")
            await self._make_wheel(name, version, (*under, pin))
        except BuildError as error:
            if error.args[1:]:  # it is told of what this one needs
                raise
            needed_by = f" ({under[-1]} needs it to be built)" if under else ""
            msg = f"{pin} has no wheel that fits{needed_by}, and it can't be built: {error}"
            raise BuildError(msg, pin) from error
        self.built.add(pin)

    async def _make_wheel(self, name: str, version: str, under: tuple[str, ...]) -> None:
        if sys.platform != "linux":
            raise BuildError("on this system builds can't be kept apart from uv's passwords")
        folder = self.runs.slot / "builds" / str(self._begun)
        self._begun += 1
        await asyncio.to_thread(make_folders, folder)
        source = find_source(self._aside.cache, name, version)
        if source is None:
            raise BuildError("uv has not kept its source")
        source.rename(folder / "work" / "source")
        system = await asyncio.to_thread(read_build_system, folder / "work" / "source")
        requires = system.requires
        done = await self._run_backend(folder, system, requires, under)
        if done.returncode == WANTS_MORE and (more := read_answer(folder)):
            requires = (*requires, *more)
            done = await self._run_backend(folder, system, requires, under)
        if done.returncode != 0:
            raise BuildError(self._told(done))
        expected = Expected(
            name=name,
            version=version,
            site=self.interpreter.site,
            deadline=time.monotonic() + self.runs.seconds,
        )
        await self._take(folder, expected)

    async def _run_backend(
        self, folder: Path, system: BuildSystem, requires: Sequence[str], under: tuple[str, ...]
    ) -> Completed:
        """Have the backend build, in an environment that has what it needs."""
        tools, work = folder / "tools", folder / "work"
        await asyncio.to_thread(renew, self.template, tools)
        if requires:
            await self._equip(tools, requires, under)
        job = {
            "source": str(work / "source"),
            "out": str(work / "out"),
            "answer": str(work / "answer.json"),
            "backend": system.backend,
            "path": system.path,
            "have": requires,
        }
        python = tools / "bin" / "python"
        argv = self.walls.confine(
            [str(python), "-I", str(INSIDE), "build", json.dumps(job)],
            cwd=work,
            reads=[*self.runs.reads, tools],
            writes=[work],
        )
        return await run_program(
            argv, env=variables(tools, work), cwd=work, timeout=self.runs.seconds, hear=self.hear
        )

    async def _equip(self, tools: Path, requires: Sequence[str], under: tuple[str, ...]) -> None:
        """Install what a build needs.

        Raises:
            BuildError: It can't be had.
        """
        done = await self.runs.pip(tools, [], requires, self.hear)
        if done.returncode != 0 and NO_WHEEL.search(done.stderr):
            plan = await self.plan(tools, requires, under)
            done = plan
            if plan.returncode == 0:
                await asyncio.to_thread(renew, self.template, tools)
                done = await self.install(tools, pins_of(plan))
        if done.returncode != 0:
            wanted = ", ".join(requires)
            raise BuildError(f"what its build needs ({wanted}) can't be had:\n{last_words(done)}")

    async def _take(self, folder: Path, expected: Expected) -> None:
        """Check what a build left, and put it where uv finds it.

        Raises:
            BuildError: It is not a wheel of this package that may be installed.
        """
        stop = threading.Event()
        args = (folder, "work/out", self._aside.wheels, expected, stop)
        work = asyncio.ensure_future(asyncio.to_thread(take_wheel, *args))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            stop.set()
            await to_the_end(asyncio.wait([work]))
            raise

    def _told(self, done: Completed) -> str:
        network = "" if self.walls.network else " (as its session, it has no network)"
        return f"its build failed{network}, with exit code {done.returncode}:\n{last_words(done)}"


def pins_of(plan: Completed) -> list[str]:
    """Return what a plan of uv would install, as name==version."""
    return [f"{canonical(name)}=={version}" for name, version in PLANNED.findall(plan.stderr)]


def variables(tools: Path, work: Path) -> dict[str, str]:
    """Return the environment variables of a build, all of them."""
    env = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    path = f"{tools / 'bin'}{os.pathsep}{env.get('PATH', os.defpath)}"
    folders = {"HOME": str(work / "home"), "TMPDIR": str(work / "tmp")}
    return env | folders | {"PATH": path, "VIRTUAL_ENV": str(tools), "PYTHONIOENCODING": "utf-8"}


def make_folders(folder: Path) -> None:
    """Make the folders of a build: one that is its own, and what is in it."""
    private_directory(folder.parent)
    private_directory(folder)
    private_directory(folder / "work")
    for name in ("out", "home", "tmp"):
        private_directory(folder / "work" / name)


def renew(template: Path, frame: Path) -> None:
    """Make a bare frame where there may be one that is not bare any more."""
    shutil.rmtree(frame, ignore_errors=True)
    shutil.copytree(template, frame, symlinks=True)


def put_in(local: Path, frame: Path, site: str, names: Iterable[str]) -> None:
    """Move what was installed in a frame of its own into another that only we can write to."""
    plan_merge(local / "env", frame, site, names).carry_out(local)
    shutil.rmtree(local, ignore_errors=True)


def read_answer(folder: Path) -> tuple[str, ...]:
    """Return what a backend wants besides.

    Raises:
        BuildError: It is not a list of packages by name.
    """
    text = read_below(folder, "work/answer.json", bounds.BUILD_SYSTEM)
    try:
        return needed(json.loads(text)) if text else ()
    except (ValueError, RecursionError) as error:
        raise BuildError("what its backend wants besides can't be read") from error


def last_words(done: Completed) -> str:
    """Return the last lines that a program wrote."""
    lines = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()
    return "\n".join(lines[-SAID_LINES:])[-SAID_CHARS:]
