"""Fold what repeats in a text: a thousand equal lines, or one frame of a recursion over and over.

Only lines that are equal, one by one or in groups; what is folded says so, and can be read in full
by pages. Pure. Its cost is that of the lines, times the longest group.
"""

from collections.abc import Iterable

LONGEST = 24  # lines of a group that repeats: a frame of a traceback has some ten
SAVES = 6  # lines that folding must save
MOST = 50_000  # lines that are looked at


def folded(text: str) -> str:
    """Return a text with what repeats at once said once."""
    lines = text.split("\n")
    if len(lines) <= SAVES or len(lines) > MOST:
        return text
    kept: list[str] = []
    at = 0
    while at < len(lines):
        size, times = repetition(lines, at)
        kept += lines[at : at + size]
        if times:
            what = "line" if size == 1 else f"{size} lines"
            kept.append(f"[the {what} above {times:,} more times]")
        at += size * (times + 1)
    return "\n".join(kept)


def repetition(lines: list[str], at: int) -> tuple[int, int]:
    """Return how many lines are a group there, and how often it comes again; 1, 0 if it doesn't."""
    for size in range(1, min(LONGEST, (len(lines) - at) // 2) + 1):
        if lines[at] != lines[at + size]:
            continue
        group, times = lines[at : at + size], 0
        following = at + size
        while lines[following : following + size] == group:
            times += 1
            following += size
        if times * size >= SAVES and any(group):
            return size, times
    return 1, 0


def fitting(lines: Iterable[str], budget: int) -> list[str]:
    """Return the first lines, as many as a budget of characters holds, but at least one."""
    kept: list[str] = []
    for line in lines:
        budget -= len(line) + 1
        if budget < 0 and kept:
            break
        kept.append(line)
    return kept
