"""The whole text of an execution, readable by pages: what was sent and what was spilled."""

import codecs
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from carrel.outputs import Output, Spill, readable, text_of

CHUNK_BYTES = 1 << 20  # read at once from a spill file


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


class Transcript:
    """All text of an execution in order: streams, displays, errors, and its spill file.

    Offsets count characters. Reading is blocking file I/O for what was spilled; ask from a
    thread. While the execution runs the transcript is what there is now.
    """

    def __init__(self, outputs: Iterable[Output], spill_dir: Path) -> None:
        self._parts: list[str | SpillText] = []
        for output in outputs:
            if isinstance(output, Spill):
                text = SpillText(output, spill_dir / output.file)
                removed = 0 if text else max(output.chars, 0)
                self._parts += [text, _removed(removed), _beyond(output)]
            else:
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
    """The text in a spill file."""

    def __init__(self, spill: Spill, path: Path) -> None:
        self._path = path
        try:
            self._bytes = path.stat().st_size
        except OSError:
            self._bytes = 0
        if not self._bytes:
            self._chars = 0
        elif spill.chars >= 0:
            self._chars = spill.chars
        else:
            self._chars = sum(len(chunk) for chunk in self._decode(0))

    def __len__(self) -> int:
        return self._chars

    def cut(self, start: int, stop: int) -> str:
        """Return the characters from `start` to `stop`, as a terminal would show them."""
        if self._chars == self._bytes:  # one byte each: no need to count from the beginning
            with self._path.open("rb") as file:
                file.seek(start)
                return readable(file.read(stop - start).decode("utf-8", "replace"))
        pieces: list[str] = []
        position = 0
        for chunk in self._decode(0):
            if position >= stop:
                break
            pieces.append(chunk[max(start - position, 0) : max(stop - position, 0)])
            position += len(chunk)
        return readable("".join(pieces))

    def _decode(self, start: int) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        with self._path.open("rb") as file:
            file.seek(start)
            while data := file.read(CHUNK_BYTES):
                yield decoder.decode(data)


def _removed(chars: int) -> str:
    """Return what is said in place of a spill file that had to make room for newer ones."""
    return f"\n[... {chars} characters are not kept any more ...]\n" if chars else ""


def _beyond(spill: Spill) -> str:
    """Return what is left of text that did not fit into the spill file: a count and the end."""
    if not spill.dropped:
        return ""
    tail = "".join(readable(text) for text in spill.tails.values())[-spill.dropped :]
    gone = spill.dropped - len(tail)
    return f"\n[... {gone} characters beyond the limit were not kept ...]\n{tail}"
