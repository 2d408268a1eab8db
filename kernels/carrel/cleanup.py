"""Which sessions a clean-up deletes. Pure: it looks and decides, and does nothing."""

from collections.abc import Iterable
from dataclasses import dataclass

from carrel.session import Session

BUSY = "it runs code or is about to"
DEFAULT_STAYS = "it is the default session"


@dataclass(slots=True)
class CleanUpReport:
    """What a clean-up did, or would do."""

    #: sessions that went
    deleted: list[str]
    #: session -> why it stays though it was named, or is old enough
    kept: dict[str, str]
    #: private directories of no session that went
    removed: list[str]
    #: whether it only said so
    dry_run: bool = False


def choose(
    sessions: Iterable[Session], *, older_than: float | None, is_named: bool
) -> tuple[list[Session], dict[str, str]]:
    """Return the sessions to delete, and why some of those that were meant stay.

    Args:
        sessions: Those that come into question.
        older_than: Seconds that a session must have been idle; None: age does not matter.
        is_named: Whether somebody named them; if not, and no age is given, none is chosen.
    """
    chosen: list[Session] = []
    kept: dict[str, str] = {}
    for session in sessions:
        if older_than is None and not is_named:
            continue
        if older_than is not None and session.idle_seconds < older_than:
            if is_named:
                kept[session.id] = f"it was used {session.idle_seconds:.0f} s ago"
        elif session.id == "default":
            if is_named:
                kept[session.id] = DEFAULT_STAYS
        elif session.is_busy:
            kept[session.id] = BUSY
        else:
            chosen.append(session)
    return chosen, kept
