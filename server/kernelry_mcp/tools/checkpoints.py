"""Toolset `checkpoints`: save the variables of a session, and put them back."""

from contextlib import suppress
from typing import Annotated

from mcp.types import CallToolResult
from pydantic import Field

from kernelry import Session, Sessions
from kernelry.errors import (
    CheckpointNotFoundError,
    InvalidArgumentError,
    SessionNotFoundError,
)
from kernelry.lives import Promoted, promote
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
    live: Annotated[bool, Field(description="Freeze all of it, in memory")] = False,
) -> Annotated[CallToolResult, CreatedCheckpoint]:
    """Save all variables of a session, also functions and classes.

    The session goes on at once. What can't be saved (locks, open files, ...) is listed. It stays
    until delete_session; a live one at most while the server runs.
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
            f"while this server or one after it runs; it took {saved.blocked * 1000:.0f} ms."
            + "".join(f" Note: {line}." for line in saved.named)
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
        return "live: everything, in memory while the server runs"
    return f"{len(checkpoint.variables)} variables, {quantity(checkpoint.size)} on disk"


@tool(Declaration(title="Restore a checkpoint", toolset="checkpoints", destructive=True))
async def restore_checkpoint(
    ctx: Ctx,
    checkpoint_id: Annotated[
        str, Field(description="Its id, its name, or a session: become what that is")
    ] = "",
    session_id: SessionId = None,
    before: Annotated[
        str, Field(description="Instead: an execution, to undo it and what ran since")
    ] = "",
    clear: Annotated[bool, Field(description="Remove other variables")] = False,
) -> Annotated[CallToolResult, RestoredCheckpoint]:
    """Put saved variables into a session, also another than they were saved from.

    Replaces variables of the same names, all at once. What can't be made again is listed. A live
    one, `before` (in sessions with rewind) and a session bring everything: the rest is gone.
    """
    app = app_of(ctx)
    if bool(checkpoint_id) == bool(before):
        raise InvalidArgumentError("pass either checkpoint_id or before")
    session = app.sessions.find(caller_of(ctx), session_id)
    checkpoints, patience = app.sessions.checkpoints, app.settings.wait
    if before:
        await app.sessions.execution(before)
        kept = await checkpoints.rewinds.find(before)
        if kept.session_id != session.id and session_id is not None:
            msg = f"execution {before} is one of session '{kept.session_id}', not '{session.id}'"
            raise InvalidArgumentError(msg)
        session, checkpoint_id = app.sessions.get(kept.session_id), kept.id
    await app.sessions.suspension.wake(session, by=name_of(ctx))
    if (source := await session_meant(app.sessions, checkpoint_id)) is not None:
        await app.sessions.suspension.wake(source, by=name_of(ctx))
        return promoted(source, session, await promote(checkpoints, source, session, patience))
    done = await checkpoints.restore(checkpoint_id, session, clear=clear, patience=patience)
    result = RestoredCheckpoint(
        session_id=session.id,
        restored=list(done.restored),
        failed=left_out(done.failed),
        warnings=list(done.warnings),
        live=done.checkpoint.is_live,
    )
    if result.live:
        since = done.checkpoint.created_at.isoformat(timespec="seconds")
        what = f"before execution {before}" if before else f"in live checkpoint {checkpoint_id}"
        return result.answer(
            f"Session '{session.id}' is as it was {what}, {since}: all variables, imports, open "
            "files. What was made since is gone; files stay."
            + "".join(f" Note: {line}." for line in done.warnings)
        )
    return result.answer(
        f"Checkpoint {checkpoint_id} is restored into session '{session.id}': {restored_text(done)}"
    )


async def session_meant(sessions: Sessions, name: str) -> Session | None:
    """Return the session that a name means; None: it means a checkpoint, or nothing."""
    try:
        await sessions.checkpoints.get(name)
    except CheckpointNotFoundError:
        if not sessions.checkpoints.live.why_gone(name):
            with suppress(SessionNotFoundError):
                return sessions.get(name)
    return None


def promoted(source: Session, into: Session, done: Promoted) -> CallToolResult:
    """Say what a session has become."""
    result = RestoredCheckpoint(
        session_id=into.id,
        restored=[],
        failed=left_out(done.left_out),
        warnings=[],
        live=done.is_live,
    )
    how = "" if done.is_live else f" It came by a checkpoint, since {done.why}."
    return result.answer(
        f"Session '{into.id}' has all that '{source.id}' has: variables, packages, context. Its id "
        f"and its history stay; '{source.id}' is as it was.{how}"
        + left_out_text("Not brought over", done.left_out)
    )
