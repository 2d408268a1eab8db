"""One live session and what runs in it."""

from kernelry.session import health, inspection, steering
from kernelry.session.adoption import with_what_ran
from kernelry.session.notes import with_changes
from kernelry.session.run import Run
from kernelry.session.services import Services, Spawner, isolated
from kernelry.session.session import DEFAULT, Session

__all__ = [
    "DEFAULT",
    "Run",
    "Services",
    "Session",
    "Spawner",
    "health",
    "inspection",
    "isolated",
    "steering",
    "with_changes",
    "with_what_ran",
]
