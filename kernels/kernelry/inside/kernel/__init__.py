"""ipykernel as kernelry wants it: what it answers, and how its output is bounded and kept."""

from . import streams
from .budget import Budgets, Limits
from .journal import Journal
from .kernel import KernelApp

__all__ = ["Budgets", "Journal", "KernelApp", "Limits", "streams"]
