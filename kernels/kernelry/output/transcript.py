"""The whole text of an execution, readable by pages: what was sent and what was spilled."""

import codecs
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kernelry import bounds
from kernelry.beneath import reading
from kernelry.output.fold import Display, Error, Output, Spill, text_of
from kernelry.output.terminal import readable

CHUNK_BYTES = 1 << 20  # read at once from a file
SPILL_BYTES = bounds.SPILL_BYTES  # read of a spill file; the largest that settings allow


@dataclass(frozen=True, slots=True)
class Page:
    """A stretch of a transcript."""

    #: the characters
    text: str
    #: where they begin
    offset: int
    #: where they end
    end: int
    #: how long the whole is
    total: int


class Source(Protocol):
    """What can be read piece by piece."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes; none at the end."""
        ...


class Transcript:
    """All text of an execution in order: streams, displays, errors, and its spill file.

    Offsets count characters. Reading is blocking file I/O for what was spilled; ask from a
    thread. While the execution runs the transcript is what there is now.
    """

    def __init__(self, outputs: Iterable[Output], spill_dir: Path) -> None:
        self._parts: list[str | SpillText] = []
        for output in outputs:
            if isinstance(output, Spill):
                text = SpillText(output, spill_dir)
                removed = 0 if text else max(output.chars, 0)
                self._parts += [text, _removed(removed), beyond(output)]
            else:
                last = self._parts[-1] if self._parts else ""
                if isinstance(output, Display | Error) and isinstance(last, str):
                    self._parts.append("\n" if last and not last.endswith("\n") else "")
                self._parts.append(text_of(output))
        self.total = sum(len(part) for part in self._parts)

    def read(self, offset: int, limit: int) -> Page:
        """Return up to `limit` characters from `offset` on."""
        pieces: list[str] = []
        position = 0
        for part in self._parts:
            length = len(part)
            start, stop = max(offset - position, 0), min(offset + limit - position, length)
            if start < stop:
                pieces.append(part[start:stop] if isinstance(part, str) else part.cut(start, stop))
            position += length
        end = max(offset, min(offset + limit, self.total))
        return Page("".join(pieces), offset, end, self.total)


class SpillText:
    """The text in a spill file. The file is the kernel's: whatever it is, nothing else is read."""

    def __init__(self, spill: Spill, folder: Path) -> None:
        self._root = folder.parent
        self._path = f"{folder.name}/{spill.file}"
        self._bytes = reading.size(self._root, self._path)
        if not self._bytes:
            self._chars = 0
        elif spill.chars >= 0:
            self._chars = spill.chars
        else:
            self._chars = self._cut(0, 0, count=True)[1]

    def __len__(self) -> int:
        return self._chars

    def cut(self, start: int, stop: int) -> str:
        """Return the characters from `start` to `stop`, as a terminal would show them."""
        if self._chars == self._bytes:  # one byte each: no need to count from the beginning
            data = reading.head(self._root, self._path, stop - start, start=start) or b""
            return readable(data.decode("utf-8", "replace"))
        return readable(self._cut(start, stop)[0])

    def _cut(self, start: int, stop: int, *, count: bool = False) -> tuple[str, int]:
        with suppress(OSError), reading.opened(self._root, self._path) as file:
            return cut(file, start, stop, SPILL_BYTES, count=count)
        return "", 0


def cut(file: Source, start: int, stop: int, most: int, *, count: bool = True) -> tuple[str, int]:
    """Return the characters from `start` to `stop` of a file of UTF-8, and how many it has.

    Args:
        file: At its beginning.
        start: In characters.
        stop: In characters.
        most: Bytes that are read at most.
        count: Whether to read on behind `stop`, to tell how many there are.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pieces: list[str] = []
    position = 0
    while data := file.read(min(CHUNK_BYTES, most)):
        most -= len(data)
        chunk = decoder.decode(data)
        pieces.append(chunk[max(start - position, 0) : max(stop - position, 0)])
        position += len(chunk)
        if position >= stop and not count:
            break
    end = decoder.decode(b"", final=True)
    pieces.append(end[max(start - position, 0) : max(stop - position, 0)])
    return "".join(pieces), position + len(end)


def _removed(chars: int) -> str:
    """Return what is said in place of a spill file that had to make room for newer ones."""
    return f"\n[... {chars} characters are not kept any more ...]\n" if chars else ""


def beyond(spill: Spill) -> str:
    """Return what is left of text that did not fit into the spill file: a count and the end."""
    if not spill.dropped:
        return ""
    tail = "".join(readable(text) for text in spill.tails.values())[-spill.dropped :]
    gone = spill.dropped - len(tail)
    return f"\n[... {gone} characters beyond the limit were not kept ...]\n{tail}"
