"""Toolset `events`: the log of what happened, and messages between sessions and clients."""

from typing import Annotated, Any

from mcp.types import CallToolResult
from pydantic import Field

from kernelry.models import Event
from kernelry_mcp.answers import fitting
from kernelry_mcp.answers.results import EventInfo, EventList, Published
from kernelry_mcp.callers import caller_of
from kernelry_mcp.context import Ctx, Declaration, app_of, tool
from kernelry_mcp.tools.parameters import SessionId

SHOWN_CHARS = 200  # of the data of one in the text for the model


@tool(Declaration(title="Publish an event", toolset="events"))
async def publish_event(
    ctx: Ctx,
    topic: Annotated[str, Field(description="What it is about, like 'training.done'")],
    data: Annotated[Any, Field(description="Anything, up to 64 KiB as JSON")] = None,
    session_id: SessionId = None,
) -> Annotated[CallToolResult, Published]:
    """Write an event into the server's log, for other sessions and clients to read.

    Code in a session does the same with kernelry_session.publish(topic, data).
    """
    sessions = app_of(ctx).sessions
    session = sessions.find(caller_of(ctx), session_id)
    seq = await sessions.events.publish(topic, data, session_id=session.id)
    return Published(seq=seq, topic=topic).answer(f"Event {seq} on '{topic}' is in the log.")


@tool(Declaration(title="Read events", toolset="events", read_only=True, idempotent=True))
async def get_events(
    ctx: Ctx,
    since: Annotated[
        int, Field(ge=-1, description="Only those after this number; -1: only new ones")
    ] = 0,
    topics: Annotated[
        list[str] | None, Field(description="Globs, like 'execution.*'; default: all")
    ] = None,
    session_ids: Annotated[list[str] | None, Field(description="Only of these; globs")] = None,
    limit: Annotated[int, Field(ge=1, le=1000, description="At most so many")] = 100,
    wait: Annotated[
        float,
        Field(ge=0, le=3600, allow_inf_nan=False, description="Seconds to wait for a first one"),
    ] = 0,
) -> Annotated[CallToolResult, EventList]:
    """Read the log of what happened: sessions, executions, what was published.

    Pass next_since as the next call's `since`: nothing is missed or read twice.
    """
    events = app_of(ctx).sessions.events
    await app_of(ctx).sessions.history.check_names(session_ids or ())
    if since < 0:
        since = await events.newest()
    read = await events.read(
        since=since, topics=topics or (), sessions=session_ids or (), limit=limit, wait=wait
    )
    budget = app_of(ctx).settings.text_budget
    most = budget if len(read) == 1 else SHOWN_CHARS
    lines = fitting((line_of(event, most) for event in read), budget)
    found = read[: len(lines)]  # what is not told is not passed over by next_since
    result = EventList(
        events=[
            EventInfo(
                seq=event.seq,
                at=event.at.isoformat(timespec="milliseconds"),
                topic=event.topic,
                session_id=event.session_id,
                execution_id=event.execution_id,
                data=event.data,
            )
            for event in found
        ],
        next_since=found[-1].seq if found else since,
    )
    more = ", more wait" if len(found) < len(read) or len(read) == limit else ""
    return result.answer(
        "\n".join([f"{len(found)} events; next: since={result.next_since}{more}", *lines])
    )


def line_of(event: Event, most: int = SHOWN_CHARS) -> str:
    """Return an event in one line: which, when (UTC), what, where, with what.

    Args:
        event: Which.
        most: Characters of its data.
    """
    where = f" {event.session_id}" if event.session_id else ""
    where += f" {event.execution_id}" if event.execution_id else ""
    text = "" if event.data in (None, {}) else str(event.data)
    if len(text) > most:
        more = f"get_events(since={event.seq - 1}, limit=1) shows it"
        text = f"{text[:most]}... ({len(text)} characters; {more})"
    data = f": {text}" if text else ""
    return f"{event.seq} {event.at:%Y-%m-%d %H:%M:%S} {event.topic}{where}{data}"
