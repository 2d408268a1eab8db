"""Which sessions are meant by a list, and in which order they come."""

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from kernelry.history import words
from kernelry.models import SessionStatus
from kernelry.session import DEFAULT, Session


class Order(StrEnum):
    """What a list of sessions is sorted by."""

    #: `default`, then the oldest first
    CREATED = "created"
    #: the one that an execution last began or ended in first
    USED = "used"
    #: by id
    ID = "id"


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Which sessions are meant: those that fit all of this."""

    #: with this status; None: with any
    status: SessionStatus | None = None
    #: with all of these tags
    tags: tuple[str, ...] = ()
    #: glob that the id must match; empty: all do
    name: str = ""
    #: made for this session; None: for any, or none
    parent: str | None = None
    #: words that must all be in id or description, in upper or lower case
    text: str = ""
    #: how they are sorted
    order: Order = Order.CREATED

    def of(self, sessions: Iterable[Session]) -> list[Session]:
        """Return those sessions that are meant, in their order.

        Raises:
            InvalidArgumentError: There is text without a word in it.
        """
        wanted = words("text", self.text)
        return sorted(
            (session for session in sessions if self._fits(session, wanted)), key=KEYS[self.order]
        )

    def _fits(self, session: Session, wanted: list[str]) -> bool:
        record = session.record
        return (
            (self.status is None or record.status is self.status)
            and set(self.tags) <= set(record.tags)
            and (not self.name or fnmatch.fnmatchcase(record.id, self.name))
            and (self.parent is None or record.parent_session_id == self.parent)
            and (not wanted or _has_words(f"{record.id}\n{record.description}", wanted))
        )


KEYS = {
    Order.CREATED: lambda s: (s.id != DEFAULT, s.record.created_at, s.id),
    Order.USED: lambda s: (-s.record.last_activity_at.timestamp(), s.id),
    Order.ID: lambda s: s.id,
}


def _has_words(text: str, wanted: Iterable[str]) -> bool:
    lower = text.lower()
    return all(word in lower for word in wanted)
