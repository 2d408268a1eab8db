"""Which paths a server may be told: none that a session could put something else in the place of.

Walls are built from paths, each time a kernel starts. What lies below a folder that sessions may
write is theirs to rename and to link elsewhere, so at the next start it would be a hole in the
walls, or a secret in the open.
"""

from collections.abc import Iterator
from pathlib import Path

from kernelry.config import Config
from kernelry.errors import IsolationError


def check_places(config: Config) -> None:
    """See to it that no path which walls are built from is a session's to change.

    Args:
        config: How a service is to be set up, at a level that has walls.

    Raises:
        IsolationError: One is; the message names the two settings.
    """
    for name, path, opener, root in unsound(config):
        msg = (
            f"{name} {path} is below {opener} {root}, where sessions can "
            f"{'read' if opener == '--allow-read' else 'change names'}: walls would lead elsewhere "
            "at the next start. Move one of the two out of the other, or leave "
            f"{name if name.startswith('--allow') else opener} out."
        )
        raise IsolationError(msg)


def unsound(config: Config) -> Iterator[tuple[str, Path, str, Path]]:
    """Yield (setting, path, setting, folder) of each path that lies where it must not."""
    workspace = ("--workspace", config.workspace)
    writes = [("--allow-write", path) for path in config.allow_write]
    reads = [("--allow-read", path) for path in config.allow_read]
    state = ("--state-dir", config.state_dir)
    for name, path in (state, workspace, *reads, *writes):
        for opener, root in (workspace, *writes, *(reads if name == "--state-dir" else ())):
            if is_strictly_below(path, root):
                yield name, path, opener, root


def is_strictly_below(path: Path, root: Path) -> bool:
    """Say whether a path, or what it leads to, is in a folder, or in what that leads to."""
    return any(above in below.parents for below in forms(path) for above in forms(root))


def forms(path: Path) -> set[Path]:
    """Return a path as it is written and as it leads."""
    absolute = path.expanduser().absolute()
    return {absolute, absolute.resolve()}
