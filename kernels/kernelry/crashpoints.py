"""Named places at which a server can be killed on purpose, to prove that nothing is lost there.

``KERNELRY_CRASH_AT=run.sent`` ends the process with SIGKILL when it first comes to that place,
``run.sent:3`` when it does for the third time. Used by tests/faults; without the variable a
place costs a comparison.
"""

import os
import signal

VARIABLE = "KERNELRY_CRASH_AT"

CRASH_POINTS = (
    "create.begun",  # nothing exists yet
    "kernel.started",  # a kernel runs, no record knows it
    "kernel.saved",  # it is in its session's record
    "run.queued",  # an execution is written down
    "run.intended",  # it is about to be sent
    "run.sent",  # it was sent
    "run.ended",  # its outcome is known
    "run.written",  # and written down
    "restart.begun",  # the old kernel is given up
    "restart.stopped",  # it has ended
    "delete.begun",  # the session is marked
    "delete.stopped",  # its kernel has ended
    "delete.forgotten",  # its record is gone
    "recover.adopted",  # kernels of a dead server are ours
    "recover.swept",  # what it left is cleaned up
    "store.opened",  # the database is open
)
#: those that only an installation comes by
INSTALL_POINTS = (
    "install.planned",  # what is to be moved is written down
    "install.emptied",  # what is replaced is out of the environment
    "install.moved",  # what is new is in it
)
#: those that only a checkpoint comes by
CHECKPOINT_POINTS = (
    "checkpoint.forked",  # a child of the kernel writes it
    "checkpoint.written",  # it is in the session's directory
    "checkpoint.taken",  # it is in the state directory, no record knows it
    "checkpoint.kept",  # it is written down
)
#: those that only a suspension comes by
SUSPEND_POINTS = (
    "suspend.saved",  # the variables are, nothing says so
    "suspend.marked",  # the session is suspended, its kernel lives
)
#: those that only a branch comes by
BRANCH_POINTS = (
    "branch.forked",  # its kernel runs, no record knows it
    "branch.saved",  # it is in its session's record
)
#: those that only a live checkpoint comes by
LIVE_POINTS = (
    "live.frozen",  # a copy of the kernel waits, no record knows it
    "live.kept",  # it is written down
)
#: those that only what puts a session back comes by
UNDO_POINTS = (
    "live.ended",  # it is restored: the kernel that there was has ended
    "rollback.begun",  # an execution that is to be rolled back has ended
    "rollback.done",  # the session is as before it, nothing says so
)

_name, _, _count = os.environ.get(VARIABLE, "").partition(":")
_left = int(_count) if _count.isdigit() else 1


def crash_point(name: str) -> None:
    """Die here if that was asked for."""
    global _left
    if name == _name:
        _left -= 1
        if _left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
