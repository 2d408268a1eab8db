"""Where live branches behind walls have their directories: in an area of their origin's.

Walls can only be narrowed, so a copy writes below what its origin may write. An area is kept as
long as its owner, or a branch in it, is there; what it is called says StateDirectory.area.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

from kernelry.beneath import reading
from kernelry.paths import StateDirectory

REMOVED_AT_ONCE = 1000  # of what is in one area; the next start goes on


def unused_above(state: StateDirectory, directory: Path, used: Collection[str]) -> Iterator[Path]:
    """Yield the areas that nobody needs any more when a session's directory is gone.

    Its own, and those that it was in, up to the first that is needed.

    Args:
        state: The state directory.
        directory: What is gone.
        used: The directories of all other sessions, as their records say.
    """
    branches = [state.place(name) for name in used if "/" in name]  # few of many, most often
    area = state.area(directory)
    while not any(is_for(state, area, branch) for branch in branches):
        if area.parent == state.branches:  # that of a session which is no branch
            if area.name not in used:
                yield area
            return
        yield area
        area = area.parent


def unused_below(state: StateDirectory, used: Collection[str]) -> Iterator[Path]:
    """Yield what nobody needs below the folder of all areas: directories of branches, and areas.

    Of an area not more than some: what a session puts there shall hold up no start.

    Args:
        state: The state directory.
        used: The directories of all sessions, as their records say.
    """
    directories = {state.place(name) for name in used}
    areas = {state.branches}
    for path in directories:
        areas.update((state.area(path), *path.parents))
    looked = [state.branches]
    for area in looked:  # it grows while we go through it
        unused = []
        for name in reading.names(area, ""):
            path = area / name
            if path in areas:
                looked.append(path)
            elif path not in directories:
                unused.append(path)
        yield from unused[:REMOVED_AT_ONCE]


def is_for(state: StateDirectory, area: Path, directory: Path) -> bool:
    """Say whether an area is that of a session's directory, or has that in it."""
    return area == state.area(directory) or directory.is_relative_to(area)
