"""What sessions use of the machine, read from outside."""

from kernelry.usage.files import SharedMemory, oom_kills, size_of
from kernelry.usage.measuring import NEAR, Usage, measure, measure_script
from kernelry.usage.running import ScriptRun, Scripts
from kernelry.usage.trees import ProcessTree, memory_used, read_tree
from kernelry.usage.words import period, quantity

__all__ = [
    "NEAR",
    "ProcessTree",
    "ScriptRun",
    "Scripts",
    "SharedMemory",
    "Usage",
    "measure",
    "measure_script",
    "memory_used",
    "oom_kills",
    "period",
    "quantity",
    "read_tree",
    "size_of",
]
