"""Read the log of events from the database's file, beside a server that may be running."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from kernelry.errors import StoreError
from kernelry.events.log import event_of
from kernelry.models import Event
from kernelry.store import Statements

PAGE = 1000  # events read at once


def read_events(
    database: Path, *, since: int = 0, topics: Sequence[str] = (), sessions: Sequence[str] = ()
) -> Iterator[Event]:
    """Yield the events after number `since`, in their order; changes nothing.

    Args:
        database: The file.
        since: A number, 0 for all.
        topics: Globs of which one must match; none: all.
        sessions: Only of these; none: all.

    Raises:
        StoreError: The file is not there, or can't be read.
    """
    if not database.exists():
        raise StoreError(f"there is no {database}; no server has used this state directory yet")
    try:
        address = f"file:{quote(str(database))}?mode=ro"
        with closing(sqlite3.connect(address, uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            statements = Statements(lambda: connection)
            wanted = {"topics": json.dumps(list(topics)), "sessions": json.dumps(list(sessions))}
            while True:
                page = {**wanted, "since": since, "limit": PAGE}
                found = [event_of(row) for row in statements.execute("events", page)]
                yield from found
                if len(found) < PAGE:
                    return
                since = found[-1].seq
    except sqlite3.Error as error:
        raise StoreError(f"can't read {database}: {error}") from error
