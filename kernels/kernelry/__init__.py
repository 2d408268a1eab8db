"""kernelry: isolated Jupyter kernels, one per session id, that tell the truth.

The library under the MCP server, and usable without it::

    async with Sessions() as sessions:
        session = await sessions.create(SessionSpec(id="analysis"))
        run = await sessions.run(session, "print(6 * 7)")
        await run.wait(30)
        print(run.snapshot().status, run.snapshot().outputs)
"""

from kernelry.artifacts import Artifact, ArtifactQuery, ArtifactSpec
from kernelry.config import Config
from kernelry.engines import OutputLimits
from kernelry.errors import KernelryError
from kernelry.models import (
    ArtifactLimits,
    Checkpoint,
    CheckpointReason,
    Execution,
    ExecutionStatus,
    Health,
    Isolation,
    KernelState,
    Limits,
    SessionSpec,
    SessionStatus,
)
from kernelry.selection import Order, Selection
from kernelry.session import Run, Session
from kernelry.sessions import Sessions

__version__ = "0.1.0"

__all__ = [
    "Artifact",
    "ArtifactLimits",
    "ArtifactQuery",
    "ArtifactSpec",
    "Checkpoint",
    "CheckpointReason",
    "Config",
    "Execution",
    "ExecutionStatus",
    "Health",
    "Isolation",
    "KernelState",
    "KernelryError",
    "Limits",
    "Order",
    "OutputLimits",
    "Run",
    "Selection",
    "Session",
    "SessionSpec",
    "SessionStatus",
    "Sessions",
    "__version__",
]
