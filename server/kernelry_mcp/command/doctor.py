"""What works on this machine, and for what does not: what that means and the cure."""

import asyncio
import functools
import importlib.metadata
import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from kernelry import Config, Sessions, SessionSpec
from kernelry.engines import Started
from kernelry.errors import KernelryError
from kernelry.launching import PREFERRED, Proof, prove
from kernelry.lives import last_report
from kernelry.models import Isolation
from kernelry.packages import uv_binary
from kernelry.paths import DATABASE_NAME, UNKNOWN_HOLDER, holder_of
from kernelry.usage import quantity
from kernelry_mcp.settings import Settings

PROGRAM_DEADLINE = 10  # seconds a program has to tell its version
CELL_DEADLINE = 60  # seconds for the first kernel and its first cell


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    #: what was looked at
    name: str
    #: whether it is as it should be
    ok: bool
    #: what was found
    found: str
    #: what to do if it is not ok
    cure: str = ""
    #: whether kernelry can't run without it
    needed: bool = True


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at everything, one after the other."""
    checks: list[Callable[[Settings], Finding]] = [
        _python,
        _ipykernel,
        _kernel,
        _uv,
        _sqlite,
        _fork,
        _level(Isolation.GUARD),
        _level(Isolation.BOX),
        _isolation,
        _workspace,
        _state,
    ]
    for check in checks:
        yield check(settings)


def _python(settings: Settings) -> Finding:
    found = f"{platform.python_version()} at {sys.executable}"
    return Finding("python", sys.version_info >= (3, 11), found, "install Python 3.11 or newer")


def _ipykernel(settings: Settings) -> Finding:
    python = settings.python
    if python is None:
        try:
            return Finding("ipykernel", True, importlib.metadata.version("ipykernel"))
        except importlib.metadata.PackageNotFoundError:
            return Finding("ipykernel", False, "missing", "reinstall kernelry, it depends on it")
    code = "import importlib.metadata as m; print(m.version('ipykernel'))"
    version = _output([str(python), "-c", code])
    cure = f"{python} -m pip install ipykernel"
    return Finding("ipykernel", bool(version), version or f"missing in {python}", cure)


def _kernel(settings: Settings) -> Finding:
    """Start a kernel and run a cell in it."""

    async def try_it() -> str:
        with tempfile.TemporaryDirectory(prefix="kernelry-doctor-") as scratch:
            given = settings.config()
            config = Config(
                state_dir=Path(scratch) / "state",
                state_dir_named=True,
                workspace=Path(scratch) / "workspace",
                allow_write=(given.workspace.expanduser().absolute(),),
                python=given.python,
                kernel_start="spawn",
            )
            async with Sessions(config) as sessions:
                started = time.perf_counter()
                session = await sessions.create(SessionSpec(id="doctor"))
                run = await sessions.run(session, "print(6 * 7)")
                await run.wait(CELL_DEADLINE)
                return f"first cell {run.snapshot().status} {time.perf_counter() - started:.2f} s"

    try:
        found = asyncio.run(try_it())
    except KernelryError as error:
        return Finding("kernel", False, str(error), "see what the kernel said above")
    cure = "run `kernelry serve --log-level DEBUG` and look"
    return Finding("kernel", "completed" in found, f"{found} after its start began", cure)


def _uv(settings: Settings) -> Finding:
    cure = "reinstall kernelry, it depends on it; without it nothing can be installed"
    try:
        path = uv_binary()
    except (KernelryError, ImportError):
        return Finding("uv", False, "missing", cure)
    return Finding("uv", True, f"{_output([str(path), '--version'])} at {path}", cure)


def _sqlite(settings: Settings) -> Finding:
    """Say whether SQLite can keep the records, and search in them."""
    cure = "use a Python with SQLite 3.37 or newer (STRICT tables), built with FTS5"
    ok, found = sqlite3.sqlite_version_info >= (3, 37), sqlite3.sqlite_version
    with closing(sqlite3.connect(":memory:")) as database:
        try:
            database.execute("CREATE VIRTUAL TABLE probe USING fts5 (text)")
        except sqlite3.Error as error:
            return Finding("sqlite", False, f"{found}, without full-text search ({error})", cure)
    return Finding("sqlite", ok, f"{found} with FTS5", cure)


def _fork(settings: Settings) -> Finding:
    """Start the fork server as `kernelry serve` would, with its test."""

    async def try_it() -> Started | None:
        with tempfile.TemporaryDirectory(prefix="kernelry-doctor-") as scratch:
            config = replace(
                settings.config(),
                state_dir=Path(scratch) / "state",
                state_dir_named=True,
                workspace=Path(scratch) / "workspace",
                warm=0,
            )
            async with Sessions(config) as sessions:
                await sessions.wait_until_warm()
                return sessions.fork_server

    cure = "kernels start as fresh processes: slower, and each has all its memory to itself"
    if settings.kernel_start == "spawn":
        return Finding("fork", True, "not wanted (kernel_start is spawn)")
    try:
        started = asyncio.run(try_it())
    except KernelryError as error:
        return Finding("fork", False, str(error), cure, needed=False)
    if started is None or not started.level:
        return Finding("fork", False, "does not work here", cure, needed=False)
    found = f"level {started.level}; preloaded: {', '.join(started.preloaded) or 'nothing'}"
    refused = "; ".join(f"{name} refused: {why}" for name, why in started.refused.items())
    return Finding(
        "fork",
        not refused,
        "; ".join(filter(None, [found, refused])),
        "leave that module out of --preload",
        needed=False,
    )


def _level(level: Isolation) -> Callable[[Settings], Finding]:
    """Return the check that tries an isolation level."""

    def check(settings: Settings) -> Finding:
        proof = proof_of(level)
        meaning = "without it sessions can't be kept apart like that"
        found = f"{proof.failure}; {meaning}" if proof.failure else "tried: its walls stand"
        needed = settings.isolation == level
        return Finding(level.value, not proof.failure, found, proof.cure, needed=needed)

    return check


def _isolation(settings: Settings) -> Finding:
    """Say what sessions would get."""
    config = settings.config()
    order = PREFERRED if config.isolation == "auto" else (Isolation(config.isolation),)
    proved = [level for level in order if not proof_of(level).failure]
    level = proved[0] if proved else Isolation.PROCESS
    if not proved and config.isolation != "auto":
        found = f"the server would not start: '{config.isolation}' was asked for"
        return Finding("isolation", False, found, f"see {config.isolation} above, or take auto")
    network = "on" if config.network or level is Isolation.PROCESS else "off"
    memory = quantity(config.limits.memory) if config.limits.memory else "unlimited"
    found = f"sessions get '{level}', network {network}, memory {memory}"
    if level is not Isolation.PROCESS:
        return Finding("isolation", True, found)
    found += ": any session can read the others' variables and all files of your user"
    cure = "see guard and box above; a container around the server helps, too"
    return Finding("isolation", config.isolation == "process", found, cure, needed=False)


@functools.cache
def proof_of(level: Isolation) -> Proof:
    """Return the outcome of trying a level, which is tried once."""
    with tempfile.TemporaryDirectory(prefix="kernelry-doctor-") as scratch:
        return asyncio.run(prove(level, Path(scratch)))


def _workspace(settings: Settings) -> Finding:
    path = settings.workspace.expanduser().absolute()
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    ok = os.access(there, os.W_OK)
    return Finding("workspace", ok, f"{path}", f"make {there} writable or name another --workspace")


def _state(settings: Settings) -> Finding:
    """Say who uses the state directory, and what its newest server found of the one before."""
    path = settings.config().state_dir.expanduser().absolute()
    cure = f"move {path} away, or name another --state-dir"
    try:
        found = last_report(path / DATABASE_NAME)
    except (sqlite3.Error, TypeError, ValueError) as error:
        return Finding("state", False, f"{path}: the records can't be read ({error})", cure)
    if found is None:
        return Finding("state", True, f"{path}: not used yet")
    at, report = found
    holder = holder_of(path)
    held = "no server runs on it" if holder == UNKNOWN_HOLDER else f"in use by {holder}"
    started = at.astimezone().isoformat(sep=" ", timespec="seconds")
    return Finding("state", True, f"{path}: {held}; last start {started}. {report}")


def _output(argv: list[str]) -> str | None:
    """Return what a program prints; None if it fails."""
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=PROGRAM_DEADLINE, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
