"""Saved namespaces as data."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from kernelry.models.sessions import KernelRecord, now


class CheckpointReason(StrEnum):
    """Why a namespace was saved."""

    #: somebody asked for it; stays until its session or it is deleted
    MANUAL = "manual"
    #: before a restart that keeps the variables
    RESTART = "restart"
    #: before the session was suspended
    SUSPEND = "suspend"
    #: before the server stopped
    STOP = "stop"

    #: for branches of the session; goes when these are there
    BRANCH = "branch"
    #: before an execution, to put the session back to there; live
    REWIND = "rewind"
    #: before an execution that is to be rolled back if it fails; live, goes with its end
    ROLLBACK = "rollback"

    @property
    def is_automatic(self) -> bool:
        """Say whether newer ones of the same session replace it."""
        kinds = (CheckpointReason.RESTART, CheckpointReason.SUSPEND, CheckpointReason.STOP)
        return self in kinds


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """A variable that could not be saved, or not be restored."""

    #: its name
    name: str
    #: its class
    type: str
    #: why
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A saved namespace."""

    #: unique in the state directory, also the name of its file
    id: str
    #: whose namespace it was
    session_id: str
    #: what somebody called it; may be empty
    name: str = ""
    #: why it was taken
    reason: CheckpointReason = CheckpointReason.MANUAL
    #: when it was asked for
    created_at: datetime = field(default_factory=now)
    #: bytes of its file
    size: int = 0
    #: keyed BLAKE3 of the file, as hex
    digest: str = ""
    #: version of the Python that wrote it
    python: str = ""
    #: seconds in which the kernel could do nothing else
    blocked: float = 0.0
    #: names of what is in it
    variables: tuple[str, ...] = ()
    #: what is not
    skipped: tuple[LeftOut, ...] = ()
    #: the copy of the kernel that it is, with everything; None: it is a file, with its variables
    process: KernelRecord | None = None
    #: what such a copy lacks, or shares with its origin
    named: tuple[str, ...] = ()
    #: the execution before which it was made; empty: before none in particular
    execution_id: str = ""
    #: how many executions its session had had
    count: int = 0
    #: numbers of those that were undone then
    undone: tuple[int, ...] = ()

    @property
    def is_live(self) -> bool:
        """Say whether it has everything, and is gone with the machine."""
        return self.process is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Restoration:
    """What became of a restore."""

    #: what was restored
    checkpoint: Checkpoint
    #: into which session
    session_id: str
    #: names of the variables that came back
    restored: tuple[str, ...] = ()
    #: those of the checkpoint that did not
    failed: tuple[LeftOut, ...] = ()
    #: other versions than those it was saved with
    warnings: tuple[str, ...] = ()
