"""Remove folders that others have filled: with any number of files, of any depth; see the package.

What is deep is moved up first, so that no path is ever longer than two names and nothing recurs.
"""

import math
import os
import secrets
import stat
import time
from contextlib import suppress
from pathlib import Path

from kernelry.beneath.resolve import ENTER, LIST, folder

ASIDE = ".gone-"  # begins the names of what is being removed
OWN = 0o700


def put_aside(path: Path) -> Path | None:
    """Rename what is at a path, at once, to what is to be removed; None: there is nothing.

    A folder that can't be renamed stays where it is, and that is what is returned.
    """
    aside = path.with_name(f"{ASIDE}{secrets.token_hex(8)}")
    try:
        with folder(path.parent, "") as above:
            os.rename(path.name, aside.name, src_dir_fd=above, dst_dir_fd=above)
    except FileNotFoundError:
        return None
    except OSError:
        return path
    return aside


def remove_tree(path: Path, seconds: float = math.inf) -> bool:
    """Remove a file, a link, or a folder with all that is in it; say whether nothing is left.

    It follows no link and crosses into nothing that is mounted there.

    Args:
        path: What.
        seconds: When to leave the rest.
    """
    try:
        with folder(path.parent, "") as above:
            return _remove(above, path.name, seconds)
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _remove(above: int, name: str, seconds: float) -> bool:
    """Remove what has a name in a folder; see `remove_tree`.

    Raises:
        OSError: There is none, or it is none of ours to remove.
    """
    if not stat.S_ISDIR(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=above)
        return True
    with suppress(OSError):
        _make_ours(name, above)
        top = os.open(name, LIST, dir_fd=above)
        try:
            _empty(top, time.monotonic() + seconds)
        finally:
            os.close(top)
        os.rmdir(name, dir_fd=above)
    try:
        os.stat(name, dir_fd=above, follow_symlinks=False)
    except FileNotFoundError:
        return True
    return False


def _empty(top: int, end: float) -> None:
    """Remove all that is in a folder, until some time."""
    folders: list[str] = []
    _clear(top, top, folders, end)
    while folders and time.monotonic() < end:
        name = folders.pop()
        with suppress(OSError):
            fd = os.open(name, LIST, dir_fd=top)
            try:
                _clear(fd, top, folders, end)
            finally:
                os.close(fd)
            os.rmdir(name, dir_fd=top)


def _clear(fd: int, top: int, folders: list[str], end: float) -> None:
    """Unlink the files of a folder, and move its folders to the top; `folders` gets their names."""
    with os.scandir(fd) as entries:
        for entry in entries:
            if time.monotonic() >= end:
                return
            with suppress(OSError):
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.name, dir_fd=fd)
                    continue
                _make_ours(entry.name, fd)
                name = entry.name
                if fd != top:
                    name = f"{ASIDE}{secrets.token_hex(8)}"
                    os.rename(entry.name, name, src_dir_fd=fd, dst_dir_fd=top)
                folders.append(name)


def _make_ours(name: str, fd: int | None = None) -> None:
    """Let us into a folder whose owner has shut it; a link that took its place is left alone."""
    folder = os.open(name, ENTER, dir_fd=fd)
    try:
        if stat.S_IMODE(os.fstat(folder).st_mode) & OWN != OWN:
            Path(f"/proc/self/fd/{folder}").chmod(OWN)
    finally:
        os.close(folder)
