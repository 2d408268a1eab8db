"""A kernel that runs forks itself, and the copy becomes another session's kernel, or waits."""

from .becoming import Branched, Opened, become, carry_over, leave
from .forking import Branching
from .freezing import wait_frozen

__all__ = ["Branched", "Branching", "Opened", "become", "carry_over", "leave", "wait_frozen"]
