"""How sessions are shown."""

from collections.abc import Mapping, Sequence

from kernelry import Session
from kernelry_mcp.answers.results import SessionInfo
from kernelry_mcp.context import App


def session_info(
    app: App, caller: str, session: Session, children: Mapping[str, Sequence[str]] | None = None
) -> SessionInfo:
    """Return a session as the tools show it.

    Args:
        app: What lives as long as the server.
        caller: Who asks.
        session: The session.
        children: `Sessions.children`, if that is known.
    """
    children = app.sessions.children() if children is None else children
    record, walls = session.record, session.walls
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
