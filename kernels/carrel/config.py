"""What a service is told at its start, and what follows from it for its kernels."""

import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import platformdirs

from carrel.engines.launch import OutputLimits

AUTO_PRELOADS = ("numpy", "pandas", "matplotlib.pyplot")  # where the interpreter has them


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """What a `Sessions` is told at its start."""

    #: where records are kept
    state_dir: Path = field(default_factory=lambda: platformdirs.user_state_path("carrel"))
    #: whether somebody named that directory (else a numbered one is taken when it is held)
    state_dir_named: bool = False
    #: the folder that all sessions share
    workspace: Path = field(default_factory=lambda: Path.home() / "carrel")
    #: interpreter of the kernels; it must have ipykernel
    python: Path = field(default_factory=lambda: Path(sys.executable))
    #: sessions that may exist at once
    max_sessions: int = 100
    #: seconds an execution may run when its call does not say; None: no limit
    execution_timeout: float | None = None
    #: "fork" or "spawn" forces how kernels are started; "auto" takes what works
    kernel_start: Literal["auto", "fork", "spawn"] = "auto"
    #: kernels that are kept ready
    warm: int = 2
    #: modules that forked kernels have imported; None: AUTO_PRELOADS
    preloads: tuple[str, ...] | None = None
    #: seconds that kernels wait for a new server when theirs was killed
    orphan_timeout: float = 60.0
    #: whether an orderly end leaves the kernels to the next server, too
    keep_kernels: bool = False
    #: how much of an execution's output leaves its kernel
    output: OutputLimits = field(default_factory=OutputLimits)


def interpreter(python: Path) -> Path:
    """Return an interpreter's absolute path; a bare name is looked up as a shell does."""
    found = shutil.which(python) if len(python.parts) == 1 else None
    # Not resolved: a virtual environment's interpreter is a link that must stay one.
    return Path(found or python.expanduser()).absolute()


def kernel_environment(directory: Path) -> dict[str, str]:
    """Return the environment variables of a kernel and of its session's scripts."""
    dropped = ("PYTHONDONTWRITEBYTECODE", "PYTHONHOME", "VIRTUAL_ENV")
    env = {
        name: value
        for name, value in os.environ.items()
        if name not in dropped and not name.startswith(("CARREL_", "JPY_"))
    }
    return env | {
        "IPYTHONDIR": str(directory / "ipython"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYTHONIOENCODING": "utf-8",
    }
