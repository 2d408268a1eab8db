"""Scripts in the workspace: save them, run them in a session's environment."""

import os
import re
from pathlib import Path

from carrel.errors import FileExistsConflictError, InvalidArgumentError, ScriptNotFoundError
from carrel.paths import Workspace

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
RESERVED = frozenset({"con", "prn", "aux", "nul"})  # no file on Windows can be called so
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
        FileExistsConflictError: There is one, and `overwrite` is false; or the name is a link.
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
    path = workspace.scripts / f"{stem}.py"
    relative = path.relative_to(workspace.root)
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise FileExistsConflictError(f"{relative} is a link or a folder; choose another name")
    if path.exists() and not overwrite:
        msg = f"{relative} exists already. Pass overwrite=true to replace it, or another name."
        raise FileExistsConflictError(msg)
    temporary = path.with_name(f".{stem}.{os.getpid()}.tmp")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return relative


def find_script(workspace: Workspace, path: str) -> Path:
    """Return the file of a script in the workspace.

    Args:
        workspace: Where.
        path: Relative to the workspace, or a bare name of ``scripts/``, with or without ``.py``.

    Raises:
        ScriptNotFoundError: There is none, or it is outside of the workspace.
    """
    if not path or "\0" in path or len(path) > 1000:
        raise ScriptNotFoundError("path is empty, too long, or holds a NUL")
    root = workspace.root.resolve()
    for candidate in (root / path, root / "scripts" / path, root / "scripts" / f"{path}.py"):
        try:
            found = candidate.resolve()
            if found.is_relative_to(root) and found.is_file():
                return found
        except OSError:
            continue
    known = sorted(file.name for file in workspace.scripts.glob("*.py"))[:20]
    listing = ", ".join(known) if known else "none yet"
    msg = (
        f"no script {path[:80]!r} in the workspace. In scripts/: {listing}. save_script makes one."
    )
    raise ScriptNotFoundError(msg)


def script_name(workspace: Workspace, path: str) -> str:
    """Return the path of a script relative to the workspace; see find_script."""
    return find_script(workspace, path).relative_to(workspace.root.resolve()).as_posix()
