"""Read what a kernel kept of what it published; it is written by inside/kernel/journal.py.

The file is the kernel's, so nothing in it is trusted: a line that is none ends the reading,
and no more is read than a kernel of ours would have written.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kernelry import bounds
from kernelry.beneath import reading
from kernelry.messaging.wire import UNSOUND, Message, load

FIRST_BYTES = 1000  # more than the line with which a journal begins


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that a kernel did for an execution."""

    #: its number; there are no gaps unless something was lost
    seq: int
    #: "open": it began to keep things; "begin": it took the execution up; "iopub": it
    #: published; "shell": it replied
    channel: Literal["open", "begin", "iopub", "shell"]
    #: the execution; empty: none yet
    msg_id: str
    #: the message, as `Wire.read` gives it; of a reply only its content, and when it was made
    message: Message


def read_journal(path: Path) -> list[Entry] | None:
    """Return what the file at `path` holds; None if there is no such file."""
    data = _read(path, bounds.JOURNAL_BYTES)
    return None if data is None else parse(data.split(b"\n"))


def newest_begun(path: Path) -> str:
    """Return the execution that a kernel took up last; empty: none, or it is not known."""
    lines = (_read(path, FIRST_BYTES) or b"").split(b"\n", 1)
    return next((entry.msg_id for entry in parse(lines[:1])), "")


def parse(lines: Iterable[bytes | str]) -> list[Entry]:
    """Return the entries in `lines`, up to the first that is none."""
    entries: list[Entry] = []
    for line in lines:
        try:
            entries.append(_entry(load(line), len(line)))
            if len(entries) >= bounds.REPLAY_LINES:
                break
        except (RecursionError, *UNSOUND):
            break
    return entries


def name_of(value: object) -> str:
    """Return the name of a request.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(value, str) or len(value) > bounds.NOTE_ID_CHARS:
        raise ValueError("no name of a request")
    return value


def _read(path: Path, most: int) -> bytes | None:
    return reading.head(path.parent, path.name, most)  # a cell can put anything there


def _entry(line: dict[str, Any], size: int) -> Entry:
    channel, seq = line["channel"], int(line["seq"])
    if channel == "open":
        return Entry(seq, "open", "", {})
    if channel == "begin":
        return Entry(seq, "begin", name_of(line["msg_id"]), {})
    if channel == "shell":
        reply: Message = {"content": dict(line["content"]), "at": float(line.get("at", 0))}
        return Entry(seq, "shell", name_of(line["msg_id"]), reply)
    header, parent = dict(line["header"]), dict(line["parent_header"])
    msg_id = name_of(parent.get("msg_id", ""))
    message: Message = {
        "header": header,
        "parent_header": parent,
        "metadata": dict(line["metadata"]),
        "content": dict(line["content"]),
        "msg_type": str(header["msg_type"]),
        "parent_id": msg_id,
        "size": size,
    }
    return Entry(seq, "iopub", msg_id, message)
