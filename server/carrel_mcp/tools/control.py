"""Toolset `control`: the lives of many sessions at once."""

from typing import Annotated

from mcp.types import CallToolResult
from pydantic import Field

from carrel_mcp.context import Ctx, Declaration, app_of, tool
from carrel_mcp.results import CleanedUp


@tool(Declaration(title="Clean up sessions", toolset="control", destructive=True, idempotent=True))
async def cleanup_sessions(
    ctx: Ctx,
    older_than: Annotated[
        float | None,
        Field(
            ge=0,
            allow_inf_nan=False,
            description="Delete sessions idle for so many seconds; default: age does not matter",
        ),
    ] = None,
    session_ids: Annotated[
        list[str] | None, Field(description="Only these; default: all but 'default'")
    ] = None,
    dry_run: Annotated[bool, Field(description="Only say what would be deleted")] = False,
) -> Annotated[CallToolResult, CleanedUp]:
    """Delete sessions that are not used any more, and files that belong to no session.

    With neither older_than nor session_ids no session is deleted. Sessions that run code stay,
    and so does 'default'. Try dry_run first.
    """
    report = await app_of(ctx).sessions.clean_up(
        older_than=older_than, session_ids=session_ids, dry_run=dry_run
    )
    result = CleanedUp(
        deleted=report.deleted, kept=report.kept, removed=report.removed, dry_run=dry_run
    )
    verb = "Would delete" if dry_run else "Deleted"
    lines = [
        f"{verb} {len(result.deleted)} sessions: {', '.join(result.deleted) or 'none'}.",
        f"{verb} {len(result.removed)} folders of no session." if result.removed else "",
        *(f"'{name}' stays: {why}." for name, why in result.kept.items()),
    ]
    return result.answer("\n".join(filter(None, lines)))
