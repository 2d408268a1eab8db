"""Processes as Linux keeps them: who they are, who belongs to them, how they end."""

from kernelry.processes.cgroups import (
    OWN,
    Group,
    Grouping,
    can_group,
    end_groups,
    hierarchy,
    known_group,
    make_group,
    remove_unused,
)
from kernelry.processes.families import (
    KERNEL_MARK,
    boot_id,
    end_strays,
    family,
    is_known,
    kill_family,
    members,
    parent_of,
)
from kernelry.processes.process import (
    FAMILY_DEADLINE,
    Exit,
    ForkedProcess,
    KernelProcess,
    SpawnedProcess,
    is_readable,
)

__all__ = [
    "FAMILY_DEADLINE",
    "KERNEL_MARK",
    "OWN",
    "Exit",
    "ForkedProcess",
    "Group",
    "Grouping",
    "KernelProcess",
    "SpawnedProcess",
    "boot_id",
    "can_group",
    "end_groups",
    "end_strays",
    "family",
    "hierarchy",
    "is_known",
    "is_readable",
    "kill_family",
    "known_group",
    "make_group",
    "members",
    "parent_of",
    "remove_unused",
]
