"""Packages for a session that runs: installed all or none, and seen by its kernel at once."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from kernelry.engines import LocalKernel
from kernelry.errors import KernelSilentError
from kernelry.models import SessionRecord
from kernelry.packages import InstallReport, SessionEnvironment
from kernelry.session import inspection
from kernelry.session.services import Services
from kernelry.walls import Walls


class Owner(Protocol):
    """The session, as far as what is installed concerns it."""

    #: what is kept of it
    record: SessionRecord
    #: its kernel
    kernel: LocalKernel | None
    #: its packages
    environment: SessionEnvironment
    #: what it uses
    services: Services

    @property
    def walls(self) -> Walls:
        """What stands between it and the rest."""
        ...


async def install(owner: Owner, wanted: Sequence[str], timeout: float) -> InstallReport:
    """Install packages into a session; see `Session.install`."""
    done = await owner.environment.install(wanted, walls=owner.walls, timeout=timeout)
    if not done.installed:
        return InstallReport(installation=done)
    names = [pin.split("==")[0] for pin in done.installed]
    try:
        stale = await adopt_environment(owner, names)
    except KernelSilentError:
        # In native code now: it can't be told. A restart will find the environment.
        stale = names
    return InstallReport(installation=done, stale_modules=tuple(stale))


async def adopt_environment(owner: Owner, distributions: Sequence[str]) -> list[str]:
    """Make a running kernel see its environment; name modules it had loaded before.

    Args:
        owner: The session.
        distributions: What was just installed, by name.
    """
    if owner.kernel is None or owner.kernel.process.exit is not None:
        return []
    environment = owner.environment
    stale = await inspection.adopt_environment(
        owner.kernel, environment.prefix, environment.site, list(distributions)
    )
    # What the fork server imported, a fork has again; a fresh process does not.
    if stale and not owner.record.fresh:
        owner.record = replace(owner.record, fresh=True)
        await owner.services.store.save_session(owner.record)
    return stale
