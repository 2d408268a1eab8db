"""An environment per session, and what is installed into it."""

from kernelry.packages.distributions import Package
from kernelry.packages.environments import InstallReport, SessionEnvironment
from kernelry.packages.installs import Installer
from kernelry.packages.interpreters import Interpreters, check_place
from kernelry.packages.requirements import parse_requirements
from kernelry.packages.uv import uv_binary

__all__ = [
    "InstallReport",
    "Installer",
    "Interpreters",
    "Package",
    "SessionEnvironment",
    "check_place",
    "parse_requirements",
    "uv_binary",
]
