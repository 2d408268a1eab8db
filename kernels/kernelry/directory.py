"""The sessions that a service has, found by id, by what they are, and by who asks.

A caller that names no session means its own default: the one that it switched to last.
"""

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from kernelry.errors import SessionNotFoundError
from kernelry.selection import Selection
from kernelry.session import DEFAULT, Run, Session

EVERY_SESSION = Selection()
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

    def list(self, selection: Selection = EVERY_SESSION) -> Sequence[Session]:
        """Return sessions; unless told otherwise all, `default` first, then the oldest.

        Raises:
            InvalidArgumentError: The selection has text without a word in it.
        """
        return selection.of(self._sessions.values())

    def matching(self, names: Sequence[str]) -> Sequence[Session]:
        """Return the sessions of some ids or globs, each once.

        Raises:
            SessionNotFoundError: There is none of one of these; the message names those there are.
        """
        found: dict[str, Session] = {}
        for name in names:
            fitting = [s for s in self._sessions.values() if fnmatchcase(s.id, name)]
            found.update((session.id, session) for session in fitting or [self.get(name)])
        return [*found.values()]

    @property
    def count(self) -> int:
        """How many sessions there are."""
        return len(self._sessions)

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
        """Return the id that `caller` means when it names none.

        Somebody else may have deleted that session: it is gone then, not another one.
        """
        return self._switched.get(caller, DEFAULT)

    def leave(self, caller: str, session_id: str) -> None:
        """Have a caller mean `default` again if it meant this session."""
        if self._switched.get(caller) == session_id:
            del self._switched[caller]

    def find(self, caller: str, session_id: str | None) -> Session:
        """Return the session that `caller` means.

        Raises:
            SessionNotFoundError: There is none of that id, or not any more.
        """
        if session_id is not None:
            return self.get(session_id)
        current = self.current_id(caller)
        if current not in self._sessions:
            msg = (
                f"your default session '{current}' is gone: it was deleted. "
                "switch_session sets another, or name one by session_id."
            )
            raise SessionNotFoundError(msg)
        return self.get(current)

    def live_run(self, execution_id: str) -> tuple[Session, Run] | None:
        """Return an execution that is queued, running or just finished."""
        for session in self._sessions.values():
            if run := session.find(execution_id):
                return session, run
        return None
