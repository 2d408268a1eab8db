"""Sessions: create, list, switch, delete."""

from dataclasses import asdict
from typing import Annotated, Any, Literal, TypeAlias

from mcp.types import CallToolResult
from pydantic import Field, NonNegativeFloat

from kernelry import Isolation, Order, Selection, Session, Sessions, SessionSpec, SessionStatus
from kernelry.errors import (
    CheckpointNotFoundError,
    ConflictError,
    InvalidArgumentError,
    SessionNotFoundError,
)
from kernelry.lives import Branched
from kernelry.models import Checkpoint
from kernelry.usage import quantity
from kernelry_mcp.answers import left_out, left_out_text, memory_in, session_info, session_line
from kernelry_mcp.answers.results import (
    BranchInfo,
    CreatedSession,
    DeletedSession,
    SessionList,
    SwitchedSession,
)
from kernelry_mcp.callers import caller_of, has_default
from kernelry_mcp.context import App, Ctx, Declaration, app_of, tool

WORTH_TELLING = 0.5  # seconds that the executions of an origin were waited for
NO_DEFAULT = (
    "this client keeps no cookies, and over HTTP on the 2026-07-28 wire nothing else tells clients "
    "of one token apart: it has no default session to set. Pass session_id='{}' with each call; a "
    "call without means 'default'."
)

Rewind: TypeAlias = Annotated[
    int | None,
    Field(ge=0, le=100, description="Keep what was before each of its newest N executions"),
]


Limits: TypeAlias = Annotated[
    dict[Literal["memory", "processes", "cpu_seconds", "idle_seconds"], NonNegativeFloat] | None,
    Field(description="Lower limits than the server's; memory in bytes"),
]
Python: TypeAlias = Annotated[
    str,
    Field(
        max_length=1000,
        description="Another interpreter, with ipykernel: a path, or like 'python3.12'",
    ),
]
At: TypeAlias = Annotated[
    Literal["end", "safe_point"],
    Field(description="Branch when what runs has ended, or at its next safe point"),
]


@tool(
    Declaration(
        title="Create a session",
        toolset="core",
        options=(
            "tags",
            "metadata",
            "context",
            "fresh",
            "isolation",
            "network",
            "limits",
            "python",
            "stdin",
            "template",
            "count",
            "at",
            "rewind",
            "parent_session_id",
            "parent_execution_id",
        ),
    )
)
async def create_session(
    ctx: Ctx,
    session_id: Annotated[
        str,
        Field(description="Letters, digits, '_', '-', '.', at most 64; default: one is made"),
    ] = "",
    description: Annotated[str, Field(description="What it is for, one line")] = "",
    packages: Annotated[
        list[str] | None, Field(description="To install in it, like 'numpy>=2'")
    ] = None,
    tags: Annotated[list[str] | None, Field(description="Words to find it by")] = None,
    metadata: Annotated[dict[str, Any] | None, Field(description="Free key-value pairs")] = None,
    if_exists: Annotated[
        Literal["error", "reuse"], Field(description="What to do if the id is taken")
    ] = "error",
    fresh: Annotated[
        bool, Field(description="A fresh process instead of a fork: slower, own hash seed")
    ] = False,
    isolation: Annotated[
        Isolation | None, Field(description="A stronger isolation than the server's")
    ] = None,
    network: Annotated[bool | None, Field(description="false: no network for it")] = None,
    limits: Limits = None,
    python: Python = "",
    stdin: Annotated[
        bool, Field(description="input() and getpass() may ask, and wait for send_input")
    ] = False,
    context: Annotated[
        dict[str, Any] | None,
        Field(description="Values that code reads and writes as kernelry_session.context"),
    ] = None,
    template: Annotated[str, Field(description="A preset of this server")] = "",
    branch_of: Annotated[
        str, Field(description="Begin with all that this session, or checkpoint, has")
    ] = "",
    count: Annotated[int | None, Field(description="Branches ID.1, ID.2, ..., up to 100")] = None,
    at: At = "end",
    rewind: Rewind = None,
    parent_session_id: Annotated[str, Field(description="The session it is made for")] = "",
    parent_execution_id: Annotated[str, Field(description="The execution that wants it")] = "",
) -> Annotated[CallToolResult, CreatedSession]:
    """Create an isolated Python session: its own kernel process, variables and packages.

    Use one session per line of work, and pass its session_id to the other tools (or
    switch_session once). Returns when the kernel is ready. Sessions stay until
    delete_session, also over a crash of the server. All run in the same workspace folder.
    """
    app = app_of(ctx)
    spec = SessionSpec(
        id=session_id,
        description=description,
        tags=tuple(tags or ()),
        metadata=metadata or {},
        isolation=isolation,
        network=network,
        limits=dict((limits or {}).items()),
        python=python,
        stdin=stdin,
        context=context or {},
        packages=tuple(packages or ()),
        template=template,
        rewind=rewind,
        parent_session_id=parent_session_id,
        parent_execution_id=parent_execution_id,
    )
    reuse = if_exists == "reuse"
    if branch_of or count is not None or at != "end":
        given = {"if_exists='reuse'": reuse, "fresh": fresh}
        if other := next((name for name, is_given in given.items() if is_given), ""):
            raise InvalidArgumentError(
                f"{other} and branch_of don't go together: leave one of them out"
            )
        if not branch_of:
            raise InvalidArgumentError("count and at are for branches: pass branch_of too")
        return await branch(ctx, branch_of, spec, 1 if count is None else count, at == "safe_point")
    session, is_new = await app.sessions.create_or_reuse(spec, reuse=reuse, fresh=fresh)
    return created(app, caller_of(ctx), session, existed=not is_new)


async def branch(
    ctx: Ctx, branch_of: str, spec: SessionSpec, count: int, inside: bool
) -> CallToolResult:
    """Make branches of a session or a checkpoint, and say how they came to be."""
    app, caller = app_of(ctx), caller_of(ctx)
    origin, checkpoint = await meant(app.sessions, branch_of)
    done = await app.sessions.branching.create(
        *(origin, spec, count),
        patience=app.settings.wait,
        inside=inside,
        checkpoint=checkpoint,
    )
    result = described(app, caller, done.branches[0].session, existed=False)
    result.sessions = [
        BranchInfo(
            session_id=item.session.id,
            how="live" if item.is_live else "checkpoint",
            why=item.why,
            notes=list(item.named),
            left_out=left_out(item.left_out),
        )
        for item in done.branches
    ]
    first = done.branches[0]
    names = ", ".join(f"'{item.session.id}'" for item in done.branches)
    told = [f"{names} branched from {where(done, origin.id)}: its variables, packages, context."]
    if not first.is_live:
        told.append(f"By a checkpoint ({first.why}), so what can't be saved is not there.")
    if done.waited >= WORTH_TELLING:
        what = "A safe point was" if done.inside else "Its executions were"
        told.append(f"{what} waited for, {done.waited:.0f} s.")
    told += [f"Mind: {note}." for note in first.named]
    return result.answer(" ".join(told) + left_out_text("Left out", first.left_out))


async def meant(sessions: Sessions, name: str) -> tuple[Session, Checkpoint | None]:
    """Return the session that a name means, or the checkpoint and the session that it is of."""
    try:
        return sessions.get(name), None
    except SessionNotFoundError:
        try:
            checkpoint = await sessions.checkpoints.get(name)
        except CheckpointNotFoundError as error:
            if sessions.checkpoints.live.why_gone(name):
                raise error from None
        else:
            return sessions.get(checkpoint.session_id), checkpoint
        raise


def where(done: Branched, origin: str) -> str:
    """Say from what branches have come."""
    if done.checkpoint is not None:
        return f"checkpoint {done.checkpoint.id} of '{origin}'"
    if done.inside:
        return f"'{origin}' at a safe point of its execution {done.inside}, which goes on"
    return f"'{origin}' after its execution {done.after}" if done.after else f"'{origin}'"


def created(app: App, caller: str, session: Session, *, existed: bool) -> CallToolResult:
    """Say that a session is there, and what stands between it and the rest."""
    result = described(app, caller, session, existed=existed)
    limits = session.walls.limits
    return result.answer(
        f"Session '{session.id}' {'is there' if existed else 'created'}, its kernel is ready. "
        f"Workspace: {result.workspace}. Isolation: {result.session.isolation}, network "
        f"{'on' if result.session.network else 'off'}, "
        f"memory {quantity(limits.memory) if limits.memory else 'unlimited'}."
    )


def described(app: App, caller: str, session: Session, *, existed: bool) -> CreatedSession:
    """Return what is published of a session that is ready."""
    return CreatedSession(
        session_id=session.id,
        status="existing" if existed else "created",
        session=session_info(app, caller, session),
        workspace=str(app.sessions.workspace.root),
        limits=asdict(session.walls.limits),
        sessions=[],
    )


@tool(
    Declaration(
        title="List sessions",
        toolset="core",
        read_only=True,
        idempotent=True,
        options=("parent", "text", "sort", "limit", "offset"),
    )
)
async def list_sessions(
    ctx: Ctx,
    status: Annotated[
        SessionStatus | None, Field(description="Only those with this lifecycle status")
    ] = None,
    tags: Annotated[list[str] | None, Field(description="Only those with all these tags")] = None,
    name: Annotated[str, Field(description="Only ids that match this glob, like 'exp_*'")] = "",
    parent: Annotated[str, Field(description="Only children of this session")] = "",
    text: Annotated[str, Field(description="Only with these words in id or description")] = "",
    sort: Annotated[
        Literal["created", "used", "id"], Field(description="used: the last used first")
    ] = "created",
    limit: Annotated[int, Field(ge=1, le=1000, description="At most so many")] = 100,
    offset: Annotated[int, Field(ge=0, description="Skip the first so many")] = 0,
) -> Annotated[CallToolResult, SessionList]:
    """List sessions that fit all filters; in the order of their creation, 'default' first.

    Each with its state, memory, uptime, last use, what runs.
    """
    app, caller = app_of(ctx), caller_of(ctx)
    selection = Selection(
        status=status,
        tags=tuple(tags or ()),
        name=name,
        parent=parent or None,
        text=text,
        order=Order(sort),
    )
    matching = app.sessions.list(selection)
    found = matching[offset : offset + limit]
    more = len(matching) > offset + limit
    children = app.sessions.children()
    memory = await memory_in(found)
    result = SessionList(
        sessions={
            session.id: session_info(app, caller, session, children, memory.get(session.id, 0))
            for session in found
        },
        active_session=app.sessions.current_id(caller),
        total_sessions=app.sessions.count,
        max_sessions=app.settings.max_sessions,
        next_offset=offset + limit if more else -1,
    )
    lines = [f"{len(found)} of {result.total_sessions} sessions (* is your default):"]
    lines += [session_line(app, name, item) for name, item in result.sessions.items()]
    if more:
        lines.append(f"[next: offset={result.next_offset}]")
    return result.answer("\n".join(lines))


@tool(Declaration(title="Switch session", toolset="core", idempotent=True))
async def switch_session(
    ctx: Ctx, session_id: Annotated[str, Field(description="The session to use from now on")]
) -> Annotated[CallToolResult, SwitchedSession]:
    """Set your default session: the one that tools use when no session_id is given.

    Only your own. Starts its kernel if needed.
    A client that can't be told from others (HTTP without cookies) has none: pass session_id.
    """
    sessions = app_of(ctx).sessions
    if not has_default(ctx):
        raise ConflictError(NO_DEFAULT.format(sessions.get(session_id).id))
    previous = await sessions.switch(caller_of(ctx), session_id)
    result = SwitchedSession(
        previous_session=previous, current_session=session_id, session_id=session_id
    )
    return result.answer(f"Your default session is now '{session_id}' (it was '{previous}').")


@tool(Declaration(title="Delete a session", toolset="core", destructive=True))
async def delete_session(
    ctx: Ctx,
    session_id: Annotated[str, Field(description="The session to delete")],
    keep_history: Annotated[bool, Field(description="What it ran stays searchable")] = False,
) -> Annotated[CallToolResult, DeletedSession]:
    """Delete a session: kernel, variables, packages and history. Workspace files stay.

    'default' can't be deleted. What runs in it is killed.
    """
    sessions = app_of(ctx).sessions
    kept = await sessions.delete(session_id, keep_history=keep_history)
    sessions.leave(caller_of(ctx), session_id)
    active = sessions.current_id(caller_of(ctx))
    result = DeletedSession(
        session_id=session_id, status="deleted", kept_as=kept, active_session=active
    )
    words = f" Its history is kept as '{kept}'." if kept else ""
    return result.answer(
        f"Session '{session_id}' is deleted.{words} Your default session: '{active}'."
    )
