"""kernelry's errors as tool errors: the one place that knows both.

A tool error is for what the caller must change. Its text says what to do next; the code
is there for programs. What a cell raised is a result, not an error.
"""

import functools
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar

from mcp.types import CallToolResult, TextContent

from kernelry.errors import KernelryError

P = ParamSpec("P")
Answer = TypeVar("Answer")


def error_result(error: KernelryError) -> CallToolResult:
    """Return what the model reads."""
    structured: dict[str, Any] = {
        "error": {"code": error.code, "message": str(error), "retryable": error.retryable}
    }
    return CallToolResult(
        is_error=True,
        content=[TextContent(type="text", text=str(error))],
        structured_content=structured,
    )


def reporting_errors(
    tool: Callable[P, Awaitable[Answer]],
) -> Callable[P, Awaitable[Answer | CallToolResult]]:
    """Make a tool answer kernelry's errors instead of raising them."""

    @functools.wraps(tool)
    async def reporting(*args: P.args, **kwargs: P.kwargs) -> Answer | CallToolResult:
        try:
            return await tool(*args, **kwargs)
        except KernelryError as error:
            return error_result(error)

    return reporting
