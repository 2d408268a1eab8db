"""Toolset `control`: steer what runs, and the lives of sessions."""

from typing import Annotated, Any, Literal, TypeAlias

from mcp.types import CallToolResult
from pydantic import Field

from carrel import SessionStatus, steering
from carrel.errors import ConflictError
from carrel_mcp.callers import caller_of, name_of
from carrel_mcp.context import Ctx, Declaration, app_of, tool
from carrel_mcp.results import ChangedSession, CleanedUp, InputSent, Steered
from carrel_mcp.tools.parameters import SessionId
from carrel_mcp.tools.sessions import info

EffectWait: TypeAlias = Annotated[
    float, Field(ge=0, le=3600, allow_inf_nan=False, description="Seconds to wait for the effect")
]


async def steer(ctx: Ctx, session_id: str | None, action: str, wait: float) -> CallToolResult:
    """Ask what runs in a session to pause, resume or stop, and answer the call."""
    session = app_of(ctx).sessions.find(caller_of(ctx), session_id)
    steered = await steering.steer(session, action, by=name_of(ctx), wait=wait)
    result = Steered(
        session_id=session.id,
        execution_id=steered.execution_id,
        state=steered.state,
        requested_by=steered.by,
        requested_at=steered.at.isoformat(timespec="milliseconds"),
    )
    words = {
        "requested": f"asked to {action}; it does so at its next carrel_session.checkpoint()",
        "ended": "has ended by itself meanwhile",
    }.get(steered.state, f"is {steered.state}")
    return result.answer(f"Execution {steered.execution_id} in session '{session.id}' {words}.")


@tool(Declaration(title="Pause an execution", toolset="control"))
async def pause_execution(
    ctx: Ctx, session_id: SessionId = None, wait: EffectWait = 2
) -> Annotated[CallToolResult, Steered]:
    """Pause what runs in a session, also in another one, at its next safe point.

    Safe points are calls of carrel_session.checkpoint() in the code. Health, variables and
    output can be read meanwhile; resume_execution goes on, stop_execution ends it there.
    """
    return await steer(ctx, session_id, "pause", wait)


@tool(Declaration(title="Resume an execution", toolset="control"))
async def resume_execution(
    ctx: Ctx, session_id: SessionId = None, wait: EffectWait = 2
) -> Annotated[CallToolResult, Steered]:
    """Let a paused execution go on, or take back a pause that was not reached yet."""
    return await steer(ctx, session_id, "resume", wait)


@tool(Declaration(title="Stop an execution", toolset="control", destructive=True))
async def stop_execution(
    ctx: Ctx, session_id: SessionId = None, wait: EffectWait = 2
) -> Annotated[CallToolResult, Steered]:
    """End what runs in a session at its next safe point; variables stay.

    For code that calls carrel_session.checkpoint(); interrupt_execution ends any code at once.
    """
    return await steer(ctx, session_id, "stop", wait)


@tool(Declaration(title="Answer a question of code", toolset="control"))
async def send_input(
    ctx: Ctx,
    execution_id: Annotated[str, Field(description="One with status waiting_input")],
    text: Annotated[str, Field(max_length=100_000, description="The line to answer with")],
) -> Annotated[CallToolResult, InputSent]:
    """Answer input() or getpass() of an execution in a session made with stdin=true."""
    sessions = app_of(ctx).sessions
    execution = await sessions.execution(execution_id)
    live = sessions.live_run(execution_id)
    if live is None:
        raise ConflictError(f"execution {execution_id} asks nothing: it is {execution.status}")
    taken = await steering.answer(live[0], live[1], text)
    result = InputSent(session_id=live[0].id, execution_id=execution_id, taken=taken)
    words = "was taken" if taken else "came too late: it does not ask any more"
    return result.answer(f"The answer {words}. get_execution shows how execution goes on.")


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
    result = ChangedSession(session_id=session.id, session=info(app, caller_of(ctx), session))
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
) -> Annotated[CallToolResult, ChangedSession]:
    """Change a session's description, tags, metadata or context; the rest stays.

    Code that runs sees the context change (carrel_session.context).
    """
    app = app_of(ctx)
    session = app.sessions.find(caller_of(ctx), session_id)
    await app.sessions.update(
        session,
        description=description,
        tags=None if tags is None else tuple(tags),
        metadata=metadata,
        context=context,
    )
    result = ChangedSession(session_id=session.id, session=info(app, caller_of(ctx), session))
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
