"""Write a namespace into a file, and read it back."""

from .checkpoints import Checkpoints
from .surroundings import generators, set_generators

__all__ = ["Checkpoints", "generators", "set_generators"]
