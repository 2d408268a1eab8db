"""Toolset `checkpoints`: save the variables of a session, and put them back."""

from typing import Annotated

from mcp.types import CallToolResult
from pydantic import Field

from kernelry.models import Checkpoint
from kernelry.usage import quantity
from kernelry_mcp.answers import checkpoint_info, left_out, left_out_text, restored_text
from kernelry_mcp.answers.results import CheckpointList, CreatedCheckpoint, RestoredCheckpoint
from kernelry_mcp.callers import caller_of, name_of
from kernelry_mcp.context import Ctx, Declaration, app_of, tool
from kernelry_mcp.tools.parameters import SessionId

LISTED = 100  # checkpoints in one answer


@tool(Declaration(title="Create a checkpoint", toolset="checkpoints"))
async def create_checkpoint(
    ctx: Ctx,
    session_id: SessionId = None,
    name: Annotated[str, Field(max_length=200, description="What to call it")] = "",
    live: Annotated[bool, Field(description="Freeze all, in memory: back in a moment")] = False,
) -> Annotated[CallToolResult, CreatedCheckpoint]:
    """Save all variables of a session, also functions and classes.

    The session goes on at once. What can't be saved (locks, open files, ...) is listed. It stays
    until delete_session.
    """
    app = app_of(ctx)
    session = app.sessions.find(caller_of(ctx), session_id)
    saved = await app.sessions.checkpoints.create(
        session, name=name, live=live, patience=app.settings.wait
    )
    result = CreatedCheckpoint(
        session_id=session.id,
        checkpoint_id=saved.id,
        size=saved.size,
        blocked=saved.blocked,
        variables=list(saved.variables),
        skipped=left_out(saved.skipped),
        live=saved.is_live,
        named=list(saved.named),
    )
    if saved.is_live:
        return result.answer(
            f"Live checkpoint {saved.id} of session '{session.id}': everything as it is, in memory "
            f"until the machine ends; it took {saved.blocked * 1000:.0f} ms."
            + "".join(f" It has {line}." for line in saved.named)
        )
    return result.answer(
        f"Checkpoint {saved.id} of session '{session.id}': {len(saved.variables)} variables, "
        f"{quantity(saved.size)}; the kernel was held up for {saved.blocked * 1000:.0f} ms."
        + left_out_text("Not saved", saved.skipped)
    )


@tool(Declaration(title="List checkpoints", toolset="checkpoints", read_only=True, idempotent=True))
async def list_checkpoints(
    ctx: Ctx,
    session_id: Annotated[str | None, Field(description="Default: of all")] = None,
) -> Annotated[CallToolResult, CheckpointList]:
    """List checkpoints, the newest first."""
    sessions = app_of(ctx).sessions
    if session_id is not None:
        sessions.get(session_id)
    found = await sessions.checkpoints.list(session_id)
    result = CheckpointList(checkpoints={item.id: checkpoint_info(item) for item in found[:LISTED]})
    lines = [f"{len(result.checkpoints)} of {len(found)} checkpoints, the newest first:"]
    for item in found[:LISTED]:
        name = f" '{item.name}'" if item.name else ""
        lines.append(
            f"- {item.id}{name}: session '{item.session_id}', {item.reason}, "
            f"{item.created_at.isoformat(timespec='seconds')}, {what_of(item)}"
        )
    return result.answer("\n".join(lines))


def what_of(checkpoint: Checkpoint) -> str:
    """Say what is in a checkpoint, and where."""
    if checkpoint.is_live:
        return "live: everything, in memory until the machine ends"
    return f"{len(checkpoint.variables)} variables, {quantity(checkpoint.size)} on disk"


@tool(Declaration(title="Restore a checkpoint", toolset="checkpoints", destructive=True))
async def restore_checkpoint(
    ctx: Ctx,
    checkpoint_id: Annotated[str, Field(description="Its id, or its name")],
    session_id: SessionId = None,
    clear: Annotated[bool, Field(description="Remove other variables")] = False,
) -> Annotated[CallToolResult, RestoredCheckpoint]:
    """Put saved variables into a session, also another than they were saved from.

    Replaces variables of the same names, all at once. What can't be made again is listed. A live
    one brings everything back, and what was made since is gone.
    """
    app = app_of(ctx)
    session = app.sessions.find(caller_of(ctx), session_id)
    await app.sessions.suspension.wake(session, by=name_of(ctx))
    done = await app.sessions.checkpoints.restore(
        checkpoint_id, session, clear=clear, patience=app.settings.wait
    )
    result = RestoredCheckpoint(
        session_id=session.id,
        restored=list(done.restored),
        failed=left_out(done.failed),
        warnings=list(done.warnings),
        live=done.checkpoint.is_live,
    )
    if result.live:
        since = done.checkpoint.created_at.isoformat(timespec="seconds")
        return result.answer(
            f"Session '{session.id}' is as it was in live checkpoint {done.checkpoint.id} of "
            f"{since}: all variables, imports, open files. What was made since is gone; files stay."
            + "".join(f" Note: {line}." for line in done.warnings)
        )
    return result.answer(
        f"Checkpoint {checkpoint_id} is restored into session '{session.id}': {restored_text(done)}"
    )
