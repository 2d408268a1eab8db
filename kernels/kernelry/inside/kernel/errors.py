"""Exceptions of the user's code, cut to what a reader can use: text of an exception has no end.

The class of one may have a name of a megabyte, its text may be a table, a traceback may show both.
"""

from typing import Any

ENAME_CHARS = 200
EVALUE_CHARS = 100_000
TRACEBACK_CHARS = 200_000
ERROR_CHARS = 500  # of the text of an exception that showing a value raised
PAYLOAD_CHARS = 1 << 20  # of what a cell asks its client to show in a pager


def cut(text: str, most: int) -> str:
    """Return a text, or its beginning and its end with a notice between them."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"


def cut_error(content: dict[str, Any]) -> dict[str, Any]:
    """Return the same message or reply with its error cut."""
    parts = [str(part) for part in content.get("traceback") or ()]
    if sum(map(len, parts)) > TRACEBACK_CHARS:
        parts = [cut("\n".join(parts), TRACEBACK_CHARS)]
    return {
        **content,
        "ename": str(content.get("ename", ""))[:ENAME_CHARS],
        "evalue": cut(str(content.get("evalue", "")), EVALUE_CHARS),
        "traceback": parts,
    }


def cut_reply(reply: dict[str, Any]) -> dict[str, Any]:
    """Return the reply to an execution with nothing in it that has no end."""
    if "ename" in reply:
        reply = cut_error(reply)
    shown = reply.get("payload")
    if shown and sum(len(repr(item)) for item in shown) > PAYLOAD_CHARS:
        reply = {**reply, "payload": []}
    return reply


def text_of(error: BaseException | None, most: int | None = ERROR_CHARS) -> str:
    """Return what an exception says, which is code of the user's too."""
    try:
        return str(error)[:most]
    except Exception:
        return "(and its text can't be shown either)"
