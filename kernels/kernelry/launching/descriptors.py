"""File descriptors of this process: enough for many sessions, and a refusal before none is left."""

import resource
from pathlib import Path

from kernelry.errors import LimitExceededError

PER_SESSION = 12  # descriptors that a kernel and its start take at most, for a while
FULL = 0.9  # share of the limit that sessions may use; the rest is for calls and the store


def raise_limit() -> None:
    """Allow this process as many descriptors as the system lets it have without asking."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def check_descriptors(count: int = 1) -> None:
    """Refuse more kernels when they could take what running sessions need.

    Args:
        count: How many are about to start.

    Raises:
        LimitExceededError: There is no room; the message has the numbers.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    used = count_descriptors()
    if limit != resource.RLIM_INFINITY and used + count * PER_SESSION > FULL * limit:
        wanted = "another kernel" if count == 1 else f"{count} kernels"
        msg = (
            f"this server has {used} of at most {limit} file descriptors in use, too many to start "
            f"{wanted}. Delete a session that is not needed, or raise the limit "
            "(ulimit -n) and start the server again."
        )
        raise LimitExceededError(msg)


def count_descriptors() -> int:
    """Return how many descriptors this process has; 0 where the system does not tell."""
    folder = Path("/proc/self/fd")
    return sum(1 for _ in folder.iterdir()) if folder.exists() else 0
