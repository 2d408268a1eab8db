"""Code: run it, read what it did, interrupt it, start over."""

from collections.abc import Sequence
from typing import Annotated

import anyio
from mcp.types import CallToolResult, InputRequiredResult
from pydantic import Field

from kernelry import Execution, ExecutionStatus, Run, Session, SessionStatus
from kernelry.errors import InvalidArgumentError, KernelryError
from kernelry.lives import WITHOUT
from kernelry.models import InterruptReport, InterruptStep, OnError, Restoration
from kernelry_mcp.answers import (
    Look,
    Newest,
    answered_by,
    asked_before,
    left_out,
    look_at,
    newest,
    render,
    restored_text,
    wait_and_ask,
    wait_for,
    with_code,
)
from kernelry_mcp.answers.results import (
    EndedExecution,
    ExecutionPage,
    Interrupted,
    Restarted,
    RunResult,
)
from kernelry_mcp.callers import caller_of, name_of
from kernelry_mcp.context import App, Ctx, Declaration, app_of, tool
from kernelry_mcp.tools.parameters import PAGE_CHARS, EffectWait, SessionId, Timeout, Wait

SHOWN_ENDED = 10  # executions that a restart ended, in its text


@tool(
    Declaration(
        title="Run Python code",
        toolset="core",
        destructive=True,
        open_world=True,
        options=("on_error",),
    )
)
async def run_python_code(
    ctx: Ctx,
    code: Annotated[str, Field(description="Python; IPython magics, !commands and await work")],
    session_id: SessionId = None,
    timeout: Timeout = None,
    wait: Wait = None,
    on_error: Annotated[
        OnError, Field(description="rollback: if it fails, variables are as before it")
    ] = OnError.KEEP,
) -> Annotated[CallToolResult, RunResult] | InputRequiredResult:
    """Run Python code in a session; variables and imports stay for the next call.

    Returns what it printed, the value of the last expression, images, and the error if it
    raised (status 'failed'). Long code answers 'running' with an execution_id after `wait`
    seconds and goes on: read it with get_execution. Calls to one session queue up, sessions
    run in parallel. Save files under outputs/.
    """
    app = app_of(ctx)
    seconds = app.settings.wait if wait is None else wait
    execution: Execution | None = None
    run: Run | None = None
    asked = await asked_before(ctx)
    if asked is not None:
        execution = asked.execution
        session = app.sessions.get(execution.session_id)
        if live := app.sessions.live_run(execution.id):
            run = live[1]
    else:
        session = app.sessions.find(caller_of(ctx), session_id)
        await app.sessions.suspension.wake(session, by=name_of(ctx))
        with anyio.CancelScope(shield=True):  # who gives up meanwhile still has it interrupted
            run = await app.sessions.run(session, code, timeout=timeout, on_error=on_error)
    if run is not None:
        refused = asked.refused if asked else ""
        if required := await wait_and_ask(ctx, session, run, seconds, refused=refused):
            return required
        execution = run.snapshot()
    assert execution is not None
    rendered = await render(answered_by(app, execution))
    return rendered.result.answer(rendered.text, *rendered.blocks)


@tool(
    Declaration(
        title="Read an execution",
        toolset="core",
        read_only=True,
        idempotent=True,
        options=("tail", "line", "search", "offset", "limit"),
    )
)
async def get_execution(
    ctx: Ctx,
    execution_id: Annotated[str, Field(description="From run_python_code")],
    wait: Annotated[
        float,
        Field(ge=0, le=3600, allow_inf_nan=False, description="Seconds to wait for its end"),
    ] = 0,
    since: Annotated[str, Field(description="From an answer: only what is new since then")] = "",
    tail: Annotated[int | None, Field(ge=1, description="Its last lines, so many")] = None,
    line: Annotated[int | None, Field(ge=1, description="Its text from this line on")] = None,
    search: Annotated[
        str, Field(max_length=1000, description="Lines with this text in them, with their numbers")
    ] = "",
    offset: Annotated[
        int | None, Field(ge=0, description="Its text from this character on, page by page")
    ] = None,
    limit: Annotated[int, Field(ge=1, le=PAGE_CHARS, description="Characters of a page")] = 8000,
) -> Annotated[CallToolResult, ExecutionPage]:
    """Look at an execution: its status, code and output so far, or a part of its whole text.

    Use it after 'running', or when an answer said that characters were left out.
    """
    app = app_of(ctx)
    look = Look(offset=offset, tail=tail, line=line, search=search, since=since, limit=limit)
    if wait and (live := app.sessions.live_run(execution_id)):
        await wait_for(ctx, live[0], live[1], wait)
    answered = answered_by(app, await app.sessions.execution(execution_id))
    if look.given:
        rendered = await look_at(answered, look)
        return rendered.result.answer(rendered.text, *rendered.blocks)
    rendered, code = await render(answered), answered.execution.code
    result = ExecutionPage(
        **rendered.result.model_dump(),
        code=code,
        text="",
        offset=0,
        line=0,
        next_offset=-1,
    )
    return result.answer(with_code(rendered, code), *rendered.blocks)


@tool(Declaration(title="Interrupt an execution", toolset="core", destructive=True))
async def interrupt_execution(
    ctx: Ctx,
    session_id: SessionId = None,
    execution_id: Annotated[
        str, Field(description="Only this execution; default: the one that runs")
    ] = "",
    force: Annotated[
        bool, Field(description="If nothing else works: kill the kernel and start a new one")
    ] = False,
    wait: EffectWait = 0,
) -> Annotated[CallToolResult, Interrupted]:
    """Stop what runs in a session, as Ctrl-C does; variables stay.

    Tries twice and says which step worked. Code stuck in native calls may not react: the
    answer then shows where it is, and force=true kills the kernel (variables are lost).
    """
    app = app_of(ctx)
    sessions = app.sessions
    if execution_id:
        execution = await sessions.execution(execution_id)
        if session_id is not None and session_id != execution.session_id:
            msg = f"execution {execution_id} belongs to session '{execution.session_id}'"
            raise InvalidArgumentError(msg)
        session = sessions.get(execution.session_id)
        report = await sessions.interrupt(execution_id, force=force)
    else:
        session = sessions.find(caller_of(ctx), session_id)
        report = await session.interrupt(force=force)
    found = report.execution_id
    if report.step is InterruptStep.NO_EFFECT and wait and (live := sessions.live_run(found)):
        await wait_for(ctx, live[0], live[1], wait)
    status, shown = ExecutionStatus.QUEUED, Newest("", "")
    if found:  # what it had put out, and how it is now
        execution = await sessions.execution(found)
        status, shown = execution.status, await newest(answered_by(app, execution))
    result = Interrupted(
        session_id=session.id,
        execution_id=found,
        interrupted=report.step is not InterruptStep.NOTHING_RUNNING and status.is_final,
        status=status.value if found else "",
        output=shown.output,
        step=report.step.value,
        responsive=report.responsive,
        stack=report.stack,
    )
    return result.answer("\n".join(filter(None, (describe(session, report, status), shown.text))))


def describe(session: Session, report: InterruptReport, status: ExecutionStatus) -> str:
    """Say what an interrupt did, and how the execution is by now."""
    match report.step:
        case InterruptStep.NOTHING_RUNNING:
            return f"Nothing runs in session '{session.id}'."
        case InterruptStep.DEQUEUED:
            return f"Execution {report.execution_id} was still queued; it will not run."
        case InterruptStep.RESTARTED:
            return (
                "Two interrupts had no effect, so the kernel was killed and a new one started "
                f"(generation {session.record.generation}). All variables are gone.\n{report.stack}"
            )
        case InterruptStep.ROLLED_BACK:
            return (
                "Two interrupts had no effect, so the kernel was killed and the session put back: "
                f"variables are as before execution {report.execution_id}.\n{report.stack}"
            )
        case InterruptStep.NO_EFFECT if status.is_final:
            return (
                f"Two interrupts had no effect on execution {report.execution_id}; it has ended "
                "by itself since."
            )
        case InterruptStep.NO_EFFECT:
            return (
                f"Two interrupts had no effect on execution {report.execution_id}: it is in native "
                "code or ignores them. It ends when that code lets it; force=true kills the "
                f"kernel. It is here:\n{report.stack}"
            )
        case _:
            state = "answers" if report.responsive else "does not answer yet"
            return f"Execution {report.execution_id} was interrupted; the kernel {state}."


@tool(Declaration(title="Restart a kernel", toolset="core", destructive=True))
async def restart_kernel(
    ctx: Ctx,
    session_id: SessionId = None,
    preserve_state: Annotated[
        bool, Field(description="Keep the variables that can be saved")
    ] = False,
) -> Annotated[CallToolResult, Restarted]:
    """Give a session a new kernel, from whatever state: busy, stuck or dead.

    All its variables are gone; its packages, files and history stay. With preserve_state the
    variables stay too; that needs an idle kernel, and if they can't be saved nothing is done.
    """
    app = app_of(ctx)
    session = app.sessions.find(caller_of(ctx), session_id)
    why = "the kernel was restarted by restart_kernel"
    if session.record.status is SessionStatus.SUSPENDED:
        wanted = "" if preserve_state else WITHOUT
        resumed = await app.sessions.suspension.resume(
            session, by=name_of(ctx), checkpoint_id=wanted
        )
        return restarted(session, resumed.restoration)
    if preserve_state:
        return await restart_with_state(app, session, why)
    return restarted(session, None, await endings(app, await session.restart(why)))


async def endings(app: App, runs: list[Run]) -> list[tuple[EndedExecution, str]]:
    """Return what a restart ended, in fields and in words."""
    found = []
    for place, run in enumerate(runs):
        execution, shown = run.snapshot(), Newest("", "")
        if place < SHOWN_ENDED:
            shown = await newest(answered_by(app, execution))
        ended = EndedExecution(
            execution_id=run.id, status=execution.status.value, output=shown.output
        )
        found.append((ended, shown.text))
    return found


async def restart_with_state(app: App, session: Session, why: str) -> CallToolResult:
    """Restart a session's kernel and keep its variables.

    Raises:
        KernelryError: They can't be saved, and the kernel is as it was; or not be restored.
    """
    generation = session.record.generation
    try:
        done = await app.sessions.checkpoints.restart(session, why, app.settings.wait)
    except KernelryError as error:
        if session.record.generation == generation:
            more = f"{error} The kernel was not restarted; without preserve_state it would be."
            raise type(error)(more) from error
        raise
    return restarted(session, done)


def restarted(
    session: Session,
    done: Restoration | None,
    ended: Sequence[tuple[EndedExecution, str]] = (),
) -> CallToolResult:
    """Say that a session has a new kernel, and what is in it.

    Args:
        session: The session.
        done: What was put back; None: nothing.
        ended: What it ended, in fields and in words.
    """
    lost = (*done.checkpoint.skipped, *done.failed) if done else ()
    result = Restarted(
        session_id=session.id,
        restarted=True,
        generation=session.record.generation,
        variables_kept=done is not None,
        checkpoint_id=done.checkpoint.id if done else "",
        lost=left_out(lost),
        ended=[one for one, _ in ended],
    )
    what = restored_text(done) if done else "All its variables are gone."
    lines = [
        f"Session '{session.id}' has a new kernel (generation {result.generation}). {what}",
        *(["It ended what ran or was queued:"] if ended else []),
        *(words for _, words in ended[:SHOWN_ENDED]),
    ]
    if len(ended) > SHOWN_ENDED:
        lines.append(f"and {len(ended) - SHOWN_ENDED} more that were queued")
    return result.answer("\n".join(lines))
