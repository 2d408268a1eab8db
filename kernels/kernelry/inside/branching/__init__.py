"""A kernel that runs forks itself, and the copy becomes another session's kernel."""

from .becoming import Branched, Opened, become
from .forking import Branching

__all__ = ["Branched", "Branching", "Opened", "become"]
