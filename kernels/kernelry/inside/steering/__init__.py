"""What code and server tell each other while code runs, and what code knows of its session."""

from .answering import answering
from .notes import Notes, resident_memory
from .questions import Questions
from .safepoints import SafePoints
from .session import NAME, install_module
from .stopping import Stopping
from .touched import Touched

__all__ = [
    "NAME",
    "Notes",
    "Questions",
    "SafePoints",
    "Stopping",
    "Touched",
    "answering",
    "install_module",
    "resident_memory",
]
