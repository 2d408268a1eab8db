"""The log of what happened: append-only, each event with a number higher than those before.

The service's own events have topics that begin with the kind of thing that they are about
("session.created"); all other topics are free, for messages between sessions and clients.
Whoever follows the log asks for what came after a number, so nobody can miss an event for
being slow, and nobody who is slow keeps another waiting.
"""

import asyncio
import json
import sqlite3
from collections.abc import Sequence
from contextlib import suppress

from kernelry import bounds
from kernelry.errors import InvalidArgumentError
from kernelry.models import Event
from kernelry.store import Statements, Store, moment

#: how the topics of the service's own events begin (also in inside/session.py)
RESERVED = ("session.", "execution.", "kernel.", "server.", "context.", "checkpoint.", "artifact.")
TOPIC_CHARS = 200
DATA_BYTES = bounds.EVENT_BYTES  # of one event's data as JSON
NEWEST = -1  # as `since`: only what comes from now on
GATHER = 0.05  # seconds in which events are gathered for who waits for the next one


def check_topic(topic: str) -> str:
    """Return a topic that somebody may publish under.

    Raises:
        InvalidArgumentError: It is none.
    """
    if not 0 < len(topic) <= TOPIC_CHARS or not topic.isprintable():
        msg = f"a topic has 1 to {TOPIC_CHARS} printable characters, like 'training.epoch'"
        raise InvalidArgumentError(msg)
    if topic.startswith(RESERVED):
        msg = f"topics that begin with {', '.join(RESERVED)} are the server's own; choose another"
        raise InvalidArgumentError(msg)
    return topic


def check_data(data: object) -> None:
    """See to it that an event can carry `data`.

    Raises:
        InvalidArgumentError: It is nothing that JSON knows, or too large.
    """
    try:
        size = len(json.dumps(data, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"the data of an event must be JSON: {error}") from error
    if size > DATA_BYTES:
        msg = f"an event may have {DATA_BYTES} bytes of data, this has {size}: store an artifact"
        raise InvalidArgumentError(msg)


class Events:
    """The log of one service.

    Args:
        store: Keeps it.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def publish(
        self, topic: str, data: object = None, *, session_id: str = "", execution_id: str = ""
    ) -> int:
        """Write an event; return its number.

        Args:
            topic: What it is about.
            data: Anything that JSON knows, up to 64 KiB.
            session_id: Who publishes it; empty: nobody of ours.
            execution_id: Of which execution; empty: of none.

        Raises:
            InvalidArgumentError: The topic is reserved, or the data can't be kept.
            StoreError: It can't be written now.
        """
        check_topic(topic)
        check_data(data)

        def write(statements: Statements) -> int:
            statements.event(topic, session_id, execution_id, data)
            return newest(statements)

        return await self._store.commit(write)

    async def newest(self) -> int:
        """Return the number of the newest event; 0: there is none."""
        return await self._store.read(newest)

    async def latest(self, session_id: str, limit: int) -> list[Event]:
        """Return the newest events of a session, the oldest of them first."""
        values = {"session_id": session_id, "limit": limit}
        return await self._store.read(
            lambda statements: [
                event_of(row) for row in statements.execute("latest_events", values)
            ]
        )

    async def read(
        self,
        *,
        since: int = 0,
        topics: Sequence[str] = (),
        sessions: Sequence[str] = (),
        limit: int = 100,
        wait: float = 0,
    ) -> list[Event]:
        """Return events in their order.

        Args:
            since: Only those after this number; 0: from the first; -1: only what comes from now.
            topics: Only those whose topic matches one of these globs.
            sessions: Only those of these sessions; globs.
            limit: At most so many.
            wait: Seconds to wait for one if there is none yet.
        """
        if since == NEWEST:
            since = await self.newest()
        wanted = {
            "topics": json.dumps(list(topics)),
            "sessions": json.dumps(list(sessions)),
            "limit": limit,
        }

        def read(statements: Statements) -> list[Event]:
            return [
                event_of(row) for row in statements.execute("events", {**wanted, "since": since})
            ]

        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                while wait > 0:
                    changed = self._store.changed  # before we look: what comes then is no miss
                    if found := await self._store.read(read):
                        return found
                    await changed.wait()
                    await asyncio.sleep(GATHER)
        return await self._store.read(read)


def newest(statements: Statements) -> int:
    """Return the number of the newest event."""
    return int(statements.execute("newest_seq").fetchone()["seq"])


def event_of(row: sqlite3.Row) -> Event:
    """Return the event in a row."""
    at = moment(row["at"])
    assert at is not None
    return Event(
        seq=row["seq"],
        at=at,
        topic=row["type"],
        session_id=row["session_id"],
        execution_id=row["execution_id"],
        data=json.loads(row["data"]),
    )
