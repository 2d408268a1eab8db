"""Executions as data, and how they can end.

All frozen: a change is a new value. Times are aware UTC datetimes, durations seconds.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from kernelry.models.sessions import now
from kernelry.output import Output


class ExecutionStatus(StrEnum):
    """How far an execution is, or how it ended."""

    #: written down, not sent
    QUEUED = "queued"
    #: sent to the kernel
    RUNNING = "running"
    #: asks for input
    WAITING_INPUT = "waiting_input"
    #: ended without an exception
    COMPLETED = "completed"
    #: the user's code raised
    FAILED = "failed"
    #: stopped on request
    INTERRUPTED = "interrupted"
    #: stopped because it took longer than its timeout
    TIMED_OUT = "timed_out"
    #: never ran
    CANCELLED = "cancelled"
    #: the kernel went while it ran
    DIED = "died"
    #: its outcome can't be known
    LOST = "lost"

    @property
    def is_final(self) -> bool:
        """Say whether an execution with this status can still change."""
        return self not in _OPEN_STATUSES


_OPEN_STATUSES = frozenset(
    {ExecutionStatus.QUEUED, ExecutionStatus.RUNNING, ExecutionStatus.WAITING_INPUT}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutionError:
    """Why an execution did not complete."""

    #: class of the exception, or the kind of end ("KernelDied", "Timeout", ...)
    type: str
    #: what it said
    message: str
    #: frames as plain text, without ANSI escapes; may be empty
    traceback: str = ""


class OnError(StrEnum):
    """What becomes of the variables when an execution does not complete."""

    #: they stay as they are then
    KEEP = "keep"
    #: they are as before it; where that can't be it does not run
    ROLLBACK = "rollback"
    #: they are as before it where that can be
    IF_POSSIBLE = "rollback_if_possible"


class Undone(StrEnum):
    """Why what an execution did to the variables is gone."""

    #: it is not
    NO = ""
    #: it did not complete, and was to be rolled back then
    ROLLBACK = "rollback"
    #: the session was put back to before it
    REWIND = "rewind"


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What the code of an execution asks, by input() or getpass()."""

    #: tells it from others of the same kernel
    id: str
    #: what is asked
    prompt: str
    #: whether the answer is a secret
    hidden: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Execution:
    """One run of code in a session."""

    #: unique, also the msg_id of its execute_request
    id: str
    #: the session it belongs to
    session_id: str
    #: its number in the session, from 1
    index: int
    #: which kernel of the session ran it
    generation: int
    #: what was run
    code: str
    #: how far it is, or how it ended
    status: ExecutionStatus = ExecutionStatus.QUEUED
    #: seconds it may run before it is interrupted; None: no limit
    timeout: float | None = None
    #: when it was asked for
    created_at: datetime = field(default_factory=now)
    #: when it was sent to the kernel
    started_at: datetime | None = None
    #: when its outcome was known
    ended_at: datetime | None = None
    #: seconds between the two, by a monotonic clock
    duration: float = 0.0
    #: why it did not complete
    error: ExecutionError | None = None
    #: workspace files that it created or changed, relative paths
    new_files: tuple[str, ...] = ()
    #: what it emitted
    outputs: tuple[Output, ...] = ()
    #: whether all it emitted is known to have arrived
    outputs_complete: bool = True
    #: what happened to it besides (an interrupt without effect, ...)
    note: str = ""
    #: how far it said that it is; empty: it said nothing
    progress: str = ""
    #: what it asks while it is waiting for input
    question: Question | None = None
    #: bytes of memory that the kernel had when it began; 0: not known
    memory_before: int = 0
    #: bytes of memory that the kernel had when it ended; 0: not known
    memory_after: int = 0
    #: what becomes of the variables if it does not complete
    on_error: OnError = OnError.KEEP
    #: whether what it did to the variables is gone, and why
    undone: Undone = Undone.NO
