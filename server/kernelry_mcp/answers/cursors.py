"""Cursors: how far an answer told an execution's output, so that the next tells only what is new.

Output also changes behind a cursor: a display is updated, a screen is cleared, spilled text grows
before what came after it. So a cursor bears a check of what stands right before it; where that
does not fit any more, the next answer says so and shows the end of what there is.
"""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from kernelry import Execution
from kernelry.errors import InvalidArgumentError
from kernelry.output import Display, Stream, Transcript, readable, saved_files

CURSOR = re.compile(r"(\d{1,15})\.(\d{1,6})\.([0-9a-f]{1,8})")
BEFORE = 200  # characters before a cursor that are checked
LINE_CHARS = 2_000  # of an unfinished line that is shown again
RAW_CHARS = 100_000  # of such a line as it was written


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far an output was told."""

    #: characters of its text
    chars: int
    #: displays that have a picture
    pictures: int
    #: of what stands before
    check: str

    def __str__(self) -> str:
        return f"{self.chars}.{self.pictures}.{self.check}"


def read(since: str) -> Cursor:
    """Return the cursor that an answer gave.

    Raises:
        InvalidArgumentError: None did.
    """
    found = CURSOR.fullmatch(since)
    if found is None:
        msg = f"since={since[:40]!r} is of no answer: pass what one says"
        raise InvalidArgumentError(msg)
    return Cursor(int(found[1]), int(found[2]), found[3])


def cursor_at(transcript: Transcript, execution: Execution, end: int | None = None) -> Cursor:
    """Return the cursor behind what was told; blocking if something was spilled.

    Args:
        transcript: The execution's text.
        execution: The execution.
        end: Characters that were told; None: all, but for a line that may still change.
    """
    chars = max(transcript.total - unfinished(execution), 0) if end is None else end
    shown = pictured(execution)
    return Cursor(chars, len(shown), checked(transcript, chars, shown))


def is_good(cursor: Cursor, transcript: Transcript, execution: Execution) -> bool:
    """Say whether what stood before a cursor still does."""
    shown = pictured(execution)[: cursor.pictures]
    return cursor.chars <= transcript.total and cursor.check == checked(
        transcript, cursor.chars, shown
    )


def checked(transcript: Transcript, chars: int, shown: Sequence[Display]) -> str:
    """Return a check of the text before a place, and of pictures."""
    start = max(chars - BEFORE, 0)
    check = zlib.crc32(transcript.read(start, chars - start).text.encode("utf-8", "replace"))
    numbers = [display.number for display in shown]  # a new one when it is updated or drawn anew
    check = zlib.crc32(repr(numbers).encode("ascii"), check)
    return f"{check:x}"


def unfinished(execution: Execution) -> int:
    """Return how long the last line is if it may still change: a bar that moves, a prompt."""
    last = execution.outputs[-1] if execution.outputs else None
    if execution.status.is_final or not isinstance(last, Stream):
        return 0
    raw = last.text[last.text.rfind("\n") + 1 :]
    shown = len(readable(raw)) if len(raw) <= RAW_CHARS else 0
    return shown if shown <= LINE_CHARS else 0


def pictured(execution: Execution) -> list[Display]:
    """Return the displays of an execution that are pictures, or were saved."""
    return [o for o in execution.outputs if isinstance(o, Display) and has_files(o)]


def has_files(display: Display) -> bool:
    """Say whether a display is a picture, or was saved."""
    return bool(saved_files([display])) or any(mime.startswith("image/") for mime in display.data)
