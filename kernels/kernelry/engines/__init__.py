"""Where kernels run, and how we talk to them."""

from kernelry.engines.branching import NoCopyError
from kernelry.engines.forkserver import Profile
from kernelry.engines.frozen import FrozenKernel, held
from kernelry.engines.guardians import Started
from kernelry.engines.kernel import LocalKernel
from kernelry.engines.launch import Environment, Launch, OutputLimits
from kernelry.engines.local import LocalEngine
from kernelry.engines.pool import WarmKernel, WarmPool

__all__ = [
    "Environment",
    "FrozenKernel",
    "Launch",
    "LocalEngine",
    "LocalKernel",
    "NoCopyError",
    "OutputLimits",
    "Profile",
    "Started",
    "WarmKernel",
    "WarmPool",
    "held",
]
