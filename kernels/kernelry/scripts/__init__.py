"""Scripts of the workspace in a session: run as programs, imported as modules."""

from kernelry.scripts.modules import Found, look, reload
from kernelry.scripts.runs import run_script

__all__ = ["Found", "look", "reload", "run_script"]
