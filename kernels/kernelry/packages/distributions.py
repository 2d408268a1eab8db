"""What is installed in a folder of packages, read from the names of its metadata folders.

Nothing is imported and no file is read: a session can write what it likes into its own.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from kernelry import bounds

ENDS = (".dist-info", ".egg-info")


@dataclass(frozen=True, kw_only=True, slots=True)
class Distribution:
    """One installed distribution."""

    #: its name, normalised as by PEP 503
    name: str
    #: its version; empty: not known
    version: str
    #: where its metadata is
    metadata: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """One package that a session can import."""

    #: its name, normalised as by PEP 503
    name: str
    #: its version; empty: not known
    version: str
    #: whether the session has installed it; else its interpreter has it
    own: bool


def canonical(name: str) -> str:
    """Return a name of a distribution as PEP 503 writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def distributions(folders: Iterable[Path]) -> Mapping[str, Distribution]:
    """Return what is installed in `folders`, by name; the first folder wins."""
    found: dict[str, Distribution] = {}
    for folder in folders:
        try:
            with os.scandir(folder) as there:  # a session can make any number
                entries = sorted(entry.name for entry in islice(there, bounds.NAMES))
        except OSError:
            continue
        for entry in entries:
            if not entry.endswith(ENDS):
                continue
            name, _, rest = entry.rpartition(".")[0].partition("-")
            item = Distribution(
                name=canonical(name), version=rest.partition("-py")[0], metadata=folder / entry
            )
            found.setdefault(item.name, item)
    return found


def packages(own: Path, inherited: Iterable[Path]) -> list[Package]:
    """Return what a session can import, in the order of names.

    Args:
        own: The folder of its own packages.
        inherited: Those of its interpreter.
    """
    mine = distributions([own])
    everything = {**distributions(inherited), **mine}
    return [
        Package(name=name, version=found.version, own=name in mine)
        for name, found in sorted(everything.items())
    ]
