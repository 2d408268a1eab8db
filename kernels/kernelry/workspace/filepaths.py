"""The paths that callers name in the workspace, and what is said of those that don't work.

Each refusal says what to do next; the errors of `kernelry.beneath` become ours here.
"""

import errno
import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kernelry.beneath import reading
from kernelry.errors import (
    FileAccessError,
    FileExistsConflictError,
    FileTooLargeError,
    InvalidArgumentError,
    KernelryError,
    NotAFileError,
    WorkspaceFileNotFoundError,
)

PATH_CHARS = 1000
NAME_BYTES = 255  # what file systems take
RESERVED = frozenset({"con", "prn", "aux", "nul"})  # no file on Windows can be called so
NO_LINKS = (
    "links are not followed. Name the file itself, or copy it into the workspace in "
    "run_python_code."
)


def known(root: Path, path: str) -> str:
    """Return a path as it is written in the workspace: as given if there is such a file, else NFC.

    Raises:
        InvalidArgumentError: It can't be a path in the workspace; the message says why.
    """
    path = checked(path)
    composed = unicodedata.normalize("NFC", path)
    if composed == path:
        return path
    with explained(path):
        return composed if status_of(root, path) is None else path


def checked(path: str) -> str:
    """Return a path without empty parts; "." is the workspace itself.

    Raises:
        InvalidArgumentError: It can't be a path in the workspace; the message says why.
    """
    shown = repr(path[:80])
    names = [name for name in path.split("/") if name not in ("", ".")]
    why = ""
    if not path or len(path) > PATH_CHARS:
        why = f"is empty or longer than {PATH_CHARS} characters"
    elif any("\ud800" <= char <= "\udfff" or char == "\0" for char in path):
        why = "holds a NUL or a lone surrogate"
    elif path.startswith("/") or ".." in names:
        why = "leads out of the workspace"
    elif any(len(name.encode("utf-8")) > NAME_BYTES for name in names):
        why = f"has a name of more than {NAME_BYTES} bytes"
    if why:
        msg = f"the path {shown} {why}. Paths are relative to the workspace, like 'outputs/a.csv'."
        raise InvalidArgumentError(msg)
    return "/".join(names) or "."


def writable(path: str) -> str:
    """Return a path if its names can be used on all systems.

    Raises:
        InvalidArgumentError: They can't.
    """
    for name in path.split("/"):
        if name.split(".")[0].lower() in RESERVED:
            raise InvalidArgumentError(f"{name!r} is a reserved name on Windows; choose another")
        if "\\" in name or any(unicodedata.category(char) == "Cc" for char in name):
            msg = f"{name[:80]!r} holds a backslash or a control character; folders end with '/'"
            raise InvalidArgumentError(msg)
    return path


@contextmanager
def explained(path: str) -> Iterator[None]:
    """Turn what the system says about a path of the workspace into an error of ours."""
    try:
        yield
    except OSError as error:
        raise explanation(path, error) from error


def explanation(path: str, error: OSError) -> KernelryError:
    """Return the error that says what is wrong with a path, and what can be done."""
    shown = repr(path[:200])
    match error:
        case reading.TooLargeError():
            return FileTooLargeError(
                f"{shown} has {error.size} bytes, the limit is {error.limit}. Read a part of it "
                "in run_python_code."
            )
        case reading.NotRegularError():
            return NotAFileError(f"{shown} is a folder, a FIFO or a device, not a regular file.")
        case FileExistsError():
            return FileExistsConflictError(
                f"{shown} exists already. Pass overwrite=true to replace it, or another name."
            )
        case FileNotFoundError():
            return WorkspaceFileNotFoundError(
                f"there is no {shown} in the workspace. list_files shows what there is."
            )
    match error.errno:
        case errno.ELOOP:
            return NotAFileError(f"{shown} is a link, or leads through one; {NO_LINKS}")
        case errno.ENOTDIR:
            return NotAFileError(f"a part of {shown} is no folder but a file or a link; {NO_LINKS}")
        case errno.ENXIO | errno.EISDIR:
            return NotAFileError(f"{shown} is a folder, a socket or a device, not a regular file.")
        case errno.ENOTEMPTY:
            return NotAFileError(
                f"{shown} is a folder that is not empty. Delete its files first; "
                "shutil.rmtree in run_python_code deletes all at once."
            )
        case errno.EBUSY:
            return InvalidArgumentError(f"{shown} is the workspace itself or a mount: it stays.")
        case errno.ENAMETOOLONG | errno.EXDEV | errno.EINVAL:
            return InvalidArgumentError(f"{shown} is no path in the workspace: {error.strerror}")
    return FileAccessError(
        f"{shown}: {error.strerror or error}. Free space or change its permissions and try again."
    )


def status_of(root: Path, path: str) -> os.stat_result | None:
    """Return what there is; what would be below a file or a link is not."""
    try:
        return reading.status(root, path)
    except NotADirectoryError:
        return None
