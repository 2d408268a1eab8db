"""Where kernels run, and how we talk to them."""

from kernelry.engines.cgroups import OWN, Group, can_group, end_groups, make_group
from kernelry.engines.forkserver import Profile
from kernelry.engines.guardians import Started
from kernelry.engines.kernel import LocalKernel
from kernelry.engines.launch import Environment, Launch, OutputLimits
from kernelry.engines.local import LocalEngine
from kernelry.engines.pool import WarmKernel, WarmPool
from kernelry.engines.process import Exit, KernelProcess, end_strays
from kernelry.engines.walls import INSIDE, SYSTEM, Walls, links, outside, own_paths

__all__ = [
    "INSIDE",
    "OWN",
    "SYSTEM",
    "Environment",
    "Exit",
    "Group",
    "KernelProcess",
    "Launch",
    "LocalEngine",
    "LocalKernel",
    "OutputLimits",
    "Profile",
    "Started",
    "Walls",
    "WarmKernel",
    "WarmPool",
    "can_group",
    "end_groups",
    "end_strays",
    "links",
    "make_group",
    "outside",
    "own_paths",
]
