"""What every client is told at the start: what this is, what is there, what to do in which case."""

import importlib.util
import sys
from collections.abc import Container
from pathlib import Path

#: import name -> what people call it; named where the kernels' interpreter has it
PACKAGES = {
    "numpy": "numpy", "pandas": "pandas", "scipy": "scipy", "sklearn": "scikit-learn",
    "matplotlib": "matplotlib", "seaborn": "seaborn", "plotly": "plotly", "polars": "polars",
    "pyarrow": "pyarrow", "torch": "torch", "requests": "requests", "openpyxl": "openpyxl",
}  # fmt: skip


def instructions(python: Path, workspace: Path, offered: Container[str]) -> str:
    """Return the server's instructions, in eight lines.

    Args:
        python: The interpreter of the kernels.
        workspace: The folder of all sessions.
        offered: The tools that may be named.
    """
    there = ", ".join(installed(python)) or "the standard library"
    lines = [
        (
            "kernelry runs Python in isolated, lasting Jupyter kernels, one per session id; "
            "'default' is there.",
            "",
        ),
        (
            "Variables stay from call to call; pass a session_id to every tool.",
            "create_session makes one for each line of work.",
        ),
        (f"Installed: {there}.", "install_dependencies adds to one session."),
        (
            f"All sessions work in {workspace}: files go to outputs/, what people bring is in "
            "uploads/.",
            "",
        ),
        ("Modules in scripts/ can be imported in every session.", "save_script saves one."),
        (
            "Pictures are shown; long text is cut: print summaries, keep data in variables and "
            "files.",
            "",
        ),
        (
            "Long code answers 'running' with an execution_id.",
            "get_execution waits on and shows what is new.",
        ),
        (
            "When a kernel dies the answer says why and what is lost.",
            "restart_kernel gives a new one.",
        ),
    ]
    return "\n".join(
        f"{fact} {way}" if way and way.split()[0] in offered else fact for fact, way in lines
    )


def installed(python: Path) -> list[str]:
    """Return which of the well-known packages an interpreter has, without starting it."""
    if python == Path(sys.executable):
        return [word for name, word in PACKAGES.items() if importlib.util.find_spec(name)]
    folders = list(python.parent.parent.glob("lib*/python3*/site-packages"))
    return [
        word
        for name, word in PACKAGES.items()
        if any((folder / name / "__init__.py").is_file() for folder in folders)
    ]
