"""carrel: isolated Jupyter kernels, one per session id, that tell the truth.

The library under the MCP server, and usable without it::

    async with Sessions() as sessions:
        session = await sessions.create(SessionSpec(id="analysis"))
        run = await sessions.run(session, "print(6 * 7)")
        await run.wait(30)
        print(run.snapshot().status, run.snapshot().outputs)
"""

from carrel.artifacts.models import Artifact, ArtifactQuery
from carrel.artifacts.specs import ArtifactSpec
from carrel.checkpoint_models import Checkpoint, CheckpointReason
from carrel.config import Config
from carrel.engines.launch import OutputLimits
from carrel.errors import CarrelError
from carrel.models import (
    ArtifactLimits,
    Execution,
    ExecutionStatus,
    Isolation,
    KernelState,
    Limits,
    SessionSpec,
    SessionStatus,
)
from carrel.reports import Health
from carrel.run import Run
from carrel.selection import Order, Selection
from carrel.session import Session
from carrel.sessions import Sessions

__version__ = "0.1.0"

__all__ = [
    "Artifact",
    "ArtifactLimits",
    "ArtifactQuery",
    "ArtifactSpec",
    "CarrelError",
    "Checkpoint",
    "CheckpointReason",
    "Config",
    "Execution",
    "ExecutionStatus",
    "Health",
    "Isolation",
    "KernelState",
    "Limits",
    "Order",
    "OutputLimits",
    "Run",
    "Selection",
    "Session",
    "SessionSpec",
    "SessionStatus",
    "Sessions",
]
