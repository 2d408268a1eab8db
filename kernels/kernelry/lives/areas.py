"""Where live branches behind walls have their directories: in an area of their origin's.

Walls can only be narrowed, so a copy writes below what its origin may write. An area is kept as
long as its owner, or a branch in it, is there; what it is called says StateDirectory.area.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

from kernelry.beneath import reading
from kernelry.paths import StateDirectory


def unused_above(state: StateDirectory, directory: Path, used: Collection[str]) -> Iterator[Path]:
    """Yield the areas that nobody needs any more when a session's directory is gone.

    Its own, and those that it was in, up to the first that is needed.

    Args:
        state: The state directory.
        directory: What is gone.
        used: The directories of all other sessions, as their records say.
    """
    area = state.area(directory)
    while not any(is_for(state, area, state.sessions / name) for name in used):
        if area.parent == state.branches:  # that of a session which is no branch
            yield area
            return
        yield area
        area = area.parent


def unused_below(state: StateDirectory, area: Path, used: Collection[str]) -> Iterator[Path]:
    """Yield what nobody needs in an area, or among all: directories of branches, and areas.

    Args:
        state: The state directory.
        area: Which; no link below is followed.
        used: The directories of all sessions, as their records say.
    """
    needed = {state.sessions / name for name in used}
    for name in reading.names(area, ""):
        path = area / name
        if path in needed:
            continue
        if any(is_for(state, path, directory) for directory in needed):
            yield from unused_below(state, path, used)
        else:
            yield path


def is_for(state: StateDirectory, area: Path, directory: Path) -> bool:
    """Say whether an area is that of a session's directory, or has that in it."""
    return area == state.area(directory) or directory.is_relative_to(area)
