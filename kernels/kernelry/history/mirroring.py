"""Where a replay writes: a folder of its own that looks like the workspace; and what it wrote.

The folder is made by the replay's own kernel, within its walls: copies of what the original did not
write, links to what is large, and room for what it did.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from kernelry import bounds
from kernelry.beneath import reading
from kernelry.models import Execution

FOLDER = "replays"  # in the workspace
CHUNK = 1 << 20
#: makes the folder and goes there; links of a replay before do not stay
MAKE = """
import os, shutil

left = {"files": 5000, "bytes": 200_000_000}

def mirror(source, target, depth):
    os.makedirs(target, exist_ok=True)
    for name in sorted(os.listdir(os.path.join(root, source))):
        path, own = os.path.join(source, name), os.path.join(target, name)
        there = os.path.join(root, path)
        if os.path.islink(own):
            os.unlink(own)
        if path in written or path in (folder, os.path.dirname(folder)) or os.path.lexists(own):
            continue
        left["files"] -= 1
        if left["files"] < 0:
            return
        if os.path.isdir(there) and not os.path.islink(there) and depth:
            mirror(path, own, depth - 1)
        elif os.path.isfile(there) and (size := os.path.getsize(there)) <= 10_000_000 and (
            size <= left["bytes"]
        ):
            left["bytes"] -= size
            shutil.copy2(there, own)
        else:
            os.symlink(there, own)

mirror("", os.path.join(root, folder), 8)
os.makedirs(os.path.join(root, folder, "outputs"), exist_ok=True)
os.chdir(os.path.join(root, folder))
"""


def code_to_enter(folder: str, workspace: Path, written: Iterable[str]) -> str:
    """Return the code that makes a replay's folder and goes there; it leaves no names.

    Args:
        folder: Relative to the workspace.
        workspace: The folder that all sessions share.
        written: What the original wrote, relative to it.
    """
    given = {"root": str(workspace), "folder": folder, "written": sorted(written)}
    return f"exec({MAKE!r}, {given!r})  # a folder of this replay's own"


def files_of(executions: Iterable[Execution]) -> dict[str, int]:
    """Return the files that executions wrote, and the number of the last one that did."""
    return {path: execution.index for execution in executions for path in execution.new_files}


def digests(root: Path, paths: Iterable[str]) -> dict[str, str | None]:
    """Return what tells the contents of files apart, by path; "" of one that can't be read.

    None of one that was not looked at.

    Blocking, and bounded: what is beyond `bounds.COMPARED_BYTES` in all is not looked at.
    """
    left = bounds.COMPARED_BYTES
    found: dict[str, str | None] = {}
    for path in paths:
        made = hashlib.blake2b(digest_size=16)
        try:
            with reading.opened(root, path) as file:
                while left > 0 and (data := file.read(min(CHUNK, left))):
                    made.update(data)
                    left -= len(data)
        except OSError:
            found[path] = ""
            continue
        found[path] = made.hexdigest() if left > 0 else None
    return found
