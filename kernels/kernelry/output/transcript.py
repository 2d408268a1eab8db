"""The whole text of an execution, readable by pages: what was sent and what was spilled."""

import codecs
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from kernelry import bounds
from kernelry.beneath import reading
from kernelry.output.fold import Display, Error, Output, Spill, text_of
from kernelry.output.terminal import readable

CHUNK_BYTES = 128 << 10  # read at once from a file
SPILL_BYTES = bounds.SPILL_BYTES  # read of a spill file; the largest that settings allow
COUNTED = 100_000  # lines with a text in them; each costs a step
LINE_CHARS = 400  # shown of a line that was searched for


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


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a transcript."""

    #: from 1
    number: int
    #: without its end, as a terminal would show it; a long one is cut
    text: str


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

    @cached_property
    def lines(self) -> int:
        """How many lines there are, also one that has no end yet."""
        ends, last = 0, "\n"
        for chunk in self._chunks():
            ends, last = ends + chunk.count("\n"), chunk[-1]
        return ends + (last != "\n")

    def offset_of(self, line: int) -> int:
        """Return where a line begins, in characters; the end if there are fewer.

        Args:
            line: Its number, from 1.
        """
        left, position = line - 1, 0
        for chunk in self._chunks() if left > 0 else ():
            ends = chunk.count("\n")
            if ends >= left:
                at = 0
                for _ in range(left):
                    at = chunk.index("\n", at) + 1
                return position + at
            left, position = left - ends, position + len(chunk)
        return position

    def last(self, lines: int, limit: int) -> Page:
        """Return the last lines, or as much of their end as `limit` characters hold."""
        page = self.read(max(self.total - limit, 0), limit)
        ends = page.text.removesuffix("\n").split("\n")
        text = page.text
        if len(ends) > lines:
            text = text[sum(len(one) + 1 for one in ends[:-lines]) :]
        return Page(text, page.end - len(text), page.end, page.total)

    def search(self, text: str, most: int, first: int = 1) -> tuple[list[Line], int]:
        """Return lines that have a text in them, and how many have.

        Args:
            text: What they have.
            most: Lines that are returned.
            first: Number of the line from which on they are returned.

        Returns:
            The lines; and how many there are in all, counted up to `COUNTED`.
        """
        found, count, number = list[Line](), 0, 1
        for chunk in self._whole_lines():
            at = chunk.find(text)
            line_of, counted = number, 0
            while at >= 0:
                line_of, counted = line_of + chunk.count("\n", counted, at), at
                start = chunk.rfind("\n", 0, at) + 1
                stop = (chunk.find("\n", at) + 1 or len(chunk) + 1) - 1
                count += 1
                if len(found) < most and line_of >= first:
                    around = max(start, at - LINE_CHARS // 2)
                    shown = readable(chunk[around : min(stop, around + LINE_CHARS)])
                    found.append(Line(line_of, shown))
                if count == COUNTED:
                    return found, count
                at = chunk.find(text, max(stop, at + 1))
            number += chunk.count("\n")
        return found, count

    def _chunks(self) -> Iterator[str]:
        """Yield the text piece by piece, none of them empty, with as many characters as read."""
        for part in self._parts:
            yield from (filter(None, [part]) if isinstance(part, str) else part.chunks())

    def _whole_lines(self) -> Iterator[str]:
        """Yield the text in pieces that end where a line does; a very long one is in several."""
        left = ""
        for chunk in self._chunks():
            end = chunk.rfind("\n") + 1
            if end or len(left) > CHUNK_BYTES:
                yield left + chunk[:end]
                left = chunk[end:]
            else:
                left += chunk
        if left:
            yield left


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

    def chunks(self) -> Iterator[str]:
        """Yield all of it piece by piece."""
        with suppress(OSError), reading.opened(self._root, self._path) as file:
            yield from decoded(file, SPILL_BYTES)

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
    pieces: list[str] = []
    position = 0
    for chunk in decoded(file, most):
        pieces.append(chunk[max(start - position, 0) : max(stop - position, 0)])
        position += len(chunk)
        if position >= stop and not count:
            break
    return "".join(pieces), position


def decoded(file: Source, most: int) -> Iterator[str]:
    """Yield what a file of UTF-8 has in at most `most` bytes, in pieces that are not empty."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while data := file.read(min(CHUNK_BYTES, most)):
        most -= len(data)
        if chunk := decoder.decode(data):
            yield chunk
    if end := decoder.decode(b"", final=True):
        yield end


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
