"""One live session and what runs in it."""

from kernelry.session import health, steering
from kernelry.session.adoption import with_what_ran
from kernelry.session.notes import with_changes
from kernelry.session.run import Run
from kernelry.session.running import ScriptRun
from kernelry.session.services import Services, Spawner, isolated
from kernelry.session.session import DEFAULT, Session
from kernelry.session.usage import NEAR, SharedMemory, Usage, family, measure, quantity, size_of

__all__ = [
    "DEFAULT",
    "NEAR",
    "Run",
    "ScriptRun",
    "Services",
    "Session",
    "SharedMemory",
    "Spawner",
    "Usage",
    "family",
    "health",
    "isolated",
    "measure",
    "quantity",
    "size_of",
    "steering",
    "with_changes",
    "with_what_ran",
]
