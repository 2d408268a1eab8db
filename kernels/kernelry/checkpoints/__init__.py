"""Saved namespaces: when they are made, where they are kept, whether they are as they were."""

from kernelry.checkpoints.live import check_alike
from kernelry.checkpoints.service import Checkpoints
from kernelry.checkpoints.turns import turn

__all__ = [
    "Checkpoints",
    "check_alike",
    "turn",
]
