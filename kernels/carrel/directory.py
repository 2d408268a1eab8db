"""The sessions that a service has, found by id, by what they are, and by who asks.

A caller that names no session means its own default: the one that it switched to last.
"""

import fnmatch
from collections.abc import Iterator, Mapping, Sequence

from carrel.errors import SessionNotFoundError
from carrel.models import SessionStatus
from carrel.run import Run
from carrel.session import DEFAULT, Session

NAMED_IDS = 20  # ids that "unknown session" lists


class Directory:
    """The sessions that there are."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._switched: dict[str, str] = {}  # caller -> its default

    def get(self, session_id: str) -> Session:
        """Return a session.

        Raises:
            SessionNotFoundError: There is none of this id; the message names those there are.
        """
        session = self._sessions.get(session_id)
        if session is None:
            known = sorted(self._sessions)
            listing = ", ".join(known[:NAMED_IDS]) + (" ..." if len(known) > NAMED_IDS else "")
            shown = repr(session_id if len(session_id) <= 64 else session_id[:64] + "...")
            msg = f"no session {shown}. There are: {listing}. create_session makes one."
            raise SessionNotFoundError(msg)
        return session

    def list(
        self,
        *,
        status: SessionStatus | None = None,
        tags: tuple[str, ...] = (),
        name: str = "",
        parent: str | None = None,
        limit: int | None = None,
    ) -> Sequence[Session]:
        """Return sessions in the order of their creation; `default` comes first.

        Args:
            status: Only those with this status.
            tags: Only those with all of these tags.
            name: Only those whose id matches this glob.
            parent: Only those that were made for this session.
            limit: At most so many.
        """
        found = [
            session
            for session in self._sessions.values()
            if (status is None or session.record.status is status)
            and set(tags) <= set(session.record.tags)
            and (not name or fnmatch.fnmatchcase(session.id, name))
            and (parent is None or session.record.parent_session_id == parent)
        ]
        found.sort(key=lambda s: (s.id != DEFAULT, s.record.created_at, s.id))
        return found[:limit]

    def children(self) -> Mapping[str, Sequence[str]]:
        """Return which sessions were made for which: parent -> ids."""
        found: dict[str, list[str]] = {}
        for session in self._sessions.values():
            if parent := session.record.parent_session_id:
                found.setdefault(parent, []).append(session.id)
        return found

    def ancestors(self, session_id: str) -> Iterator[str]:
        """Yield a session's id, that of its parent, and so on."""
        while session_id:
            yield session_id
            session = self._sessions.get(session_id)
            session_id = session.record.parent_session_id if session else ""

    def current_id(self, caller: str) -> str:
        """Return the id that `caller` means when it names none."""
        switched = self._switched.get(caller, DEFAULT)
        return switched if switched in self._sessions else DEFAULT

    def find(self, caller: str, session_id: str | None) -> Session:
        """Return the session that `caller` means.

        Raises:
            SessionNotFoundError: There is none of that id.
        """
        return self.get(self.current_id(caller) if session_id is None else session_id)

    def live_run(self, execution_id: str) -> tuple[Session, Run] | None:
        """Return an execution that is queued, running or just finished."""
        for session in self._sessions.values():
            if run := session.find(execution_id):
                return session, run
        return None
