"""The walls of a process: what it may reach (Landlock, seccomp), and how much it may use."""

from . import doors, guard, limits
from .guard import Walls
from .limits import Memory

__all__ = ["Memory", "Walls", "doors", "guard", "limits"]
