"""What a session holds and how its kernel is; none of these waits for the user's cell."""

from dataclasses import asdict
from typing import Annotated

from mcp.types import CallToolResult
from pydantic import Field

from kernelry import Session, looking
from kernelry.models import Activity, Health, Variable
from kernelry.usage import quantity
from kernelry_mcp.answers.results import KernelHealth, Responsiveness, VariableInfo, VariableList
from kernelry_mcp.callers import caller_of, name_of
from kernelry_mcp.context import Ctx, Declaration, app_of, tool, ways
from kernelry_mcp.errors import after_death
from kernelry_mcp.tools.parameters import SessionId

MEBIBYTE = 1 << 20
BYTES = 10_000  # of a variable from which its size is worth a word
COLUMNS = 20  # of a table that a line names


@tool(
    Declaration(
        title="List variables",
        toolset="core",
        read_only=True,
        idempotent=True,
        options=("name", "complete", "limit"),
    )
)
async def list_variables(
    ctx: Ctx,
    session_id: SessionId = None,
    name: Annotated[
        str, Field(description="One in depth, like 'df' or 'df.plot': first rows, signature, doc")
    ] = "",
    complete: Annotated[
        str, Field(max_length=10_000, description="Code like 'df.gr': what it may go on with")
    ] = "",
    limit: Annotated[int, Field(ge=1, le=1000, description="At most so many")] = 200,
) -> Annotated[CallToolResult, VariableList]:
    """List a session's variables: type, short value, size, columns. Works while code runs.

    Option name='df' shows one in depth: first rows, shape, doc; complete='df.gr' completes.
    """
    sessions = app_of(ctx).sessions
    session = sessions.find(caller_of(ctx), session_id)
    await sessions.suspension.wake(session, by=name_of(ctx))
    if name or complete:
        return await look_at_one(session, name, complete)
    found, total = await session.variables(limit)
    result = VariableList(
        session_id=session.id,
        variables={item.name: info_of(item) for item in found},
        total=total,
        text="",
        matches=[],
    )
    lines = [f"{len(found)} of {total} variables of session '{session.id}':"]
    lines += [line_of(item) for item in found]
    return result.answer("\n".join(lines))


async def look_at_one(session: Session, name: str, complete: str) -> CallToolResult:
    """Answer with a value in depth, and completions."""
    found = await looking.look(session, name, complete)
    one = found.variable
    result = VariableList(
        session_id=session.id,
        variables={one.name: info_of(one)} if one else {},
        total=1 if one else 0,
        text=found.text,
        matches=list(found.matches),
    )
    lines = [line_of(one), found.text] if one else []
    if complete:
        lines.append(f"{len(result.matches)} completions: {', '.join(result.matches)}")
    return result.answer("\n".join(lines))


def info_of(item: Variable) -> VariableInfo:
    """Return a variable as the tool shows it."""
    return VariableInfo(
        type=item.type,
        repr=item.repr,
        size=-1 if item.size is None else item.size,
        shape=list(item.shape),
        bytes=-1 if item.bytes is None else item.bytes,
        columns=list(item.columns),
    )


def line_of(item: Variable) -> str:
    """Return a variable in one line."""
    sizes = [str(item.size)] if item.size is not None else []
    sizes += [quantity(item.bytes)] if item.bytes is not None and item.bytes > BYTES else []
    size = f" [{', '.join(sizes)}]" if sizes else ""
    shown = ", ".join(item.columns[:COLUMNS]) + (", ..." if len(item.columns) > COLUMNS else "")
    columns = f" columns: {shown}" if shown else ""
    return f"{item.name}: {item.type}{size} = {item.repr}{columns}"


@tool(Declaration(title="Kernel health", toolset="core", read_only=True, idempotent=True))
async def get_kernel_health(
    ctx: Ctx, session_id: SessionId = None
) -> Annotated[CallToolResult, KernelHealth]:
    """Tell how a session's kernel is: healthy, stopped, unresponsive or dead, and why.

    With memory, CPU, threads and uptime of its process tree. A busy kernel is healthy.
    """
    sessions = app_of(ctx).sessions
    found = await sessions.health(sessions.find(caller_of(ctx), session_id))
    result = KernelHealth(
        session_id=found.session_id,
        status=found.status.value,
        activity=found.activity.value,
        advice=await advice_on(ctx, found),
        pid=found.pid,
        generation=found.generation,
        start=found.start,
        isolation=found.isolation.value,
        network=found.network,
        limits=asdict(found.limits),
        python=found.python,
        memory_usage=found.memory_usage,
        peak_memory=found.peak_memory,
        cpu_percent=round(found.cpu_percent, 1),
        num_threads=found.num_threads,
        num_processes=found.num_processes,
        uptime=round(found.uptime, 3),
        idle_seconds=round(found.idle_seconds, 3),
        execution_count=found.execution_count,
        execution_id=found.execution_id,
        running_for=round(found.running_for, 3),
        cause=found.cause,
        stack=found.stack,
        degraded=found.degraded,
    )
    text = (
        f"Session '{result.session_id}': {result.status} ({result.activity}), "
        f"{result.memory_usage / MEBIBYTE:.0f} MiB (peak {result.peak_memory / MEBIBYTE:.0f}), "
        f"CPU {result.cpu_percent:.0f} %, {result.num_threads} threads, up {result.uptime:.0f} s. "
        f"{result.advice}"
    )
    cause = result.cause and f"Cause: {result.cause}"
    degraded = result.degraded and f"The server is degraded: {result.degraded}"
    extra = [part for part in (cause, degraded, result.stack) if part]
    return result.answer("\n".join([text, *extra]))


@tool(Declaration(title="Is it responsive?", toolset="core", read_only=True, idempotent=True))
async def check_kernel_responsiveness(
    ctx: Ctx, session_id: SessionId = None
) -> Annotated[CallToolResult, Responsiveness]:
    """Ask a kernel whether it answers, beside the code it runs: busy is not dead."""
    sessions = app_of(ctx).sessions
    found = await sessions.health(sessions.find(caller_of(ctx), session_id))
    result = Responsiveness(
        session_id=found.session_id,
        responsive=found.responsive,
        response_time=round(found.response_time, 6),
        verdict=found.activity.value,
        advice=await advice_on(ctx, found),
    )
    answered = f"answered in {1000 * found.response_time:.0f} ms" if found.responsive else "silent"
    return result.answer(
        f"Session '{found.session_id}': {found.activity}, {answered}. {result.advice}"
    )


async def advice_on(ctx: Ctx, found: Health) -> str:
    """Return what helps with a kernel; with a dead one by what there is and what is on offer."""
    app = app_of(ctx)
    if found.activity is not Activity.DEAD:
        return ways(app, found.advice)
    return await after_death(app.sessions, found.session_id, app.offered)
