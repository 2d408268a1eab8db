"""Toolset `control`: the lives of sessions, from suspended to closed."""

from typing import Annotated, Any, Literal

from mcp.types import CallToolResult
from pydantic import Field

from kernelry import Session, SessionStatus, looking
from kernelry_mcp.answers import left_out, left_out_text, restored_text
from kernelry_mcp.answers.results import ChangedSession, CleanedUp, ResumedSession, SuspendedSession
from kernelry_mcp.callers import caller_of, name_of
from kernelry_mcp.context import Ctx, Declaration, app_of, tool
from kernelry_mcp.tools.parameters import SessionId


def changed(session: Session) -> ChangedSession:
    """Return what of a session can be changed, as it is now."""
    record = session.record
    return ChangedSession(
        session_id=session.id,
        status=record.status.value,
        reason=record.reason,
        description=record.description,
        tags=list(record.tags),
        metadata=record.metadata,
        context=record.context,
    )


@tool(Declaration(title="Suspend a session", toolset="control"))
async def suspend_session(
    ctx: Ctx,
    session_id: SessionId = None,
    reason: Annotated[str, Field(max_length=1000, description="Why, in a line")] = "",
) -> Annotated[CallToolResult, SuspendedSession]:
    """Save a session's variables and end its kernel, to free its memory.

    run_python_code brings it back as it was, also after the server was restarted. Names what
    can't be saved (locks, open files, generators). A paused execution is stopped.
    """
    sessions = app_of(ctx).sessions
    session = sessions.find(caller_of(ctx), session_id)
    done = await sessions.suspension.suspend(session, by=name_of(ctx), why=reason)
    result = SuspendedSession(
        session_id=session.id,
        checkpoint_id=done.checkpoint_id,
        variables=list(done.variables),
        skipped=left_out(done.skipped),
        blocked=round(done.blocked, 6),
    )
    text = f"Session '{session.id}' is suspended, {len(result.variables)} variables are saved."
    return result.answer(text + left_out_text("Not saved", done.skipped))


@tool(Declaration(title="Resume a session", toolset="control"))
async def resume_session(
    ctx: Ctx,
    session_id: SessionId = None,
    checkpoint_id: Annotated[
        str, Field(description="What to put back; default: the newest; 'none': nothing")
    ] = "",
) -> Annotated[CallToolResult, ResumedSession]:
    """Let a session go on that is paused, suspended, failed, or whose kernel died.

    Starts a kernel and puts the variables of a checkpoint back.
    """
    sessions = app_of(ctx).sessions
    session = sessions.find(caller_of(ctx), session_id)
    done = await sessions.suspension.resume(session, by=name_of(ctx), checkpoint_id=checkpoint_id)
    put_back = done.restoration
    result = ResumedSession(
        session_id=session.id,
        before=done.before.value,
        checkpoint_id=put_back.checkpoint.id if put_back else "",
        restored=list(put_back.restored) if put_back else [],
        missing=left_out((*put_back.checkpoint.skipped, *put_back.failed)) if put_back else {},
    )
    what = f" Put back: {restored_text(put_back)}" if put_back else ""
    return result.answer(f"Session '{session.id}' goes on; it was {result.before}.{what}")


@tool(Declaration(title="Close a session", toolset="control", destructive=True))
async def close_session(
    ctx: Ctx,
    session_id: Annotated[str, Field(description="The session to close")],
    outcome: Annotated[
        Literal["completed", "failed", "cancelled"],
        Field(description="failed: resume_session may go on; the others are final"),
    ] = "completed",
    reason: Annotated[str, Field(max_length=1000, description="Why, in a line")] = "",
) -> Annotated[CallToolResult, ChangedSession]:
    """End a session's kernel and say how the session ended; its history and artifacts stay.

    delete_session forgets it altogether.
    """
    app = app_of(ctx)
    session = app.sessions.get(session_id)
    await app.sessions.close(session, SessionStatus(outcome), reason)
    result = changed(session)
    return result.answer(f"Session '{session.id}' is {outcome}. {reason}".strip())


@tool(Declaration(title="Change a session", toolset="control", idempotent=True))
async def update_session(
    ctx: Ctx,
    session_id: SessionId = None,
    description: Annotated[str | None, Field(description="One line")] = None,
    tags: Annotated[list[str] | None, Field(description="All of them")] = None,
    metadata: Annotated[dict[str, Any] | None, Field(description="All of it")] = None,
    context: Annotated[
        dict[str, Any] | None, Field(description="Values to set in it; null removes one")
    ] = None,
    variables: Annotated[
        dict[str, Any] | None, Field(description="To set in its namespace, while idle or paused")
    ] = None,
    clear: Annotated[
        list[Literal["description", "tags", "metadata"]] | None,
        Field(description="What to make empty"),
    ] = None,
) -> Annotated[CallToolResult, ChangedSession]:
    """Change a session's description, tags, metadata, context or variables; the rest stays.

    Code that runs sees the context change (kernelry_session.context), and paused code the
    variables when it goes on.
    """
    app = app_of(ctx)
    session = app.sessions.find(caller_of(ctx), session_id)
    emptied = set(clear or ())
    if variables:  # first: it may be refused, and then nothing is changed
        await looking.set_variables(session, variables)
    await app.sessions.update(
        session,
        description="" if "description" in emptied else description,
        tags=() if "tags" in emptied else None if tags is None else tuple(tags),
        metadata={} if "metadata" in emptied else metadata,
        context=context,
    )
    result = changed(session)
    return result.answer(f"Session '{session.id}' is changed.")


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
        list[str] | None, Field(description="Only these; globs; default: all but 'default'")
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
