"""What a Jupyter client asks of a kernel's history, answered from the kernel's own memory.

Stock answers from a database of the user's, which all kernels of all times share. A kernel of
ours has none: it knows its own cells, as the arrow keys of a console want them.
"""

import fnmatch
from collections.abc import Sequence
from typing import Any

TAIL = 10  # cells that are meant when no number is said
Entry = tuple[int, int, Any]  # session (0: this one), number of the cell, its code


def remembered(
    cells: Sequence[str],
    kind: str,
    *,
    n: int | None = None,
    pattern: str | None = None,
    unique: bool = False,
    start: int | None = None,
    stop: int | None = None,
    session: int | None = None,
) -> list[Entry]:
    """Return cells of this kernel, the oldest first.

    Args:
        cells: Their code, by number; that of number 0 is none.
        kind: "tail", "search" or "range", as Jupyter's protocol has them.
        n: How many, the newest; None: 10 of a tail, all of a search.
        pattern: With ``*`` and ``?``, for a search; None: all.
        unique: Whether equal ones are there once, the newest.
        start: The first of a range; None: 1; below 0: from the end.
        stop: The one behind its last; None: the newest is the last.
        session: Of a range: 0 is this one, -1 the one before, which nobody knows.
    """
    entries = [(0, number, code) for number, code in enumerate(cells) if number]
    if kind == "range":
        if session:
            return []
        first = 1 if start is None else start if start >= 0 else max(len(cells) + start, 1)
        return [e for e in entries if e[1] >= first and (stop is None or e[1] < stop)]
    if kind == "search":
        entries = [e for e in entries if fnmatch.fnmatchcase(e[2], pattern or "*")]
        if unique:
            newest = {code: number for _, number, code in entries}
            entries = [e for e in entries if newest[e[2]] == e[1]]
    elif n is None:
        n = TAIL
    return entries if n is None else entries[len(entries) - min(max(n, 0), len(entries)) :]
