"""Limits of this process and all that it starts, as the operating system keeps them.

They are entered once, before any code of the user's, and can only be lowered afterwards.
Memory is RLIMIT_DATA: the kernel survives it, with a MemoryError (RLIMIT_AS kills kernels;
measured in reference/security-and-faults.md section 3.4). What they miss the server watches.
"""

import contextlib
import resource
from typing import Any

OOM_SCORE = "900"  # when memory is short Linux takes kernels first, never the server
NAMES = {
    "memory": resource.RLIMIT_DATA,
    "file_size": resource.RLIMIT_FSIZE,
    "open_files": resource.RLIMIT_NOFILE,
}


def enter(limits: dict[str, Any]) -> None:
    """Set the limits; a missing one, or 0, is none.

    Args:
        limits: memory and file_size in bytes, open_files.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(OOM_SCORE)
    for name, number in NAMES.items():
        if wanted := limits.get(name):
            _, hard = resource.getrlimit(number)
            value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(number, (value, value))
