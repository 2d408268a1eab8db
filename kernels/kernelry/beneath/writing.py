"""Make, replace and remove files below a folder, whole or not at all; see the package."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from kernelry.beneath.reading import NotRegularError, check_regular
from kernelry.beneath.resolve import folder, open_below, split

NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
APPEND = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
FILE_MODE = 0o644
PRIVATE_MODE = 0o600  # of a file that gets the mode of another one soon
NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def create(root: Path, path: str, data: bytes) -> None:
    """Make a new file, whole or not at all; folders above it are made.

    Raises:
        FileExistsError: There is something.
        OSError: It can't be written, or a link is on the way.
    """
    above, name = split(path)
    with folder(root, above, make=True) as fd, _temporary(fd, data) as made:
        try:
            os.link(made, name, src_dir_fd=fd, dst_dir_fd=fd, follow_symlinks=False)
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            # A file system without them: who makes the same name in this moment is replaced.
            if _exists(fd, name):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from error
            os.replace(made, name, src_dir_fd=fd, dst_dir_fd=fd)


def replace(root: Path, path: str, data: bytes, *, like: str = "") -> None:
    """Make a file or replace one, whole or not at all; folders above it are made.

    A file that is replaced keeps its mode and its owner, and is seen to be newer.

    Args:
        root: The folder.
        path: The file, relative to it.
        data: All that shall be in it.
        like: A file whose mode and owner it shall have instead, relative to `root` too.

    Raises:
        NotRegularError: There is something else than a file.
        OSError: It can't be written or given to its owner, or a link is on the way (ELOOP).
    """
    above, name = split(path)
    with folder(root, above, make=True) as fd:
        there = _regular(fd, name)
        if like:
            with folder(root, split(like)[0]) as other:
                there = _regular(other, split(like)[1])
        with _temporary(fd, data, there) as made:  # a link that is put there now is replaced
            if there is not None and not like:
                _make_newer(fd, made, there)
            os.replace(made, name, src_dir_fd=fd, dst_dir_fd=fd)


def move(root: Path, source: str, path: str, *, replace: bool) -> None:
    """Give a file another name; folders above it are made.

    A file that is replaced keeps its mode and its owner, and is seen to be newer.

    Args:
        root: The folder.
        source: The file, relative to it.
        path: Its new name, relative to it.
        replace: Whether a file that has it is replaced.

    Raises:
        FileExistsError: There is something, and it is not to be replaced.
        NotRegularError: There is something else than a file.
        OSError: It can't be given the name, or a link is on the way (ELOOP).
    """
    (above, name), (there, old) = split(path), split(source)
    with folder(root, above, make=True) as fd, folder(root, there) as other:
        _regular(other, old)
        like = _regular(fd, name)
        if like is not None and not replace:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        if like is not None:
            _make_like(other, old, like)
        if replace:
            os.replace(old, name, src_dir_fd=other, dst_dir_fd=fd)
            return
        try:
            os.link(old, name, src_dir_fd=other, dst_dir_fd=fd, follow_symlinks=False)
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            os.replace(old, name, src_dir_fd=other, dst_dir_fd=fd)
        else:
            os.unlink(old, dir_fd=other)


def append(root: Path, path: str, data: bytes) -> None:
    """Write at the end of a file that exists.

    Raises:
        NotRegularError: It is none.
        OSError: There is none, it can't be written, or a link is on the way.
    """
    fd = open_below(root, path, APPEND)
    with os.fdopen(fd, "wb") as file:
        check_regular(fd)
        file.write(data)


def remove(root: Path, path: str) -> os.stat_result:
    """Remove a file, a link (not what it leads to) or an empty folder; return what it was."""
    above, name = split(path)
    with folder(root, above) as fd:
        was = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if stat.S_ISDIR(was.st_mode):
            os.rmdir(name, dir_fd=fd)
        else:
            os.unlink(name, dir_fd=fd)
        return was


def clear(root: Path, *names: str) -> None:
    """Remove what has one of these names in a folder and is neither a file nor a folder."""
    for name in names:
        with suppress(OSError), folder(root, "") as fd:
            kind = stat.S_IFMT(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
            if kind not in (stat.S_IFREG, stat.S_IFDIR):
                os.unlink(name, dir_fd=fd)


def _regular(fd: int, name: str) -> os.stat_result | None:
    """Return the status of a file in a folder; None: there is nothing.

    Raises:
        OSError: There is something else.
    """
    try:
        there = os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(there.st_mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
    if not stat.S_ISREG(there.st_mode):
        raise NotRegularError(errno.EINVAL, "not a regular file")
    return there


@contextmanager
def _temporary(fd: int, data: bytes, like: os.stat_result | None = None) -> Iterator[str]:
    """Write a file of a name that nobody has; it is removed unless it was renamed."""
    name = f".{uuid4().hex}.tmp"
    opened = os.open(name, NEW, PRIVATE_MODE if like else FILE_MODE, dir_fd=fd)
    try:
        with os.fdopen(opened, "wb") as file:
            if like is not None:
                own = os.fstat(opened)
                if (own.st_uid, own.st_gid) != (like.st_uid, like.st_gid):
                    os.fchown(opened, like.st_uid, like.st_gid)
                os.fchmod(opened, stat.S_IMODE(like.st_mode) & 0o777)
            file.write(data)
        yield name
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=fd)


def _make_like(fd: int, name: str, like: os.stat_result) -> None:
    """Give a file in a folder the mode and the owner of another, and a later time."""
    opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    try:
        own = os.fstat(opened)
        if (own.st_uid, own.st_gid) != (like.st_uid, like.st_gid):
            os.fchown(opened, like.st_uid, like.st_gid)
        os.fchmod(opened, stat.S_IMODE(like.st_mode) & 0o777)
    finally:
        os.close(opened)
    _make_newer(fd, name, like)


def _make_newer(fd: int, name: str, than: os.stat_result) -> None:
    """Have a file change in another second than one that it replaces.

    Python takes compiled code for that of a file of the same size and second (PEP 3147).
    """
    own = os.stat(name, dir_fd=fd, follow_symlinks=False)
    if int(own.st_mtime) <= int(than.st_mtime):
        times = (own.st_atime_ns, (int(than.st_mtime) + 1) * 10**9)
        os.utime(name, ns=times, dir_fd=fd, follow_symlinks=False)


def _exists(fd: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
