"""Find the way below a folder, without a link and without a way out; see the package."""

import ctypes
import errno
import functools
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

OPENAT2 = 437  # the system call's number, the same on all machines that Linux has got since 2019
BENEATH = 0x08 | 0x04 | 0x02  # RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
ENTER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FOLDER_MODE = 0o755
PRIVATE_FOLDER_MODE = 0o700
#: folders below which no link is followed, also not on the way to what is named there
_strict: set[Path] = set()


class _How(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def follow_none_below(folder: Path) -> None:
    """Follow no link below a folder from now on: others can change the way to what we name there.

    Args:
        folder: Absolute; what leads to it is ours.
    """
    _strict.add(folder)


def strict_root(path: Path) -> Path | None:
    """Return the folder below which a path lies in which no link is followed; None: in none."""
    plain = Path(os.path.normpath(path))
    return next((folder for folder in _strict if plain.is_relative_to(folder)), None)


def make_private(path: Path) -> None:
    """Make a folder that only we can enter, and those above it, if missing.

    Raises:
        OSError: It can't be made.
    """
    if (top := strict_root(path)) is None or path == top:
        path.mkdir(mode=PRIVATE_FOLDER_MODE, parents=True, exist_ok=True)
        return
    top.mkdir(mode=PRIVATE_FOLDER_MODE, parents=True, exist_ok=True)
    below = Path(os.path.relpath(path, top)).as_posix()
    with folder(top, below, make=True, mode=PRIVATE_FOLDER_MODE):
        return


def open_below(root: Path, path: str, flags: int) -> int:
    """Open what is at a path below a folder and return the descriptor.

    Args:
        root: The folder; it may be a link itself, but not where none is followed.
        path: What, relative to it.
        flags: As for `os.open`, with O_NOFOLLOW and O_CLOEXEC, without O_CREAT.

    Raises:
        OSError: There is none, or a link is on the way (ELOOP, ENOTDIR).
    """
    with _root(root) as top:
        return _open(top, names_of(path), flags)


@contextmanager
def folder(
    root: Path, path: str, *, make: bool = False, flags: int = ENTER, mode: int = FOLDER_MODE
) -> Iterator[int]:
    """Give a descriptor of a folder; with `make` it is made, and those above it, if missing."""
    names = names_of(path)
    with _root(root) as top:
        if make:
            _make(top, names, mode)
        fd = _open(top, names, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def names_of(path: str) -> list[str]:
    """Return the components of a path; none for the folder itself.

    Raises:
        OSError: It can't be below a folder: absolute, with `..`, NUL, or no text.
    """
    names = [name for name in path.split("/") if name not in ("", ".")]
    try:
        path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise OSError(errno.EINVAL, "no path") from error
    if path.startswith("/") or ".." in names or "\0" in path:
        raise OSError(errno.EXDEV, "not below the folder")
    return names


def split(path: str) -> tuple[str, str]:
    """Return the folder and the name of a path.

    Raises:
        OSError: It has no name, or can't be below a folder.
    """
    names = names_of(path)
    if not names:
        raise OSError(errno.EBUSY, "the folder itself")
    return "/".join(names[:-1]), names[-1]


@functools.cache
def has_openat2() -> bool:
    """Say whether the system resolves a path below a folder in one call."""
    if sys.platform != "linux":
        return False
    fd = os.open("/", ENTER)
    try:
        os.close(_openat2(fd, ".", ENTER))
    except OSError:  # an old Linux, or a container's filter
        return False
    finally:
        os.close(fd)
    return True


@contextmanager
def _root(root: Path) -> Iterator[int]:
    top = strict_root(root)
    fd = os.open(top or root, ENTER & ~os.O_NOFOLLOW)
    try:
        if top is not None:
            outer, fd = fd, _open(fd, Path(os.path.relpath(root, top)).parts, ENTER)
            os.close(outer)
        yield fd
    finally:
        os.close(fd)


def _open(top: int, names: Sequence[str], flags: int) -> int:
    if has_openat2():
        return _openat2(top, "/".join(names) or ".", flags)
    return _walk(top, names or ["."], flags)


def _walk(top: int, names: Sequence[str], flags: int) -> int:
    """Open one component after the other, each without following a link."""
    fd = top
    try:
        for name in names[:-1]:
            below = os.open(name, ENTER, dir_fd=fd)
            if fd != top:
                os.close(fd)
            fd = below
        return os.open(names[-1], flags, dir_fd=fd)
    finally:
        if fd != top:
            os.close(fd)


def _make(top: int, names: Sequence[str], mode: int) -> None:
    for depth, name in enumerate(names):
        fd = _open(top, names[:depth], ENTER)
        try:
            with suppress(FileExistsError):
                os.mkdir(name, mode, dir_fd=fd)
        finally:
            os.close(fd)


def _openat2(top: int, path: str, flags: int) -> int:
    how = _How(flags, 0, BENEATH)
    size_of_how = ctypes.c_size_t(ctypes.sizeof(how))
    found: int = _libc().syscall(
        ctypes.c_long(OPENAT2), ctypes.c_int(top), os.fsencode(path), ctypes.byref(how), size_of_how
    )
    if found < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    return found


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc
