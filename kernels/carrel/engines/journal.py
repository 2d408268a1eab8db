"""Read what a kernel kept of what it published; the writing side is carrel/inside/journal.py.

The file is the kernel's, so nothing in it is trusted: a line that is none ends the reading,
and no more is read than a kernel of ours would have written.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from carrel.engines.wire import Message

READ_BYTES = 64 << 20  # more than a kernel writes


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that a kernel did for an execution."""

    #: its number; there are no gaps unless something was lost
    seq: int
    #: "begin": it took the execution up; "iopub": it published; "shell": it replied
    channel: Literal["begin", "iopub", "shell"]
    #: the execution
    msg_id: str
    #: the message, as `Wire.read` gives it; of a reply only its content
    message: Message


def read_journal(path: Path) -> list[Entry] | None:
    """Return what the file at `path` holds; None if there is no such file."""
    try:
        with path.open("rb") as file:
            data = file.read(READ_BYTES)
    except OSError:
        return None
    return parse(data.split(b"\n"))


def parse(lines: Iterable[bytes | str]) -> list[Entry]:
    """Return the entries in `lines`, up to the first that is none."""
    entries: list[Entry] = []
    for line in lines:
        try:
            entries.append(_entry(json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            break
    return entries


def is_whole(entries: list[Entry]) -> bool:
    """Say whether nothing is missing from the begin of the execution to the last entry."""
    if not entries or entries[0].channel != "begin":
        return False
    return entries[-1].seq - entries[0].seq == len(entries) - 1


def _entry(line: dict[str, Any]) -> Entry:
    channel, seq = line["channel"], int(line["seq"])
    if channel == "begin":
        return Entry(seq, "begin", str(line["msg_id"]), {})
    if channel == "shell":
        return Entry(seq, "shell", str(line["msg_id"]), {"content": dict(line["content"])})
    header, parent = dict(line["header"]), dict(line["parent_header"])
    msg_id = str(parent.get("msg_id", ""))
    message: Message = {
        "header": header,
        "parent_header": parent,
        "metadata": dict(line["metadata"]),
        "content": dict(line["content"]),
        "msg_type": str(header["msg_type"]),
        "parent_id": msg_id,
    }
    return Entry(seq, "iopub", msg_id, message)
