"""Toolset `history`: find what was run, hand it over as a notebook, run it again."""

import asyncio
from contextlib import suppress
from typing import Annotated

from mcp.types import CallToolResult, ResourceLink
from pydantic import Field

from kernelry import Execution, ExecutionStatus
from kernelry.errors import InvalidArgumentError
from kernelry.history import Form, ReplayReport, Search, Which, export, own_packages, same_until
from kernelry_mcp.answers import fitting, uri_of
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
RESULT_CHARS = 80  # of its result or error there
FILES, NEW_FILES = 3, 20  # that it wrote, there and in all
SHOWN = 20  # differences in the text for the model


@tool(
    Declaration(
        title="Search executions",
        toolset="history",
        read_only=True,
        idempotent=True,
        options=("description_text", "parent_code_text", "since", "until", "limit", "offset"),
    )
)
async def search_executions(
    ctx: Ctx,
    code_text: Annotated[str, Field(description="Words in the code")] = "",
    error_text: Annotated[str, Field(description="Words in the error")] = "",
    output_text: Annotated[str, Field(description="Words in what it printed or showed")] = "",
    wrote: Annotated[
        str, Field(description="A file that it wrote, like 'outputs/best.csv'; a glob")
    ] = "",
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
        output_text=output_text,
        wrote=wrote,
        description_text=description_text,
        parent_code_text=parent_code_text,
        session_ids=session_ids or (),
        statuses=status or (),
        since=since,
        until=until,
    )
    app = app_of(ctx)
    history = app.sessions.history
    await history.check_names(session_ids or ())
    found = await history.search(wanted, limit=limit + 1, offset=offset)
    results = await history.results([execution.id for execution in found[:limit]])
    shown = [found_execution(one, results.get(one.id, "")) for one in found[:limit]]
    lines = fitting(map(line_of, shown), app.settings.text_budget)
    more = len(found) > len(lines)  # what is not told is not passed over
    result = SearchResult(
        executions=shown[: len(lines)], next_offset=offset + len(lines) if more else -1
    )
    head = f"{len(lines)} executions, the newest first" if lines else "No execution fits."
    tail = [f"[more: offset={result.next_offset}]"] if more else []
    return result.answer("\n".join([head, *lines, *tail]))


def line_of(item: FoundExecution) -> str:
    """Return an execution in one line: which, when, where, how it ended, what, with what result."""
    code = cut(" ".join(item.code.split()), LINE_CHARS)
    at = item.created_at[:19].replace("T", " ")
    result = cut(item.error or item.result, RESULT_CHARS)
    more = ", ..." if len(item.new_files) > FILES else ""
    wrote = f" wrote {', '.join(item.new_files[:FILES])}{more}" if item.new_files else ""
    return (
        f"{item.execution_id} {at} {item.session_id} #{item.execution_index} {item.status}"
        + (", undone" if item.undone else "")
        + f": {code}"
        + (f" -> {result}" if result else "")
        + wrote
    )


def cut(text: str, most: int) -> str:
    """Return the beginning of a text, with a mark if that is not all."""
    return text if len(text) <= most else text[: most - 1] + "…"


def found_execution(execution: Execution, result: str = "") -> FoundExecution:
    """Return an execution as a search shows it, with the last line of its output."""
    error = execution.error
    return FoundExecution(
        execution_id=execution.id,
        session_id=execution.session_id,
        execution_index=execution.index,
        status=execution.status.value,
        undone=execution.undone.value,
        code=execution.code[:CODE_CHARS],
        error=f"{error.type}: {error.message[:CODE_CHARS]}" if error else "",
        result=result[:CODE_CHARS],
        new_files=list(execution.new_files[:NEW_FILES]),
        created_at=execution.created_at.isoformat(timespec="milliseconds"),
        execution_time=round(execution.duration, 6),
    )


@tool(
    Declaration(
        title="Export a notebook",
        toolset="history",
        options=("session_ids", "include", "overwrite"),
    )
)
async def export_notebook(
    ctx: Ctx,
    session_id: SessionId = None,
    session_ids: Annotated[
        list[str] | None, Field(description="Several in one file, in this order; globs")
    ] = None,
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

    Its first cells install packages and write the scripts that it imports. Also of closed
    sessions, and of deleted ones whose history was kept.
    """
    sessions = app_of(ctx).sessions
    name = sessions.current_id(caller_of(ctx)) if session_id is None else session_id
    names = await sessions.history.matching(session_ids) if session_ids else [name]
    packages = {
        session.id: await own_packages(session)
        for session in sessions.list()
        if session.id in names
    }
    done = await export(
        sessions.history,
        names,
        sessions.workspace,
        sessions.sessions_dir,
        packages=packages,
        path=path,
        which=include,
        form=format,
        overwrite=overwrite,
    )
    result = ExportedHistory(
        session_id=", ".join(names),
        path=done.written.path,
        size=done.written.size,
        executions=done.count,
        packages=[*done.packages],
        scripts=[*done.scripts],
    )
    told = [f"packages {', '.join(done.packages)}"] if done.packages else []
    told += [f"scripts {', '.join(done.scripts)}"] if done.scripts else []
    brings = f" Its first cells bring the {' and the '.join(told)}." if told else ""
    uri = uri_of(result.path)
    link = ResourceLink(type="resource_link", name=result.path, uri=uri, size=result.size)
    return result.answer(
        f"{done.count} executions of {result.session_id} are in {result.path}.{brings}", link
    )


@tool(
    Declaration(
        title="Replay a session",
        toolset="history",
        destructive=True,
        open_world=True,
        options=("stop_on_error", "up_to", "folder"),
    )
)
async def replay_session(
    ctx: Ctx,
    session_id: SessionId = None,
    into: Annotated[
        str, Field(description="Id of the new session; one of a replay under way: how far it is")
    ] = "",
    simulate: Annotated[bool, Field(description="Only list what would be run")] = False,
    stop_on_error: Annotated[bool, Field(description="Stop at an error that is new")] = True,
    up_to: Annotated[int | None, Field(ge=1, description="Last execution_index to run")] = None,
    folder: Annotated[
        str,
        Field(
            max_length=200,
            description="Where relative paths lead; default: replays/NEW_ID; '.': the workspace",
        ),
    ] = "",
    wait: Wait = None,
) -> Annotated[CallToolResult, Replayed]:
    """Run again what a session ran, in a new session, and name what came out differently.

    Also files, by their content. Relative paths lead into a folder of the replay's own (files
    over 10 MB are links); absolute paths and the network stay real.
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
            source, into=into, up_to=up_to, folder=folder, stop_on_error=stop_on_error
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
        folder=report.folder if report.session_id else "",
        same_files=report.same_files,
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


def left_out_of(result: Replayed) -> list[str]:
    """Say which executions are not run again, and why; nothing: all are."""
    named = ", ".join(f"{index} ({status})" for index, status in result.skipped.items())
    return [f"Left out: {named}."] if named else []


def around(text: str, place: int) -> str:
    """Return a text around a place, with marks where something is cut off."""
    start = max(place - LINE_CHARS // 2, 0)
    shown = text[start : start + LINE_CHARS]
    return ("..." if start else "") + shown + ("..." if len(text) > start + LINE_CHARS else "")


def difference(item: ReplayDifference) -> str:
    """Say how an execution came out differently, from where it did."""
    told = []
    for name, (was, now) in item.changes.items():
        same = same_until(was, now)
        told.append(f"{name}: {around(was, same)!r} -> {around(now, same)!r}")
    return f"Execution {item.execution_index} differs in {'; '.join(told)}."


def describe(result: Replayed) -> str:
    """Say how a replay is."""
    if result.state == "planned":
        lines = [f"{result.total} executions of '{result.session_id}' would be run again:"]
        for item in result.executions:
            code = " ".join(item.code.split())[:LINE_CHARS]
            lines.append(f"{item.execution_index} ({item.status}): {code}")
        return "\n".join([*lines, *left_out_of(result)])
    lines = [
        f"Replay of '{result.session_id}' in '{result.into}' is {result.state}: "
        f"{result.replayed} of {result.total} run, {result.matched} as before.",
        *(difference(item) for item in result.differences[:SHOWN]),
    ]
    if result.same_files:
        lines.append(f"Files with the same content: {', '.join(result.same_files[:SHOWN])}.")
    if result.folder not in ("", "."):
        lines.append(f"It writes below {result.folder}/.")
    lines += left_out_of(result)
    if result.stopped:
        lines.append(f"It stopped: {result.stopped}.")
    if result.state == "running":
        lines.append(f"Call again with into='{result.into}' to see how far it is.")
    return "\n".join(lines)
