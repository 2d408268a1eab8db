"""What a service is told at its start, and what follows from it for its kernels."""

import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import platformdirs

from kernelry.engines import OutputLimits
from kernelry.models import ArtifactLimits, Limits
from kernelry.templates import Template

AUTO_PRELOADS = ("numpy", "pandas", "matplotlib.pyplot")  # where the interpreter has them


#: variables that kernels get of the server's; all others may hold a secret
PASSED_ON = frozenset((
    "PATH", "LANG", "LANGUAGE", "TZ", "TERM", "COLORTERM", "NO_COLOR", "USER", "LOGNAME",
    "SHELL", "HOSTNAME", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PYTHONPATH", "PYTHONHASHSEED", "PYTHONUTF8",
    "PYTHONWARNINGS", "JAVA_HOME", "GDAL_DATA", "PROJ_LIB", "R_HOME", "http_proxy",
    "https_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
    "ALL_PROXY", "PIP_CERT", "PIP_DEFAULT_TIMEOUT", "PIP_DISABLE_PIP_VERSION_CHECK",
    "PIP_FIND_LINKS", "UV_SYSTEM_CERTS", "UV_FIND_LINKS", "UV_OFFLINE", "PIP_NO_INDEX",
))  # fmt: skip
#: a password in an address, such as a proxy's
CREDENTIALS = re.compile(r"://[^/@\s]+@")
PASSED_ON_PREFIXES = (
    "LC_", "OMP_", "MKL_", "OPENBLAS_", "NUMEXPR_", "NUMBA_", "KMP_", "GOMP_", "BLIS_",
    "VECLIB_", "MALLOC_", "CUDA_", "NVIDIA_", "ROCR_", "HIP_", "XLA_",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """What a `Sessions` is told at its start."""

    #: where records are kept
    state_dir: Path = field(default_factory=lambda: platformdirs.user_state_path("kernelry"))
    #: whether somebody named that directory (else a numbered one is taken when it is held)
    state_dir_named: bool = False
    #: the folder that all sessions share
    workspace: Path = field(default_factory=lambda: Path.home() / "kernelry")
    #: interpreter of the kernels; it must have ipykernel
    python: Path = field(default_factory=lambda: Path(sys.executable))
    #: sessions that may exist at once
    max_sessions: int = 100
    #: whether packages may be built from source, which runs their code
    allow_sdist: bool = False
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
    #: how sessions are kept apart; "auto": the best that a probe proves
    isolation: Literal["auto", "process", "guard", "box"] = "auto"
    #: whether sessions may use the network
    network: bool = True
    #: what sessions may read besides the system, the workspace and their own
    allow_read: tuple[Path, ...] = ()
    #: what sessions may change besides the workspace and their own
    allow_write: tuple[Path, ...] = ()
    #: variables that kernels get besides `PASSED_ON`: names, or NAME=VALUE
    kernel_env: tuple[str, ...] = ()
    #: how much of the machine a session may use
    limits: Limits = field(default_factory=Limits)
    #: bytes of memory that all sessions together may use; 0: no limit
    total_memory: int = 0
    #: presets for sessions, by name
    templates: Mapping[str, Template] = field(default_factory=dict)
    #: files that nobody but the server may read, by what names them
    secrets: Mapping[str, Path] = field(default_factory=dict)
    #: files that the server believes, by what names them
    trusted: Mapping[str, Path] = field(default_factory=dict)
    #: whether kernels get control groups of their own where these can be had
    control_groups: bool = True
    #: how much a session may keep as artifacts
    artifacts: ArtifactLimits = field(default_factory=ArtifactLimits)
    #: automatic checkpoints that are kept of each session
    keep_checkpoints: int = 3
    #: before how many of its newest executions a session can be put back, if it does not say
    rewind: int = 0
    #: live checkpoints that there may be, of all sessions together, beside those for `rewind`
    live_checkpoints: int = 20
    #: bytes of memory that these may have of their own
    live_memory: int = 1 << 30
    #: whether an orderly end saves the variables of sessions, as far as there is time
    save_on_stop: bool = False
    #: how much of an execution's output leaves its kernel
    output: OutputLimits = field(default_factory=OutputLimits)


def interpreter(python: Path) -> Path:
    """Return an interpreter's absolute path; a bare name is looked up as a shell does."""
    found = shutil.which(python) if len(python.parts) == 1 else None
    # Not resolved: a virtual environment's interpreter is a link that must stay one.
    return Path(found or python.expanduser()).absolute()


def kernel_environment(directory: Path, more: Iterable[str] = ()) -> dict[str, str]:
    """Return the environment variables of a kernel and of its session's scripts.

    Args:
        directory: The session's private directory.
        more: What is passed on besides `PASSED_ON`: names, or NAME=VALUE.
    """
    wanted = [item.partition("=") for item in more]
    env = {
        name: value
        for name, value in os.environ.items()
        if (name in PASSED_ON or name.startswith(PASSED_ON_PREFIXES))
        and not CREDENTIALS.search(value)
    }
    env |= {
        name: value if equals else os.environ[name]
        for name, equals, value in wanted
        if equals or name in os.environ
    }
    return env | {
        "HOME": str(directory / "home"),
        "TMPDIR": str(directory / "tmp"),
        "IPYTHONDIR": str(directory / "ipython"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYTHONIOENCODING": "utf-8",
    }
