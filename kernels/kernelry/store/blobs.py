"""Contents by their address: files named after the BLAKE3 hash of what is in them.

A content is written beside the others first and put among them whole, by a rename. Larger ones
are compressed where that makes them smaller; both forms of one content may be there and mean the
same. What is read is checked against its address. Blocking file I/O; `place` and `remove` are
for the store's thread, whose transactions know which contents are referred to.
"""

import errno
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import zstandard
from blake3 import blake3

from kernelry.errors import StoreError
from kernelry.output import Source
from kernelry.paths import private_directory

COMPRESSED_BYTES = 10_240  # larger contents are compressed
LEVEL = 3  # of zstd: as fast as the disk, and most of what higher ones save
CHUNK_BYTES = 1 << 20  # in memory at once
START_BYTES = 1 << 16  # of a content, to tell what it is
SUFFIX = ".zst"
NEW = "new"  # folder of what is being written


class DamagedError(Exception):
    """What is at an address is not what was put there."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A content that is written, and not yet among the others."""

    #: its address
    hash: str
    #: bytes of the content
    size: int
    #: its first bytes
    start: bytes
    #: the file that holds it
    file: Path


class Blobs:
    """The contents of one state directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, aside: str = "") -> None:
        """Remove what a server before was writing.

        Args:
            aside: Suffix of the damaged database that the contents belong to; they are kept
                under the same; empty: there is none.
        """
        if aside and self.folder.exists():
            self.folder.rename(self.folder.with_name(self.folder.name + aside))
        shutil.rmtree(self.folder / NEW, ignore_errors=True)

    def write(self, chunks: Iterable[bytes]) -> Blob:
        """Write a content; `place` or `discard` it afterwards.

        Raises:
            StoreError: It can't be written.
        """
        private_directory(self.folder)
        file = private_directory(self.folder / NEW) / uuid4().hex
        small = file.with_name(file.name + SUFFIX)
        try:
            blob = _write(chunks, file)
            if blob.size <= COMPRESSED_BYTES:
                return blob
            _compress(file, small)
            if small.stat().st_size >= blob.size:
                small.unlink()
                return blob
            file.unlink()
            return replace(blob, file=small)
        except BaseException:
            file.unlink(missing_ok=True)
            small.unlink(missing_ok=True)
            raise

    def discard(self, blob: Blob) -> None:
        """Remove what was written, unless it was placed."""
        with suppress(OSError):  # the next start does
            blob.file.unlink()

    def place(self, blob: Blob) -> None:
        """Put a written content among the others, in place of the same one.

        Raises:
            StoreError: It can't be.
        """
        path = self._path(blob.hash, blob.file.suffix)
        with explained(path):
            path.parent.mkdir(mode=0o700, exist_ok=True)
            blob.file.replace(path)

    def remove(self, address: str) -> None:
        """Remove a content."""
        for suffix in ("", SUFFIX):
            with suppress(OSError):  # gone, or the sweep of the next start finds it
                self._path(address, suffix).unlink()
        with suppress(OSError):  # there are others in it
            self._path(address, "").parent.rmdir()

    def addresses(self) -> set[str]:
        """Return the addresses of all contents that there are."""
        return {
            file.name.removesuffix(SUFFIX)
            for folder in self.folder.glob("??")
            for file in folder.iterdir()
        }

    @contextmanager
    def opened(self, address: str, size: int) -> Iterator["Checked"]:
        """Open a content to be read from its beginning.

        Raises:
            DamagedError: It is not there, or not what was put there; the latter is known at
                the end of this block, which reads the rest.
        """
        with self._file(address) as file:
            reader = Checked(file, address, size)
            yield reader
            while reader.read(CHUNK_BYTES):
                pass

    @contextmanager
    def _file(self, address: str) -> Iterator[Source]:
        path = self._path(address, SUFFIX)
        is_compressed = path.exists()
        try:
            file = (path if is_compressed else self._path(address, "")).open("rb")
        except FileNotFoundError as error:
            raise DamagedError("it is not on the disk any more") from error
        except OSError as error:
            raise DamagedError(f"it can't be read: {error.strerror}") from error
        if not is_compressed:
            with file:
                yield file
            return
        with file, zstandard.ZstdDecompressor().stream_reader(file) as reader:
            yield reader

    def _path(self, address: str, suffix: str) -> Path:
        return self.folder / address[:2] / (address + suffix)


class Checked:
    """A content while it is read, hashed on the way."""

    def __init__(self, file: Source, address: str, size: int) -> None:
        self._file = file
        self._address = address
        self._left = size
        self._digest = blake3()

    def read(self, size: int, /) -> bytes:
        """Return the next bytes; none at the end.

        Raises:
            DamagedError: The content is not what was put there.
        """
        try:
            data = self._file.read(size)
        except (zstandard.ZstdError, OSError) as error:
            raise DamagedError(f"it can't be read: {error}") from error
        self._digest.update(data)
        self._left -= len(data)
        # A content that grows is given up at once: compressed, it might not end.
        if self._left < 0 or (not data and self._digest.hexdigest() != self._address):
            raise DamagedError("it does not match its BLAKE3 hash")
        return data


def chunks_of(file: Source) -> Iterator[bytes]:
    """Return what is in a file, piece by piece."""
    while data := file.read(CHUNK_BYTES):
        yield data


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the system says about writing a file into an error of ours.

    Raises:
        StoreError: It can't be written.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        cure = "Free space on its disk" if full else "See that it is there and writable"
        msg = f"can't write {path.parent}: {error.strerror or error}. {cure} and try again."
        raise StoreError(msg) from error


def _write(chunks: Iterable[bytes], path: Path) -> Blob:
    digest, size, start = blake3(), 0, b""
    with explained(path), path.open("xb") as file:
        for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
            start += chunk[: START_BYTES - len(start)]
            file.write(chunk)
    return Blob(digest.hexdigest(), size, start, path)


def _compress(source: Path, target: Path) -> None:
    compressor = zstandard.ZstdCompressor(level=LEVEL)
    with explained(target), source.open("rb") as raw, target.open("xb") as file:
        compressor.copy_stream(raw, file, read_size=CHUNK_BYTES, write_size=CHUNK_BYTES)
