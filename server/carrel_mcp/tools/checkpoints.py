"""Toolset `checkpoints`: save the variables of a session, and put them back."""

from typing import Annotated

from mcp.types import CallToolResult
from pydantic import Field

from carrel.usage import quantity
from carrel_mcp.callers import caller_of
from carrel_mcp.context import Ctx, Declaration, app_of, tool
from carrel_mcp.results import CheckpointList, CreatedCheckpoint, RestoredCheckpoint
from carrel_mcp.saved import described, info, left_out, listed
from carrel_mcp.tools.parameters import Patience, SessionId


@tool(Declaration(title="Create a checkpoint", toolset="checkpoints"))
async def create_checkpoint(
    ctx: Ctx,
    session_id: SessionId = None,
    name: Annotated[str, Field(max_length=200, description="What to call it")] = "",
    wait: Patience = None,
) -> Annotated[CallToolResult, CreatedCheckpoint]:
    """Save all variables of a session: data, functions, classes, imports.

    The session goes on at once: it is taken from a copy of the process. What can't be saved
    (locks, generators, open files, ...) is listed. It stays until the session is deleted, also
    over restarts of kernel and server.
    """
    app = app_of(ctx)
    session = app.sessions.find(caller_of(ctx), session_id)
    patience = app.settings.wait if wait is None else wait
    saved = await app.sessions.checkpoints.create(session, name=name, patience=patience)
    result = CreatedCheckpoint(
        session_id=session.id,
        checkpoint_id=saved.id,
        size=saved.size,
        blocked=saved.blocked,
        variables=list(saved.variables),
        skipped=left_out(saved.skipped),
    )
    return result.answer(
        f"Checkpoint {saved.id} of session '{session.id}': {len(saved.variables)} variables, "
        f"{quantity(saved.size)}; the kernel was held up for {saved.blocked * 1000:.0f} ms."
        + listed("Not saved", saved.skipped)
    )


@tool(Declaration(title="List checkpoints", toolset="checkpoints", read_only=True, idempotent=True))
async def list_checkpoints(
    ctx: Ctx,
    session_id: Annotated[
        str | None, Field(description="Only of this session; default: of all")
    ] = None,
    limit: Annotated[int, Field(ge=1, le=200, description="At most so many")] = 50,
) -> Annotated[CallToolResult, CheckpointList]:
    """List checkpoints, the newest first, with what is in them and what is not."""
    sessions = app_of(ctx).sessions
    if session_id is not None:
        sessions.get(session_id)
    found = await sessions.checkpoints.list(session_id)
    result = CheckpointList(
        checkpoints={item.id: info(item) for item in found[:limit]}, total=len(found)
    )
    lines = [f"{len(result.checkpoints)} of {len(found)} checkpoints, the newest first:"]
    for item in found[:limit]:
        name = f" '{item.name}'" if item.name else ""
        lines.append(
            f"- {item.id}{name}: session '{item.session_id}', {item.reason}, "
            f"{item.created_at.isoformat(timespec='seconds')}, {len(item.variables)} variables, "
            f"{quantity(item.size)}"
        )
    return result.answer("\n".join(lines))


@tool(Declaration(title="Restore a checkpoint", toolset="checkpoints", destructive=True))
async def restore_checkpoint(
    ctx: Ctx,
    checkpoint_id: Annotated[str, Field(description="From create_checkpoint")],
    session_id: SessionId = None,
    clear: Annotated[bool, Field(description="Remove the session's other variables")] = False,
    wait: Patience = None,
) -> Annotated[CallToolResult, RestoredCheckpoint]:
    """Put saved variables into a session, also another than they were saved from.

    Variables of the same names are replaced, all at once or not at all. What can't be made again
    (a package is missing here) is listed; the rest comes back. A changed file is refused.
    """
    app = app_of(ctx)
    session = app.sessions.find(caller_of(ctx), session_id)
    patience = app.settings.wait if wait is None else wait
    done = await app.sessions.checkpoints.restore(
        checkpoint_id, session, clear=clear, patience=patience
    )
    result = RestoredCheckpoint(
        session_id=session.id,
        checkpoint_id=done.checkpoint.id,
        restored=list(done.restored),
        failed=left_out(done.failed),
        skipped=left_out(done.checkpoint.skipped),
        warnings=list(done.warnings),
    )
    return result.answer(
        f"Checkpoint {checkpoint_id} is restored into session '{session.id}': {described(done)}"
    )
