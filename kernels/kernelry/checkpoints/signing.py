"""The key of a state directory, and what it signs: that a file is what this server wrote.

A keyed BLAKE3 hash says in one that a file is whole and that it is ours. The key is made on
first use and is where no kernel within walls can read it.
"""

import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from blake3 import blake3

KEY_BYTES = 32  # BLAKE3's
CHUNK_BYTES = 1 << 20
making = threading.Lock()


def load_key(path: Path) -> bytes:
    """Return the key in a file, which is made if there is none.

    Raises:
        OSError: It can't be read or made.
        ValueError: It is no key.
    """
    with making:  # sessions are saved beside each other, and the first ones make it
        try:
            key = path.read_bytes()
        except FileNotFoundError:
            key = secrets.token_bytes(KEY_BYTES)
            with whole_file(path) as file:
                file.write(key)
    if len(key) != KEY_BYTES:
        raise ValueError(f"{path} is no key of {KEY_BYTES} bytes")
    return key


def sign(file: BinaryIO, key: bytes, name: str, copy: BinaryIO | None = None) -> tuple[str, int]:
    """Return the signature of a file and its size.

    Args:
        file: Read from where it is to its end.
        key: The key.
        name: What it is signed as: another file of ours is not taken for it.
        copy: Where to write the same.
    """
    hasher = blake3(name.encode(), key=key)
    size = 0
    while data := file.read(CHUNK_BYTES):
        hasher.update(data)
        size += len(data)
        if copy is not None:
            copy.write(data)
    return hasher.hexdigest(), size


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Make a file that is there with all that is written, also after a power cut, or not at all."""
    made = path.with_suffix(".new")
    fd = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
            file.flush()
            os.fsync(fd)
        made.replace(path)
    except BaseException:
        made.unlink(missing_ok=True)
        raise
