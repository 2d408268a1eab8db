"""Keep the server's memory, and with it its tokens, from other processes of the same user."""

import ctypes
import sys

PR_SET_DUMPABLE = 4


def hide_memory() -> None:
    """Let nobody read this process's memory and variables, or trace it, but root.

    Processes that it starts are as they would be: a new program resets this.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
