"""Workloads: what people do in notebooks, as cells, in workloads/*.ipy.

A file has several, in the percent format: `# %% [workload] name: what it does | packages | tests`
begins one and its first cell, `# %%` each further cell. `packages` are what it needs besides
the standard library; `tests` says that `scripts/test` runs it too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).with_name("workloads")
BEGIN = "# %% [workload] "
CELL = "# %%"


@dataclass(frozen=True, slots=True)
class Workload:
    """Cells that are run one after the other."""

    #: unique
    name: str
    #: what it does
    title: str
    #: the file that has it
    area: str
    #: distributions that it needs
    needs: tuple[str, ...]
    #: whether scripts/test runs it
    in_tests: bool
    cells: tuple[str, ...]


def read_workloads() -> list[Workload]:
    """Return all workloads, in the order of their files and in them.

    Raises:
        ValueError: Two have one name.
    """
    found = [one for path in sorted(FOLDER.glob("*.ipy")) for one in _read_file(path)]
    names = [one.name for one in found]
    if twice := {name for name in names if names.count(name) > 1}:
        msg = f"two workloads are called {', '.join(sorted(twice))}"
        raise ValueError(msg)
    return found


def _read_file(path: Path) -> list[Workload]:
    found = []
    for part in path.read_text(encoding="utf-8").split(BEGIN)[1:]:
        head, _, body = part.partition("\n")
        title, needs, *marks = [field.strip() for field in head.split("|")]
        name, _, title = title.partition(": ")
        cells = [cell.strip("\n") for cell in f"\n{body}".split(f"\n{CELL}\n")]
        packages = tuple(filter(None, (one.strip() for one in needs.split(","))))
        found.append(Workload(name, title, path.stem, packages, "tests" in marks, tuple(cells)))
    return found
