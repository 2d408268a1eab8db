"""Toolset `control`: steer what runs in a session."""

from typing import Annotated

from mcp.types import CallToolResult
from pydantic import Field

from kernelry.errors import ConflictError
from kernelry.session import steering
from kernelry_mcp.answers import Look, answered_by, look_at, render, wait_for
from kernelry_mcp.answers.results import InputSent, Steered
from kernelry_mcp.callers import caller_of, name_of
from kernelry_mcp.context import Ctx, Declaration, app_of, tool
from kernelry_mcp.tools.parameters import EffectWait, SessionId


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
        "requested": f"asked to {action}; it does so at its next kernelry_session.checkpoint()",
        "ended": "has ended by itself meanwhile",
    }.get(steered.state, f"is {steered.state}")
    return result.answer(f"Execution {steered.execution_id} in session '{session.id}' {words}.")


@tool(Declaration(title="Pause an execution", toolset="control"))
async def pause_execution(
    ctx: Ctx, session_id: SessionId = None, wait: EffectWait = 2
) -> Annotated[CallToolResult, Steered]:
    """Pause what runs in a session, also in another one, at its next safe point.

    Safe points are calls of kernelry_session.checkpoint() in the code. Health, variables and
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

    For code that calls kernelry_session.checkpoint(); interrupt_execution ends any code at once.
    """
    return await steer(ctx, session_id, "stop", wait)


@tool(Declaration(title="Answer a question of code", toolset="control"))
async def send_input(
    ctx: Ctx,
    execution_id: Annotated[str, Field(description="One with status waiting_input")],
    text: Annotated[str, Field(max_length=100_000, description="The line to answer with")],
    wait: EffectWait = 2,
) -> Annotated[CallToolResult, InputSent]:
    """Answer input() or getpass() of an execution in a session made with stdin=true.

    Shows what it put out then, until it ends, asks again, or `wait` seconds are over.
    """
    app = app_of(ctx)
    sessions = app.sessions
    execution = await sessions.execution(execution_id)
    live = sessions.live_run(execution_id)
    if live is None:
        raise ConflictError(f"execution {execution_id} asks nothing: it is {execution.status}")
    before = (await render(answered_by(app, execution))).result.since
    taken = await steering.answer(live[0], live[1], text)
    if wait:
        await wait_for(ctx, live[0], live[1], wait)
    words = "was taken" if taken else "came too late: it does not ask any more"
    answered = answered_by(app, await sessions.execution(execution_id))
    shown = await look_at(answered, Look(since=before))
    result = InputSent(
        session_id=live[0].id,
        execution_id=execution_id,
        taken=taken,
        status=shown.result.status,
        output=shown.part,
    )
    return result.answer(f"The answer {words}.\n{shown.text}", *shown.blocks)
