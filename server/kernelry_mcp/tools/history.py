"""Toolset `history`: find what was run, hand it over as a notebook, run it again."""

import asyncio
from contextlib import suppress
from typing import Annotated

from mcp.types import CallToolResult, ResourceLink
from pydantic import Field

from kernelry import Execution, ExecutionStatus
from kernelry.errors import InvalidArgumentError
from kernelry.history import Form, ReplayReport, Search, Which, export
from kernelry_mcp.answers import uri_of
from kernelry_mcp.answers.results import (
    ExportedHistory,
    FoundExecution,
    ReplayDifference,
    Replayed,
    SearchResult,
)
from kernelry_mcp.callers import caller_of
from kernelry_mcp.context import Ctx, Declaration, app_of, tool
from kernelry_mcp.tools.parameters import Moment, SessionId, Wait

CODE_CHARS = 500  # of each execution found
LINE_CHARS = 100  # of its code in the text for the model
SHOWN = 20  # in the text for the model


@tool(Declaration(title="Search executions", toolset="history", read_only=True, idempotent=True))
async def search_executions(
    ctx: Ctx,
    code_text: Annotated[str, Field(description="Words in the code")] = "",
    error_text: Annotated[str, Field(description="Words in the error")] = "",
    description_text: Annotated[str, Field(description="Words in the session's description")] = "",
    parent_code_text: Annotated[
        str, Field(description="Words in the code of the execution the session was made for")
    ] = "",
    session_ids: Annotated[list[str] | None, Field(description="Only in these; globs")] = None,
    status: Annotated[list[ExecutionStatus] | None, Field(description="Only these")] = None,
    since: Moment = None,
    until: Moment = None,
    limit: Annotated[int, Field(ge=1, le=200, description="At most so many")] = 20,
    offset: Annotated[int, Field(ge=0, description="Skip the first so many")] = 0,
) -> Annotated[CallToolResult, SearchResult]:
    """Find what was run in all sessions, also in closed ones; newest first.

    All words must be there, as words or their beginnings; all filters must fit. Read one with
    get_execution.
    """
    wanted = Search(
        code_text=code_text,
        error_text=error_text,
        description_text=description_text,
        parent_code_text=parent_code_text,
        session_ids=session_ids or (),
        statuses=status or (),
        since=since,
        until=until,
    )
    history = app_of(ctx).sessions.history
    await history.check_names(session_ids or ())
    found = await history.search(wanted, limit=limit + 1, offset=offset)
    more = len(found) > limit
    result = SearchResult(
        executions=[found_execution(execution) for execution in found[:limit]],
        next_offset=offset + limit if more else -1,
    )
    lines = [f"{len(result.executions)} executions" + (", and more" if more else "")]
    for item in result.executions[:SHOWN]:
        code = " ".join(item.code.split())[:LINE_CHARS]
        lines.append(f"{item.execution_id} {item.session_id} {item.status}: {code}")
    return result.answer("\n".join(lines))


def found_execution(execution: Execution) -> FoundExecution:
    """Return an execution as a search shows it."""
    error = execution.error
    return FoundExecution(
        execution_id=execution.id,
        session_id=execution.session_id,
        execution_index=execution.index,
        status=execution.status.value,
        code=execution.code[:CODE_CHARS],
        error=f"{error.type}: {error.message[:CODE_CHARS]}" if error else "",
        created_at=execution.created_at.isoformat(timespec="milliseconds"),
        execution_time=round(execution.duration, 6),
    )


@tool(Declaration(title="Export a notebook", toolset="history"))
async def export_notebook(
    ctx: Ctx,
    session_id: SessionId = None,
    path: Annotated[str, Field(description="Default: outputs/SESSION.ipynb or .py")] = "",
    include: Annotated[
        Which, Field(description="latest: what the newest kernel ran; successful: what completed")
    ] = Which.ALL,
    format: Annotated[Form, Field(description="script: Python cells, magics commented")] = (
        Form.NOTEBOOK
    ),
    overwrite: Annotated[bool, Field(description="Replace a file that exists")] = False,
) -> Annotated[CallToolResult, ExportedHistory]:
    """Write what a session ran, with outputs, as a Jupyter notebook into the workspace.

    Needs no kernel: closed sessions can be exported, and deleted ones whose history was kept.
    """
    sessions = app_of(ctx).sessions
    name = sessions.current_id(caller_of(ctx)) if session_id is None else session_id
    done = await export(
        sessions.history,
        name,
        sessions.workspace,
        sessions.sessions_dir,
        path=path,
        which=include,
        form=format,
        overwrite=overwrite,
    )
    result = ExportedHistory(
        session_id=name, path=done.written.path, size=done.written.size, executions=done.count
    )
    uri = uri_of(result.path)
    link = ResourceLink(type="resource_link", name=result.path, uri=uri, size=result.size)
    return result.answer(f"{done.count} executions of '{name}' are in {result.path}.", link)


@tool(Declaration(title="Replay a session", toolset="history", destructive=True, open_world=True))
async def replay_session(
    ctx: Ctx,
    session_id: SessionId = None,
    into: Annotated[
        str, Field(description="Id of the new session; one of a replay under way: how far it is")
    ] = "",
    simulate: Annotated[bool, Field(description="Only list what would be run")] = False,
    stop_on_error: Annotated[bool, Field(description="Stop at an error that is new")] = True,
    up_to: Annotated[int | None, Field(ge=1, description="Last execution_index to run")] = None,
    wait: Wait = None,
) -> Annotated[CallToolResult, Replayed]:
    """Run again what a session ran, in a new session, and name what came out differently.

    The original is not touched. Code runs with all its effects on files and the network.
    """
    app = app_of(ctx)
    sessions = app.sessions
    source = sessions.current_id(caller_of(ctx)) if session_id is None else session_id
    report = sessions.replays.find(into) if into else None
    if report is not None and report.source != source:
        raise InvalidArgumentError(f"'{into}' is a replay of '{report.source}', not of '{source}'")
    if report is None and simulate:
        report = await sessions.replays.plan(source, up_to=up_to)
    elif report is None:
        report = await sessions.replays.start(
            source, into=into, up_to=up_to, stop_on_error=stop_on_error
        )
    if report.session_id:
        with suppress(TimeoutError):
            async with asyncio.timeout(app.settings.wait if wait is None else wait):
                await report.over.wait()
    result = replayed(report)
    return result.answer(describe(result))


def replayed(report: ReplayReport) -> Replayed:
    """Return a replay as the tool shows it."""
    state = "over" if report.over.is_set() else "running" if report.session_id else "planned"
    return Replayed(
        session_id=report.source,
        into=report.session_id,
        state=state,
        total=len(report.executions),
        replayed=report.replayed,
        matched=report.matched,
        differences=[
            ReplayDifference(
                execution_index=item.index,
                execution_id=item.execution_id,
                replayed_id=item.replayed_id,
                changes={name: [before, now] for name, (before, now) in item.what.items()},
            )
            for item in report.differences
        ],
        skipped={str(index): status for index, status in report.skipped.items()},
        executions=[found_execution(execution) for execution in report.executions]
        if state == "planned"
        else [],
        stopped=report.stopped,
    )


def describe(result: Replayed) -> str:
    """Say how a replay is."""
    if result.state == "planned":
        return f"{result.total} executions of '{result.session_id}' would be run again."
    lines = [
        f"Replay of '{result.session_id}' in '{result.into}' is {result.state}: "
        f"{result.replayed} of {result.total} run, {result.matched} as before.",
        *(
            f"Execution {item.execution_index} differs in {', '.join(item.changes)}."
            for item in result.differences[:SHOWN]
        ),
    ]
    if result.stopped:
        lines.append(f"It stopped: {result.stopped}.")
    if result.state == "running":
        lines.append(f"Call again with into='{result.into}' to see how far it is.")
    return "\n".join(lines)
