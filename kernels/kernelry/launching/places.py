"""Which paths a server may be told: none that a session could put something else in the place of.

Walls are built from paths, each time a kernel starts, and a server trusts files: its own code,
its settings, its records. What lies below a folder that sessions may write is theirs to rename
and to link elsewhere, so at the next start it would be a hole in the walls, or their code at
the place of ours. One thing may lie there: the interpreter of kernels, as a project's own
environment does. It is never run outside of the walls (packages/interpreters.py).
"""

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from kernelry.config import Config
from kernelry.errors import IsolationError
from kernelry.paths import is_within, leads_through, runtime_base
from kernelry.walls import own_paths

#: variables that name what programs of ours read, and trust
TRUSTED_VARIABLES = ("UV_CACHE_DIR", "UV_CONFIG_FILE", "NETRC", "SSL_CERT_FILE", "SSL_CERT_DIR")
OWN_CODE = "kernelry's own code"

Named = tuple[str, Path]


def writable(config: Config) -> list[Named]:
    """Return what sessions may change besides their own folders, with the setting's name."""
    return [("--workspace", config.workspace), *(("--allow-write", p) for p in config.allow_write)]


def check_places(config: Config) -> None:
    """See to it that nothing which walls are built from, or we trust, is a session's to change.

    Args:
        config: How a service is to be set up, at a level that has walls.

    Raises:
        IsolationError: Something is; the message names the two settings.
    """
    for name, path, opener, root in unsound(config):
        verb = "read" if opener == "--allow-read" else "change"
        what = f"what is in it, {path} ({name}) too" if opener == name else f"{path} ({name})"
        msg = (
            f"{opener} {root} lets sessions {verb} {what}, which must not be theirs: walls would "
            f"not hold at the next start. {cure(name, opener)}"
        )
        raise IsolationError(msg)


def check_workspace(config: Config) -> None:
    """See to it that who reads and writes files of the workspace gets none of our own by that.

    Args:
        config: How a service is to be set up, at any level: what tools show needs no walls.

    Raises:
        IsolationError: They lie in each other; the message names the two settings.
    """
    workspace, state = config.workspace, config.state_dir
    inside = [(name, path) for name, path in secrets_of(config) if is_within(path, workspace)]
    if is_within(workspace, state):
        inside.append(("--state-dir", state))
    for name, path in inside:
        msg = (
            f"--workspace {workspace} and {path} ({name}) lie in each other: clients that read and "
            "write files of the workspace would have the records and the keys of all sessions. "
            + cure(name, "--workspace")
        )
        raise IsolationError(msg)


def secrets_of(config: Config) -> list[Named]:
    """Return what no session and no client may read, with the setting's name."""
    state = ("--state-dir", config.state_dir)
    return [state, ("XDG_RUNTIME_DIR", runtime_base()), *config.secrets.items()]


def cure(name: str, opener: str) -> str:
    """Return what to do about a path that is where it must not be."""
    if name == OWN_CODE:
        return (
            f"Install kernelry somewhere else (uv tool install kernelry), start it by its command "
            f"and without PYTHONPATH, and name the project's interpreter by --python; or move "
            f"{opener}."
        )
    if name.startswith("--allow"):
        return f"Leave {name} or {opener} out, or move one of the two out of the other."
    return f"Move one of the two out of the other{'' if name[0] == '-' else f' (set {name})'}."


def unsound(config: Config) -> Iterator[tuple[str, Path, str, Path]]:
    """Yield (name, path, setting, folder) of each path that lies where it must not."""
    writes = writable(config)
    reads = [("--allow-read", path) for path in config.allow_read]
    state = ("--state-dir", config.state_dir)
    for (name, path), (opener, root) in pairs(secrets_of(config), [*writes, *reads]):
        if is_within(path, root):
            yield name, path, opener, root
    trusted = [*config.trusted.items(), *trusted_variables(), *own_code()]
    for (name, path), (opener, root) in pairs(trusted, writes):
        if is_within(path, root):
            yield name, path, opener, root
    for (name, path), (opener, root) in pairs([*writes, *reads], [*writes, state]):
        if leads_through(path, root):
            yield name, path, opener, root


def pairs(some: Iterable[Named], others: Iterable[Named]) -> Iterator[tuple[Named, Named]]:
    """Yield each of some with each of others."""
    known = list(others)
    return ((one, other) for one in some for other in known)


def trusted_variables() -> Iterator[Named]:
    """Yield what variables of ours name that is trusted."""
    for name in TRUSTED_VARIABLES:
        if value := os.environ.get(name):
            yield name, Path(value)


def own_code() -> Iterator[Named]:
    """Yield where this process and the programs that it starts have their code from."""
    for path in dict.fromkeys([*own_paths(), *(Path(entry) for entry in sys.path)]):
        yield OWN_CODE, path
