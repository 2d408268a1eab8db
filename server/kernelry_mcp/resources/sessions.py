"""Resources of sessions: what they are, what they ran, what happened, how that hangs together."""

from dataclasses import asdict
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError

from kernelry.errors import KernelryError, NotFoundError
from kernelry.history import draw_graph
from kernelry.models import Event
from kernelry_mcp.answers import Answered, render, session_info
from kernelry_mcp.callers import caller_of
from kernelry_mcp.context import App, Ctx, app_of
from kernelry_mcp.resources.subscriptions import SESSION_SCHEME

SESSION = SESSION_SCHEME + "{session_id}"
EXECUTION = SESSION + "/executions/{index}"
EVENTS = SESSION + "/events"
GRAPH = SESSION + "/graph"
NEWEST_EVENTS = 200  # in one answer
TEXT_BUDGET = 200_000  # characters of an execution


def add_session_resources(server: MCPServer[App]) -> None:
    """Offer ``session://{id}`` and what is below it."""

    @server.resource(SESSION, name="session", description="A session", mime_type="application/json")
    async def session(session_id: str, ctx: Ctx) -> dict[str, Any]:
        """Return what list_sessions says of a session."""
        app = app_of(ctx)
        with_session = found(lambda: app.sessions.get(session_id))
        return session_info(app, caller_of(ctx), with_session).model_dump(mode="json")

    @server.resource(
        EXECUTION,
        name="execution",
        description="An execution of a session, by its number: code and result",
        mime_type="application/json",
    )
    async def execution(session_id: str, index: str, ctx: Ctx) -> dict[str, Any]:
        """Return an execution with its code."""
        sessions = app_of(ctx).sessions
        try:
            ran = await sessions.history.execution(session_id, int(index))
            ran = await sessions.execution(ran.id)
        except ValueError as error:
            raise ResourceNotFoundError(f"{index!r} is no number of an execution") from error
        except NotFoundError as error:
            raise ResourceNotFoundError(str(error)) from error
        except KernelryError as error:
            raise ResourceError(str(error)) from error
        answered = Answered(
            execution=ran, sessions=sessions, budget=TEXT_BUDGET, offered=app_of(ctx).offered
        )
        rendered = await render(answered)
        return {"code": ran.code, **rendered.result.model_dump(mode="json")}

    @server.resource(
        EVENTS,
        name="events",
        description="The newest events of a session",
        mime_type="application/json",
    )
    async def events(session_id: str, ctx: Ctx) -> list[dict[str, Any]]:
        """Return the newest events of a session, the oldest of them first."""
        log = app_of(ctx).sessions.events
        return [as_json(event) for event in await log.latest(session_id, NEWEST_EVENTS)]

    @server.resource(
        GRAPH,
        name="graph",
        description="A session, those made for it, their executions and files, as a graph",
        mime_type="application/json",
    )
    async def descendants(session_id: str, ctx: Ctx) -> dict[str, Any]:
        """Return the graph below a session."""
        sessions = app_of(ctx).sessions
        found(lambda: sessions.get(session_id))
        records = {session.id: session.record for session in sessions.list()}
        return await draw_graph(sessions.history, sessions.artifacts, records, [session_id])


def found(look: Any) -> Any:
    """Return what `look` finds.

    Raises:
        ResourceNotFoundError: It finds nothing.
    """
    try:
        return look()
    except KernelryError as error:
        raise ResourceNotFoundError(str(error)) from error


def as_json(event: Event) -> dict[str, Any]:
    """Return an event as JSON knows it."""
    return {**asdict(event), "at": event.at.isoformat()}
