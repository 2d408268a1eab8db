"""Installations by uv: what is missing is resolved and installed aside, then merged.

uv never sees a session's files, nor runs an interpreter that a session could have changed.
It works in a frame of its own (a slot below the state directory), told by metadata what
the interpreter and the session have. What it has installed there is merged into the
session's environment in one step that is all or nothing (merging.py). Installations of
different sessions run side by side, each in its slot.
"""

import asyncio
import hashlib
import json
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from kernelry import bounds
from kernelry.beneath import ASIDE, folder, make_private, put_aside, remove_tree
from kernelry.errors import InstallError
from kernelry.models import Limits
from kernelry.packages.builds import FOLDERS, NO_WHEEL, PLANNED, Builds, pins_of
from kernelry.packages.distributions import Distribution, distributions
from kernelry.packages.interpreters import Interpreter, Interpreters, changed_at
from kernelry.packages.merging import plan_merge, read_below, unfinished
from kernelry.packages.requirements import exact_names
from kernelry.packages.runs import Hear, Runs
from kernelry.packages.sources import BuildError
from kernelry.packages.uv import uv_binary
from kernelry.paths import private_directory
from kernelry.programs import Completed, run_program
from kernelry.shielding import to_the_end
from kernelry.walls import INSIDE, Walls

Install = Callable[[Path, Sequence[str]], Awaitable[Completed]]

SETUP_DEADLINE = 60.0  # seconds for making a frame
RUNS = 2  # of uv, in an installation that goes well
STAMP = "view.stamp"  # in a slot whose view is right: what the interpreter was like
METADATA_BYTES = 1 << 20  # largest METADATA of a session that uv is shown
WHEELS_ONLY = (
    "\nkernelry: only wheels are installed, and a package that is needed here has none that fits. "
    "Building one from source runs its author's code: whoever runs the server can allow that "
    "with the setting --allow-sdist.\n"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Installation:
    """What an installation did."""

    #: uv's exit code; 0: all is installed
    returncode: int
    #: what uv wrote
    stdout: str
    #: what uv wrote to stderr
    stderr: str
    #: name==version of what is new in the session
    installed: tuple[str, ...] = ()


class Installer:
    """Installs into the environments of one service's sessions.

    Args:
        folder: Private, on the file system of the sessions' environments, and nobody else's.
        allow_sdist: Whether packages may be built from source, which runs their code.
        walls: Those of the service; uv works behind the same, but for the network and limits.
        interpreters: Those of the service.
    """

    def __init__(
        self, folder: Path, allow_sdist: bool, walls: Walls, interpreters: Interpreters
    ) -> None:
        self._folder = folder
        self._allow_sdist = allow_sdist
        self._walls = replace(walls, network=True, limits=Limits())
        self._used: set[int] = set()
        self._template_lock = asyncio.Lock()
        self._interpreters = interpreters

    def recover(self) -> int:
        """Undo the merges that a killed server was in, and forget its slots; count merges."""
        undone = 0
        for slot in self._folder.iterdir() if self._folder.is_dir() else ():
            if merge := unfinished(slot):
                merge.undo(slot)
                undone += 1
        for slot in list(self._folder.iterdir()) if self._folder.is_dir() else ():
            put_aside(slot)  # what builds have left may be too much to be removed at once
        remove_tree(self._folder, bounds.REMOVE_SECONDS)
        return undone

    async def install(
        self,
        prefix: Path,
        interpreter: Interpreter,
        wanted: Sequence[str],
        *,
        walls: Walls,
        timeout: float,
        hear: Hear,
    ) -> Installation:
        """Install what an environment and its interpreter lack.

        If this fails, or is cancelled before the last step, the environment is as it was; the
        last step takes milliseconds, and is finished or undone also then.

        Args:
            prefix: The environment, which exists.
            interpreter: What it is layered over.
            wanted: PEP 508 strings, checked.
            walls: Those of the session, which builds from source have as well.
            timeout: Seconds uv and builds may take.
            hear: Called with what uv writes, as it comes.

        Raises:
            InstallError: A frame could not be made, or the environment not be changed.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        site = interpreter.site
        async with self._slot(interpreter) as slot, AsyncExitStack() as stack:
            runs = Runs(
                slot=slot,
                reads=interpreter.reads,
                walls=self._walls,
                deadline=deadline,
                ready=[],
            )
            # Their walls take as long as what uv does behind them: built while we prepare.
            await runs.prepare(stack, RUNS)
            template = await self._template(interpreter)
            await to_the_end(asyncio.to_thread(prepare, template, slot, interpreter))
            await to_the_end(asyncio.to_thread(show, slot, prefix, site))
            plan = await resolve(runs, wanted, hear)
            install: Install = partial(install_wheels, runs, hear)
            if plan.returncode != 0 and self._allow_sdist and NO_WHEEL.search(plan.stderr):
                builds = Builds(
                    runs=runs, walls=walls, interpreter=interpreter, template=template, hear=hear
                )
                install = builds.install
                runs.ready.clear()
                await stack.aclose()  # nothing that uv was told is in a process beside a build
                try:
                    plan = await builds.plan(slot / "view", wanted)
                except BuildError as error:
                    return Installation(returncode=1, stdout="", stderr=f"{error.args[0]}\n")
            if plan.returncode != 0:
                return self._failed(plan)
            pins = pins_of(plan)
            if not pins:
                text = "Everything asked for is there already."
                return Installation(returncode=0, stdout=text, stderr="")
            done = await install(slot / "env", pins)
            if done.returncode != 0:
                return self._failed(done)
            names = [pin.partition("==")[0] for pin in pins]
            merge = await asyncio.to_thread(plan_merge, slot / "env", prefix, site, names)
            await to_the_end(asyncio.to_thread(merge.carry_out, slot))
            return Installation(
                returncode=0, stdout=done.stdout, stderr=done.stderr, installed=tuple(pins)
            )

    async def ask(self, python: Path) -> Interpreter:
        """Return what an interpreter is; the same one is asked once.

        Raises:
            InvalidArgumentError: It does not run.
        """
        return await self._interpreters.ask(python)

    async def make_environment(self, interpreter: Interpreter, prefix: Path) -> None:
        """Make the frame of a session's environment, where no kernel has made it yet.

        It is made aside: at `prefix` may be links that a session has put there.

        Raises:
            InstallError: It could not be made, or something else is there.
        """
        aside = private_directory(self._folder) / f"{prefix.parent.name}-frame"
        await self._make_frame(interpreter, aside, bare=False)
        try:
            make_private(prefix.parent)
            with folder(prefix.parent, "") as fd:
                os.rename(aside, prefix.name, dst_dir_fd=fd)
        except OSError as error:
            await asyncio.to_thread(shutil.rmtree, aside, True)
            msg = f"the session's environment is damaged ({error}): restart_kernel repairs it"
            raise InstallError(msg) from error

    @asynccontextmanager
    async def _slot(self, interpreter: Interpreter) -> AsyncIterator[Path]:
        """Lend a folder for two frames of an interpreter; see `prepare`.

        Its path is one of few, so that uv knows the interpreter there from the last time.
        """
        number = next(n for n in range(len(self._used) + 1) if n not in self._used)
        self._used.add(number)
        slot = self._folder / f"{key_of(interpreter)}-{number}"
        try:
            private_directory(self._folder)
            yield private_directory(slot)
        finally:
            await to_the_end(asyncio.to_thread(clear, slot))
            self._used.discard(number)

    async def _template(self, interpreter: Interpreter) -> Path:
        """Return a bare frame of an interpreter, to be copied."""
        template = self._folder / f"{key_of(interpreter)}-frame"
        async with self._template_lock:
            if not (template / "pyvenv.cfg").exists():
                private_directory(self._folder)
                await self._make_frame(interpreter, template, bare=True)
        return template

    def _failed(self, done: Completed) -> Installation:
        """Return what is told of an installation that uv has given up."""
        needs_source = not self._allow_sdist and NO_WHEEL.search(done.stderr)
        hint = WHEELS_ONLY if needs_source else ""
        return Installation(
            returncode=done.returncode, stdout=done.stdout, stderr=done.stderr + hint
        )

    async def _make_frame(self, interpreter: Interpreter, prefix: Path, *, bare: bool) -> None:
        wanted = {"prefix": str(prefix), "bare": bare, "uv": str(uv_binary())}
        python = interpreter.trusted if bare else interpreter.python
        if python is None:
            msg = (
                f"packages can't be installed for {interpreter.python}: sessions can change it, so "
                "it is run within theirs only. Install with %pip in the session instead."
            )
            raise InstallError(msg)
        argv = [str(python), "-P", str(INSIDE), "environment", json.dumps(wanted)]
        if interpreter.is_changeable and not bare:
            reads = [*interpreter.reads, *interpreter.folders]
            private_directory(prefix)
            argv = self._walls.confine(argv, cwd=Path("/"), reads=reads, writes=[prefix])
        made = await run_program(argv, cwd=Path("/"), timeout=SETUP_DEADLINE)
        if made.returncode != 0:
            raise InstallError(f"the session's environment can't be made: {made.stderr}")


async def resolve(runs: Runs, wanted: Sequence[str], hear: Hear) -> Completed:
    """Return what uv would install; it asks the index, unless that could not change the answer.

    That is so when exact versions are wanted, they are in uv's cache, and nothing else is needed:
    asking is what takes longest in the installation of a cached package.
    """
    view = runs.slot / "view"
    if exact := exact_names(wanted):
        plan = await runs.pip(view, ["--dry-run", "--offline"], wanted)
        if plan.returncode == 0 and {name for name, _ in PLANNED.findall(plan.stderr)} <= exact:
            hear(plan.stderr.encode())
            return plan
    return await runs.pip(view, ["--dry-run"], wanted, hear)


async def install_wheels(runs: Runs, hear: Hear, frame: Path, pins: Sequence[str]) -> Completed:
    """Install exact versions, which all have wheels, into a bare frame."""
    # What is in the cache needs no index any more: it was asked a moment ago.
    done = await runs.pip(frame, ["--no-deps", "--offline"], pins)
    if done.returncode != 0:
        return await runs.pip(frame, ["--no-deps"], pins, hear)
    hear(done.stderr.encode())
    return done


def key_of(interpreter: Interpreter) -> str:
    """Return a short name for an interpreter."""
    return hashlib.blake2s(os.fsencode(interpreter.python), digest_size=4).hexdigest()


def prepare(template: Path, slot: Path, interpreter: Interpreter) -> None:
    """Make a bare frame in ``env`` of a slot, and one that shows the interpreter in ``view``.

    The view is kept from one installation to the next, until the interpreter is changed.
    """
    clear(slot)
    private_directory(slot)
    shutil.copytree(template, slot / "env", symlinks=True)
    state = repr([(str(path), changed_at(path)) for path in interpreter.folders])
    stamp = slot / STAMP
    if stamp.exists() and stamp.read_text(encoding="utf-8") == state:
        return
    stamp.unlink(missing_ok=True)
    shutil.rmtree(slot / "view", ignore_errors=True)
    shutil.copytree(template, slot / "view", symlinks=True)
    for found in distributions(interpreter.folders).values():
        link_metadata(found, slot / "view" / interpreter.site)
    stamp.write_text(state, encoding="utf-8")


def link_metadata(found: Distribution, site: Path) -> None:
    """Show a distribution of an interpreter by links; uv follows none to a folder."""
    shown = site / found.metadata.name
    if not found.metadata.is_dir():
        shown.symlink_to(found.metadata)
        return
    shown.mkdir()
    for part in ("METADATA", "PKG-INFO"):
        if (found.metadata / part).is_file():
            (shown / part).symlink_to(found.metadata / part)


def clear(slot: Path) -> None:
    """Remove from a slot all but its view; builds may have filled it with anything."""
    for name in ("env", "old"):
        shutil.rmtree(slot / name, ignore_errors=True)
    for name in FOLDERS:
        put_aside(slot / name)
    for left in slot.glob(f"{ASIDE}*"):
        remove_tree(left, bounds.REMOVE_SECONDS)  # the next time removes the rest


def show(slot: Path, prefix: Path, site: str) -> None:
    """Add to the view of a slot what an environment has itself, by a copy of its metadata."""
    inherited: Mapping[str, Distribution] | None = None
    for name, found in distributions([prefix / site]).items():
        folder = found.metadata.name
        text = read_below(prefix, f"{site}/{folder}/METADATA", METADATA_BYTES)
        if not text:
            continue
        if inherited is None:  # this view is of no use for another session
            (slot / STAMP).unlink()
            inherited = distributions([slot / "view" / site])
        if name in inherited:
            inherited[name].metadata.rename(slot / "view" / f"hidden-{name}")
        (slot / "view" / site / folder).mkdir()
        (slot / "view" / site / folder / "METADATA").write_bytes(text)
