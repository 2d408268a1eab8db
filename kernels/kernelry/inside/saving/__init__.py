"""Write a namespace into a file, and read it back."""

from .checkpoints import Checkpoints

__all__ = ["Checkpoints"]
