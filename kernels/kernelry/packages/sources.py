"""Sources of packages: where uv has unpacked one, and what its build needs.

An author wrote all of it: what is read is bounded, and no link in it is followed.
"""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernelry import bounds
from kernelry.errors import InvalidArgumentError
from kernelry.packages.merging import read_below
from kernelry.packages.requirements import parse_requirements

#: where uv keeps a source in its cache: of the index that it asks by default, and of others
UNPACKED = ("sdists-*/pypi/{name}/{version}/*/src", "sdists-*/*/*/{name}/{version}/*/src")
#: what PEP 517 says of a source that does not say it itself
SETUPTOOLS = "setuptools.build_meta:__legacy__"
OLD_STYLE = ("setuptools>=40.8.0",)
BACKEND = re.compile(r"[A-Za-z_][\w.]*(:[A-Za-z_][\w.]*)?")


class BuildError(Exception):
    """A package could not be built; the text says why, and what helps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildSystem:
    """What a source says of its build."""

    #: PEP 508 strings, checked
    requires: tuple[str, ...]
    #: the backend's module, and the object in it
    backend: str
    #: folders of the source that the backend may be in
    path: tuple[str, ...]


def find_source(cache: Path, name: str, version: str) -> Path | None:
    """Return where uv has unpacked a source in a cache; None: it has not.

    Args:
        cache: One that only one index is asked with, for each package.
        name: Of the package, normalised.
        version: As uv writes it.
    """
    found = [
        path
        for pattern in UNPACKED
        for path in cache.glob(pattern.format(name=name, version=version))
        if path.is_dir() and not path.is_symlink()
    ]
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)


def read_build_system(source: Path) -> BuildSystem:
    """Return what a source says of its build.

    Raises:
        BuildError: Nothing that can be done.
    """
    text = read_below(source, "pyproject.toml", bounds.BUILD_SYSTEM + 1)
    if len(text) > bounds.BUILD_SYSTEM:
        raise BuildError("its pyproject.toml is too large")
    try:
        table = tomllib.loads(text.decode("utf-8")).get("build-system")
    except (ValueError, RecursionError) as error:
        raise BuildError(f"its pyproject.toml can't be read: {error}") from error
    if table is None:
        return BuildSystem(requires=OLD_STYLE, backend=SETUPTOOLS, path=())
    if not isinstance(table, dict):
        raise BuildError("build-system in its pyproject.toml is no table")
    backend = table.get("build-backend", SETUPTOOLS)
    if not isinstance(backend, str) or not BACKEND.fullmatch(backend):
        raise BuildError("build-backend in its pyproject.toml names no module")
    path = texts(table.get("backend-path", []))
    if any(folder.startswith("/") or ".." in folder.split("/") for folder in path):
        raise BuildError("backend-path in its pyproject.toml leads out of the source")
    return BuildSystem(requires=needed(table.get("requires", [])), backend=backend, path=path)


def needed(wanted: Any) -> tuple[str, ...]:
    """Return what a build needs, checked.

    Args:
        wanted: What its author says, or its backend.

    Raises:
        BuildError: It is not a list of packages by name.
    """
    items = texts(wanted)
    try:
        return tuple(map(str, parse_requirements(items))) if items else ()
    except InvalidArgumentError as error:
        raise BuildError(f"what its build needs can't be installed: {error}") from error


def texts(value: Any) -> tuple[str, ...]:
    """Return a list of strings.

    Raises:
        BuildError: It is something else.
    """
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise BuildError("build-system in its pyproject.toml is not as PEP 518 has it")
    return tuple(value)
