"""``build JOB``: have a package's own backend build a wheel, as PEP 517 says.

This runs behind the walls of a session, in an environment that has what the build said it
needs. What a backend wants besides, which only it can tell, is written down for the server,
which starts this again with it.
"""

import importlib
import json
import os
import re
import sys
from collections.abc import Iterable
from typing import Any

WANTS_MORE = 75  # the exit code when the backend wants more than there is
NAME = re.compile(r"\s*([A-Za-z0-9._-]+)")


def main(text: str) -> None:
    """Build: the job is JSON.

    Args:
        text: source, out and answer (paths), backend (its module, and what in it), path (more
            folders of modules, in the source), and have (what was asked for already).
    """
    job = json.loads(text)
    os.chdir(job["source"])
    backend = load(job["backend"], job["source"], job["path"])
    wanted = getattr(backend, "get_requires_for_build_wheel", None)
    more = [str(item) for item in wanted(None)] if wanted else []
    have = names(job["have"])
    if not names(more) <= have:
        with open(job["answer"], "w", encoding="utf-8") as file:
            json.dump(more, file)
        sys.exit(WANTS_MORE)
    backend.build_wheel(job["out"], None, None)


def load(backend: str, source: str, path: Iterable[str]) -> Any:
    """Return the object that has a backend's hooks.

    Args:
        backend: ``module`` or ``module:object``.
        source: The package's folder.
        path: Folders in that, where the module may be.
    """
    module, _, inner = backend.partition(":")
    sys.path[:0] = [os.path.join(source, folder) for folder in path]
    found: Any = importlib.import_module(module)
    for name in filter(None, inner.split(".")):
        found = getattr(found, name)
    return found


def names(requirements: Iterable[str]) -> set[str]:
    """Return the normalised names of packages that are required."""
    found = (NAME.match(item) for item in requirements)
    return {re.sub(r"[-_.]+", "-", match[1]).lower() for match in found if match}
