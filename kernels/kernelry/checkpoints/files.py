"""The files of checkpoints: taken from a session, signed, and lent to one again.

A kernel writes and reads in its session's directory only, where all that the session runs
can write, too. So a file is moved out of there before it is signed, and what a kernel is to
read is a copy: nothing in checkpoints/ is ever within a session's reach.
"""

import hmac
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from kernelry import bounds
from kernelry.beneath import folder, reading, remove_tree, writing
from kernelry.checkpoints.signing import load_key, sign
from kernelry.errors import CheckpointDamagedError, CheckpointError
from kernelry.models import Checkpoint, short_id
from kernelry.paths import private_directory

KEY = "key"
#: begins the names of what is under way in a session's directory
UNDER_WAY = ".checkpoint-"


class CheckpointFiles:
    """The files of one state directory's checkpoints."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, checkpoint_id: str) -> Path:
        """Return where the file of a checkpoint is."""
        return self._root / checkpoint_id

    def free_id(self) -> str:
        """Return an id that no checkpoint has."""
        while self.path(made := short_id()).exists():
            continue
        return made

    def take(self, directory: Path, checkpoint_id: str) -> tuple[str, int]:
        """Move what a kernel has written out of its session's reach; return signature and size.

        Args:
            directory: The session's.
            checkpoint_id: Its id.

        Raises:
            CheckpointError: It is no file, or can't be moved; nothing is left of it.
        """
        path = self.path(checkpoint_id)
        try:
            private_directory(self._root)
            with folder(directory, "") as fd:
                os.rename(under_way(checkpoint_id), path, src_dir_fd=fd)
            with reading.opened(self._root, checkpoint_id) as file:
                status = os.fstat(file.fileno())
                if status.st_nlink != 1 or status.st_uid != os.getuid():
                    raise OSError("it is no file of the session's own")
                if status.st_size > largest():
                    raise OSError(f"it has {status.st_size} bytes, more than any namespace here")
                os.fchmod(file.fileno(), 0o600)
                signed = sign(file, self._key(), checkpoint_id)
                os.fsync(file.fileno())
                return signed
        except BaseException as error:
            self.remove(checkpoint_id)
            if isinstance(error, OSError | ValueError):
                raise CheckpointError(f"the checkpoint can't be kept: {error}") from error
            raise

    def lend(self, checkpoint: Checkpoint, directory: Path) -> Path:
        """Copy a checkpoint to where a session's kernel can read it, if it is as it was.

        Raises:
            CheckpointDamagedError: It is not.
            CheckpointError: It can't be copied.
        """
        name = under_way(checkpoint.id)
        path = self.path(checkpoint.id)
        self.take_back(checkpoint.id, directory)
        try:
            with (
                reading.opened(self._root, checkpoint.id) as file,
                folder(directory, "") as fd,
                os.fdopen(os.open(name, writing.NEW, 0o600, dir_fd=fd), "wb") as copy,
            ):
                digest, _ = sign(file, self._key(), checkpoint.id, copy)
        except FileNotFoundError as error:
            raise CheckpointDamagedError(f"the file {path} of the checkpoint is gone") from error
        except (OSError, ValueError) as error:
            self.take_back(checkpoint.id, directory)
            raise CheckpointError(f"the checkpoint can't be read: {error}") from error
        if not hmac.compare_digest(digest, checkpoint.digest):
            self.take_back(checkpoint.id, directory)
            msg = (
                f"the file {path} is not what this server wrote: it was changed, or signed with "
                "another key. Nothing was restored."
            )
            raise CheckpointDamagedError(msg)
        return directory / name

    def take_back(self, checkpoint_id: str, directory: Path) -> None:
        """Remove what is under way of a checkpoint in a session's directory."""
        with suppress(OSError):
            writing.remove(directory, under_way(checkpoint_id))

    def remove(self, *checkpoint_ids: str) -> None:
        """Remove files of checkpoints, whatever is there."""
        for checkpoint_id in checkpoint_ids:
            remove_tree(self.path(checkpoint_id))

    def sweep(self, known: Iterable[str], directories: Iterable[Path]) -> None:
        """Remove what a server that was killed has left half done.

        Args:
            known: Ids of the checkpoints there are.
            directories: Those of the sessions.
        """
        kept = {*known, KEY}
        self.remove(*(name for name in reading.names(self._root, "") if name not in kept))
        for directory in directories:
            for name in reading.names(directory, ""):
                if name.startswith(UNDER_WAY):
                    self.take_back(name.removeprefix(UNDER_WAY), directory)

    def _key(self) -> bytes:
        return load_key(self._root / KEY)


def largest() -> int:
    """Return the most bytes that a namespace of this machine can have."""
    memory = psutil.virtual_memory().total + psutil.swap_memory().total
    return bounds.CHECKPOINT_FACTOR * int(memory)


def under_way(checkpoint_id: str) -> str:
    """Return the name of a checkpoint's file in a session's directory."""
    return UNDER_WAY + checkpoint_id
