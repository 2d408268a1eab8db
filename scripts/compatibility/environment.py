"""The environment of the workloads, with what data scientists use; made once, below .scratch/."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".scratch" / "workloads"
PYTHON = FOLDER / "bin" / "python"
PACKAGES = (
    "altair",
    "bokeh",
    "duckdb",
    "ipywidgets",
    "matplotlib",
    "nbformat",
    "networkx",
    "numpy",
    "openpyxl",
    "pandas",
    "pip",
    "plotly",
    "polars",
    "pyarrow",
    "rich",
    "scikit-learn",
    "scipy",
    "seaborn",
    "sympy",
    "tqdm",
    "vl-convert-python",
)
#: what torch's build for the CPU needs; where it lies in a folder of wheels it comes without
TORCH_NEEDS = ("filelock", "typing-extensions", "jinja2", "fsspec")
ASK_VERSIONS = (
    "import importlib.metadata as m, sys\n"
    "for d in m.distributions(): print(d.metadata['Name'].lower(), d.version)"
)


def make_environment() -> dict[str, str]:
    """Make the environment if there is none, and return the versions of what it has."""
    if not PYTHON.exists():
        print(f"... making {FOLDER.relative_to(ROOT)}", file=sys.stderr, flush=True)
        _uv("venv", "--python", sys.executable, str(FOLDER))
        _uv("pip", "install", "--python", str(PYTHON), f"ipykernel=={version('ipykernel')}")
        _uv("pip", "install", "--python", str(PYTHON), *PACKAGES)
    found = versions(PYTHON)
    if "torch" not in found and _install_torch():
        found = versions(PYTHON)
    return found


def versions(python: Path) -> dict[str, str]:
    """Return the versions of the distributions that an interpreter has."""
    said = subprocess.run([python, "-c", ASK_VERSIONS], capture_output=True, text=True, check=True)
    return dict(line.split(" ", 1) for line in said.stdout.splitlines())


def _install_torch() -> bool:
    """Install torch's build for the CPU: from a folder of wheels, if pip is told one, or by uv."""
    wheels = os.environ.get("PIP_FIND_LINKS", "")
    if wheels and list(Path(wheels).glob("torch-*.whl")):
        _uv("pip", "install", "--python", str(PYTHON), *TORCH_NEEDS)
        flags = ["--no-index", "--no-deps", "--find-links", wheels]
    else:
        flags = ["--torch-backend", "cpu"]
    return _uv("pip", "install", "--python", str(PYTHON), *flags, "torch", must=False)


def _uv(*arguments: str, must: bool = True) -> bool:
    """Run uv; return whether that worked."""
    env = {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"}
    done = subprocess.run([sys.executable, "-m", "uv", "--quiet", *arguments], env=env, check=must)
    return done.returncode == 0
