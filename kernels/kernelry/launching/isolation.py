"""Which isolation levels this machine can give, found by trying them, and what is chosen.

A level counts only when a process has entered its walls and they stood. What somebody asked
for by name and can't be proved is an error; "auto" takes the best that can and says so.
"""

import asyncio
import logging
import shutil
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from kernelry.config import Config
from kernelry.errors import ConflictError, IsolationError
from kernelry.launching.places import check_places
from kernelry.models import Isolation, SessionRecord, SessionSpec
from kernelry.processes import can_group
from kernelry.programs import run_program
from kernelry.walls import Walls

log = logging.getLogger(__name__)

PROOF_DEADLINE = 20.0  # seconds a proof may take
#: what "auto" tries, in this order: guard keeps apart as well as box, from the same Linux, and
#: its kernels can be forked
PREFERRED = (Isolation.GUARD, Isolation.BOX)

CURES = {
    Isolation.PROCESS: "",
    Isolation.GUARD: (
        "it needs Linux 6.12 or newer with Landlock (boot with lsm=landlock,... if it is built "
        "in but off) on x86-64 or 64-bit ARM, and a container that allows its system calls"
    ),
    Isolation.BOX: (
        "install bubblewrap (apt-get install bubblewrap) and allow user namespaces "
        "(sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns=0)"
    ),
}


@dataclass(frozen=True, slots=True)
class Proof:
    """Whether this machine can give a level."""

    #: the level
    level: Isolation
    #: why not; empty: it can, that was tried
    failure: str = ""

    @property
    def cure(self) -> str:
        """What would help; empty: nothing is wrong."""
        return CURES[self.level] if self.failure else ""


async def prove(level: Isolation, workspace: Path) -> Proof:
    """Enter the walls of a level in a process of its own, and say whether they stand.

    Args:
        level: Which.
        workspace: A directory that is there.
    """
    if level is Isolation.PROCESS:
        return Proof(level)
    if sys.platform != "linux":
        return Proof(level, f"it is made of parts of Linux, this is {sys.platform}")
    bwrap = find_bwrap()
    if level is Isolation.BOX and bwrap is None:
        return Proof(level, "bubblewrap (bwrap) is not installed")
    walls = Walls(isolation=level, network=False, bwrap=bwrap)
    argv = walls.confine([], cwd=workspace, reads=(), writes=[workspace])
    done = await run_program(argv, env={"PATH": "/usr/bin:/bin"}, timeout=PROOF_DEADLINE)
    if done.returncode == 0:
        return Proof(level)
    said = done.stderr.strip().splitlines()
    return Proof(level, said[-1] if said else f"exit code {done.returncode}")


async def prove_all(workspace: Path) -> list[Proof]:
    """Try all levels."""
    return list(await asyncio.gather(*(prove(level, workspace) for level in Isolation)))


class Levels:
    """The isolation levels of one server: what it gives, and what was proved.

    Args:
        workspace: A directory that is there.
    """

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace
        self._proved: set[Isolation] = set()

    async def choose(self, config: Config) -> Walls:
        """Return what stands between a session and the rest, and say so in the log.

        Raises:
            IsolationError: A level that was asked for by name can't be proved, or a path that
                walls are built from is a session's to change.
        """
        level = await self._best() if config.isolation == "auto" else Isolation(config.isolation)
        if level is not Isolation.PROCESS:
            check_places(config)
        await self.require(level)
        network = config.network
        if level is Isolation.PROCESS and not network:
            log.warning("level 'process' can't keep sessions off the network: it is on")
            network = True
        shown = "on" if network else "off"
        limits = ", ".join(
            f"{name} {value:g}" for name, value in asdict(config.limits).items() if value
        )
        msg = "sessions are isolated at level '%s', network %s, limits: %s"
        log.info(msg, level, shown, limits or "none")
        return Walls(
            isolation=level,
            network=network,
            allow_read=config.allow_read,
            allow_write=config.allow_write,
            limits=config.limits,
            bwrap=find_bwrap(),
            counts_all=config.control_groups and can_group(),
        )

    async def require(self, level: Isolation) -> None:
        """See to it that a level was proved.

        Raises:
            IsolationError: It can't be; says why not, and what helps.
        """
        if level in self._proved:
            return
        proof = await prove(level, self._workspace)
        if proof.failure:
            msg = f"isolation '{level}' can't be had here: {proof.failure}. Cure: {proof.cure}."
            raise IsolationError(msg)
        self._proved.add(level)

    async def _best(self) -> Isolation:
        for level in PREFERRED:
            proof = await prove(level, self._workspace)
            if not proof.failure:
                self._proved.add(level)
                return level
            log.warning("no isolation '%s': %s. Cure: %s.", level, proof.failure, proof.cure)
        return Isolation.PROCESS


def narrow(walls: Walls, wanted: SessionSpec) -> Walls:
    """Return walls with less freedom.

    Args:
        walls: Those of the server.
        wanted: What a new session asks for.

    Raises:
        ConflictError: That would be more freedom than the server gives.
    """
    isolation, network = wanted.isolation, wanted.network
    if isolation is not None and isolation.strength < walls.isolation.strength:
        msg = (
            f"this server isolates sessions at level '{walls.isolation}'; a session can ask for "
            f"more, not for '{isolation}'. The server's option --isolation sets its level."
        )
        raise ConflictError(msg)
    if network and not walls.network:
        msg = "the network is off on this server; its option --network turns it on"
        raise ConflictError(msg)
    for name, value in wanted.limits.items():
        own = getattr(walls.limits, name)
        if value < 0 or (own and value > own):
            msg = f"{name} can be lowered only: it is {own:g} on this server, not {value:g}"
            raise ConflictError(msg)
    narrowed = stronger(walls, wanted)
    check_network(narrowed)
    return narrowed


def stronger(walls: Walls, wanted: SessionSpec | SessionRecord) -> Walls:
    """Return walls that are at least as strong as both those of a server and what was asked for."""
    isolation = wanted.isolation
    if isolation is None and wanted.network is not False and not wanted.limits:
        return walls
    if isolation is None or isolation.strength < walls.isolation.strength:
        isolation = walls.isolation
    return replace(
        walls,
        isolation=isolation,
        network=walls.network and wanted.network is not False,
        limits=walls.limits.narrowed(wanted.limits),
    )


def check_network(walls: Walls) -> None:
    """See to it that a session which is to have no network has none.

    Raises:
        ConflictError: Its level can't do that.
    """
    if not walls.network and walls.isolation is Isolation.PROCESS:
        msg = "level 'process' can't keep a session off the network; ask for 'guard' or 'box'"
        raise ConflictError(msg)


def find_bwrap() -> Path | None:
    """Return the program that makes boxes, if it is installed."""
    found = shutil.which("bwrap")
    return Path(found) if found else None
