"""How sessions are shown."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from kernelry import Session
from kernelry.models import now
from kernelry.usage import memory_used, period, quantity
from kernelry_mcp.answers.results import SessionInfo
from kernelry_mcp.context import App

CODE_CHARS = 60  # of what runs in a session


def session_info(
    app: App,
    caller: str,
    session: Session,
    children: Mapping[str, Sequence[str]] | None = None,
    memory: int = 0,
) -> SessionInfo:
    """Return a session as the tools show it.

    Args:
        app: What lives as long as the server.
        caller: Who asks.
        session: The session.
        children: `Sessions.children`, if that is known.
        memory: Bytes that it uses; 0: not known.
    """
    children = app.sessions.children() if children is None else children
    record, walls = session.record, session.walls
    run = session.current
    alive = session.kernel is not None and session.kernel.process.exit is None
    return SessionInfo(
        description=record.description,
        status=record.status.value,
        kernel=session.kernel_state.value,
        tags=list(record.tags),
        metadata=record.metadata,
        created_at=record.created_at.isoformat(timespec="milliseconds"),
        last_activity_at=record.last_activity_at.isoformat(timespec="milliseconds"),
        uptime=round(session.uptime, 3) if alive else 0.0,
        idle_seconds=round(session.idle_seconds, 3),
        memory_usage=memory,
        execution_id=run.id if run else "",
        running_for=round(run.elapsed, 3) if run else 0.0,
        execution_count=record.execution_count,
        generation=record.generation,
        isolation=walls.isolation.value,
        network=walls.network,
        python=str(session.environment.parent),
        parent_session_id=record.parent_session_id,
        parent_execution_id=record.parent_execution_id,
        children=list(children.get(session.id, ())),
        context=record.context,
        reason=record.reason,
        template=record.template,
        current=app.sessions.current_id(caller) == session.id,
    )


async def memory_in(sessions: Iterable[Session]) -> dict[str, int]:
    """Return the bytes that sessions with a kernel use, by id."""
    leaders = {
        session.id: session.kernel.process.leader
        for session in sessions
        if session.kernel is not None and session.kernel.process.exit is None
    }
    return await asyncio.to_thread(
        lambda: {name: memory_used(leader) for name, leader in leaders.items()}
    )


def session_line(app: App, session_id: str, item: SessionInfo) -> str:
    """Return a session in one line: what it does, costs, and when it was used."""
    parts = [item.kernel if item.status == "active" else f"{item.kernel}, {item.status}"]
    if item.memory_usage:
        parts.append(quantity(item.memory_usage))
    if item.uptime:
        parts.append(f"up {period(item.uptime)}")
    session = app.sessions.get(session_id)
    run = session.current
    if run is not None:
        first = run.execution.code.strip().partition("\n")[0][:CODE_CHARS]
        parts.append(f"runs {run.id} for {period(item.running_for)}: {first}")
    elif item.execution_count:
        unused = (now() - session.record.last_activity_at).total_seconds()
        parts.append(f"used {period(max(unused, 0))} ago")
    parts.append(f"{item.execution_count} executions")
    about = f" ({item.description})" if item.description else ""
    return f"{'*' if item.current else '-'} {session_id}: {', '.join(parts)}{about}"
