"""Which status a session may have after which: the table, and what is said to the rest."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

from kernelry.errors import TransitionError
from kernelry.models import SessionRecord, SessionStatus, now

_ENDS = frozenset({SessionStatus.COMPLETED, SessionStatus.FAILED, SessionStatus.CANCELLED})

#: status -> what it may become
ALLOWED: dict[SessionStatus, frozenset[SessionStatus]] = {
    SessionStatus.ACTIVE: _ENDS | {SessionStatus.PAUSED, SessionStatus.SUSPENDED},
    SessionStatus.PAUSED: _ENDS | {SessionStatus.ACTIVE, SessionStatus.SUSPENDED},
    SessionStatus.SUSPENDED: _ENDS | {SessionStatus.ACTIVE},
    SessionStatus.FAILED: _ENDS - {SessionStatus.FAILED} | {SessionStatus.ACTIVE},
    SessionStatus.COMPLETED: frozenset(),
    SessionStatus.CANCELLED: frozenset(),
}

#: status of a session without a kernel -> what helps
HELPS = {
    SessionStatus.SUSPENDED: "run_python_code and resume_session bring it back",
    SessionStatus.FAILED: "resume_session brings it back",
    SessionStatus.COMPLETED: "create_session with another id makes a new one",
    SessionStatus.CANCELLED: "create_session with another id makes a new one",
}


def changed(record: SessionRecord, to: SessionStatus, reason: str = "") -> SessionRecord:
    """Return a session's record with another status.

    Args:
        record: As it is.
        to: The status.
        reason: Why.

    Raises:
        TransitionError: It may not have that after the one that it has.
    """
    check(record, to)
    ended_at = now() if to in _ENDS else None
    return replace(record, status=to, reason=reason, ended_at=ended_at)


def check(record: SessionRecord, to: SessionStatus) -> None:
    """Refuse a status that a session may not have after the one that it has.

    Raises:
        TransitionError: With what it may have.
    """
    allowed = ALLOWED[record.status]
    if to not in allowed:
        ways = ", ".join(sorted(allowed))
        way = f"it can become {ways}" if ways else "that is final; create another session"
        raise TransitionError(f"session '{record.id}' is {record.status} and can't be {to}: {way}")


class Opening:
    """Somebody resumes a session.

    Args:
        by: Who.
    """

    def __init__(self, by: str) -> None:
        self.by = by
        self.since = datetime.now(UTC)
        self.over = asyncio.Event()
