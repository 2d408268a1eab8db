"""The words of kernelry as data: sessions, executions, checkpoints, and what is said of them."""

from kernelry.models.checkpoints import Checkpoint, CheckpointReason, LeftOut, Restoration
from kernelry.models.executions import (
    Execution,
    ExecutionError,
    ExecutionStatus,
    OnError,
    Question,
    Undone,
)
from kernelry.models.ids import short_id
from kernelry.models.reports import (
    Activity,
    Health,
    HealthStatus,
    InterruptReport,
    InterruptStep,
    Look,
    Steered,
    Variable,
)
from kernelry.models.sessions import (
    ArtifactLimits,
    Event,
    Isolation,
    KernelRecord,
    KernelState,
    Limits,
    SessionRecord,
    SessionSpec,
    SessionStatus,
    now,
)

__all__ = [
    "Activity",
    "ArtifactLimits",
    "Checkpoint",
    "CheckpointReason",
    "Event",
    "Execution",
    "ExecutionError",
    "ExecutionStatus",
    "Health",
    "HealthStatus",
    "InterruptReport",
    "InterruptStep",
    "Isolation",
    "KernelRecord",
    "KernelState",
    "LeftOut",
    "Limits",
    "Look",
    "OnError",
    "Question",
    "Restoration",
    "SessionRecord",
    "SessionSpec",
    "SessionStatus",
    "Steered",
    "Undone",
    "Variable",
    "now",
    "short_id",
]
