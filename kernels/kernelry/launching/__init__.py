"""Where kernels come from, and behind which walls."""

from kernelry.launching.descriptors import check_descriptors, raise_limit
from kernelry.launching.isolation import PREFERRED, Levels, Proof, narrow, prove, stronger
from kernelry.launching.launches import Launches
from kernelry.launching.places import check_workspace, writable
from kernelry.launching.source import KernelSource

__all__ = [
    "PREFERRED",
    "KernelSource",
    "Launches",
    "Levels",
    "Proof",
    "check_descriptors",
    "check_workspace",
    "narrow",
    "prove",
    "raise_limit",
    "stronger",
    "writable",
]
