"""Scripts in the workspace: save them, run them in a session's environment."""

import os
import re
from pathlib import Path

from kernelry.beneath import reading
from kernelry.errors import (
    InvalidArgumentError,
    NotAFileError,
    ScriptNotFoundError,
    WorkspaceFileNotFoundError,
)
from kernelry.paths import Workspace
from kernelry.workspace import files
from kernelry.workspace.filepaths import RESERVED, checked, explained, known
from kernelry.workspace.files import Mode
from kernelry.workspace.listing import encodable

FOLDER = "scripts"
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
CONTENT_BYTES = 4 << 20


def save_script(workspace: Workspace, name: str, content: str, *, overwrite: bool) -> Path:
    """Write ``scripts/NAME.py``.

    Args:
        workspace: Where.
        name: A plain file name, with or without ``.py``; up to 100 letters, digits, ``_.-``.
        content: Python source, up to 4 MiB.
        overwrite: Whether a script of that name may be replaced.

    Returns:
        The path, relative to the workspace.

    Raises:
        InvalidArgumentError: The name is no plain file name, or the content is too large.
        FileExistsConflictError: There is one, and `overwrite` is false.
        NotAFileError: There is a link or a folder of that name, or scripts/ is a link.
        FileAccessError: It can't be written.
    """
    stem = name.removesuffix(".py")
    if not NAME.fullmatch(stem) or stem.lower() in RESERVED:
        msg = (
            f"{name[:80]!r} is not a script name. Use letters, digits, '_', '-' and '.' "
            "(at most 100 of them, no folders), like 'clean_data'."
        )
        raise InvalidArgumentError(msg)
    try:
        data = content.encode("utf-8")
    except UnicodeEncodeError as error:
        msg = "the content holds a lone surrogate; it can't be written as UTF-8"
        raise InvalidArgumentError(msg) from error
    if len(data) > CONTENT_BYTES:
        raise InvalidArgumentError(f"the content is larger than {CONTENT_BYTES} bytes")
    mode = Mode.OVERWRITE if overwrite else Mode.CREATE
    return Path(files.write(workspace.root, f"{FOLDER}/{stem}.py", data, mode).path)


def find_script(workspace: Workspace, path: str) -> Path:
    """Return the file of a script in the workspace.

    What runs it opens it again, by its name and with the rights of the session's own code: who
    puts something else there in between could have written that into the script.

    Args:
        workspace: Where.
        path: Relative to the workspace, or a bare name of ``scripts/``, with or without ``.py``.

    Raises:
        InvalidArgumentError: No file can have this path.
        ScriptNotFoundError: There is none.
        NotAFileError: It is a link, or no file.
        FileTooLargeError: It has more than 4 MiB.
    """
    checked(path)
    refusal: NotAFileError | None = None
    for candidate in (path, f"{FOLDER}/{path}", f"{FOLDER}/{path}.py"):
        try:
            return workspace.root.resolve() / _verified(workspace.root, candidate)
        except NotAFileError as error:
            refusal = refusal or error
        except WorkspaceFileNotFoundError:
            continue
    if refusal is not None:
        raise refusal
    names = [encodable(name) for name in reading.names(workspace.root, FOLDER)]
    saved = [name for name in names if name.endswith(".py")][:20]
    listing = ", ".join(saved) if saved else "none yet"
    msg = (
        f"no script {path[:80]!r} in the workspace. In scripts/: {listing}. save_script makes one."
    )
    raise ScriptNotFoundError(msg)


def script_name(workspace: Workspace, path: str) -> str:
    """Return the path of a script relative to the workspace; see find_script."""
    return find_script(workspace, path).relative_to(workspace.root.resolve()).as_posix()


def _verified(root: Path, path: str) -> str:
    path = known(root, path)
    with explained(path), reading.opened(root, path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > CONTENT_BYTES:
            raise reading.TooLargeError(size, CONTENT_BYTES)
    return path
