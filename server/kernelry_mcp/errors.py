"""kernelry's errors as tool errors: the one place that knows both.

A tool error is for what the caller must change. Its text says what to do next; the code
is there for programs. What a cell raised is a result, not an error.
"""

import re
from collections.abc import Collection, Container
from typing import Any

from mcp.types import CallToolResult, TextContent

from kernelry import Sessions
from kernelry.errors import KernelryError

NAMED = 20  # variables that were lost


def error_result(error: KernelryError, text: str = "") -> CallToolResult:
    """Return what the model reads.

    Args:
        error: What happened.
        text: What is said of it; empty: what it says itself.
    """
    text = text or str(error)
    structured: dict[str, Any] = {
        "error": {"code": error.code, "message": text, "retryable": error.retryable}
    }
    return CallToolResult(
        is_error=True,
        content=[TextContent(type="text", text=text)],
        structured_content=structured,
    )


def without_ways(text: str, absent: Collection[str]) -> str:
    """Return an advice without the sentences that name tools which are not on offer.

    Args:
        text: Sentences, or clauses between semicolons.
        absent: Names of these tools.
    """
    if not any(name in text for name in absent):
        return text
    parts = re.split(r"((?<=[.?!])\s+|;\s+)", text)
    said, between = "", ""
    for part, after in zip(parts[::2], [*parts[1::2], ""], strict=True):
        if set(re.findall(r"\w+", part)).isdisjoint(absent):
            said += (between if said else "") + part
            between = after
    if not said:  # better a way that can't be gone than no word
        return text
    return said if said[-1] in ".?!" or text[-1] not in ".?!" else f"{said}."


async def after_death(sessions: Sessions, session_id: str, offered: Container[str]) -> str:
    """Say what is lost with a kernel, what is left, and what gives the session another one.

    Args:
        sessions: Where it was.
        session_id: Whose kernel it was.
        offered: The tools that may be named.
    """
    session = next((one for one in sessions.list() if one.id == session_id), None)
    names = session.listed if session else ()
    more = ", ..." if len(names) > NAMED else ""
    listed = f" ({', '.join(names[:NAMED])}{more}: those of the last listing)" if names else ""
    said = f"All variables{listed} are gone; packages, files and history stay."
    if "restart_kernel" in offered:
        said += " restart_kernel gives the session a new kernel."
    kept = await sessions.checkpoints.known(session_id)
    if kept and "resume_session" in offered:
        said += f" resume_session gives it one with the variables of its checkpoint {kept[0]}."
    elif kept and "restore_checkpoint" in offered:
        said += f" After that restore_checkpoint brings back the variables of {kept[0]}."
    return said
