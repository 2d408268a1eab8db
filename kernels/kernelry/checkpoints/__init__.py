"""Saved namespaces: when they are made, where they are kept, whether they are as they were."""

from kernelry.checkpoints.service import Checkpoints

__all__ = [
    "Checkpoints",
]
