"""The statements of the store's .sql files, by name, on one connection.

Each file holds the statements of one kind of record. They are run in the store's thread, by
`Store` and by whoever hands work to `Store.read` and `Store.commit`.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from importlib import resources
from typing import Any

Values = dict[str, Any]


def _load() -> dict[str, str]:
    statements: dict[str, str] = {}
    for name, text in _texts("sql"):
        for part in text.split("-- name: ")[1:]:
            key, _, statement = part.partition("\n")
            if statements.setdefault(key.strip(), statement.strip()) != statement.strip():
                raise AssertionError(f"{name} has another statement {key.strip()}")
    return statements


def _texts(folder: str) -> Iterator[tuple[str, str]]:
    found = resources.files("kernelry.store").joinpath(folder)
    for file in sorted(found.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".sql"):
            yield file.name, file.read_text(encoding="utf-8")


def migrations() -> list[str]:
    """Return the scripts that make the schema, the oldest first."""
    return [text for _, text in _texts("migrations")]


_STATEMENTS = _load()


class Statements:
    """What can be asked of the database, and the log of events in it.

    Args:
        connection: Returns the connection that is open now.
    """

    def __init__(self, connection: Callable[[], sqlite3.Connection]) -> None:
        self._connection = connection
        #: when the change was asked for that is being written, in seconds since the epoch
        self.at = 0.0

    @staticmethod
    def all() -> Iterable[str]:
        """Return every statement; a file that does not understand one is not ours."""
        return _STATEMENTS.values()

    def execute(self, name: str, values: Values | None = None) -> sqlite3.Cursor:
        """Run a statement."""
        return self._connection().execute(_STATEMENTS[name], values or {})

    def execute_many(self, name: str, values: Iterable[Values]) -> None:
        """Run a statement once for each of `values`."""
        self._connection().executemany(_STATEMENTS[name], values)

    def event(
        self,
        type: str,
        session_id: str = "",
        execution_id: str = "",
        data: object = None,
        key: str | None = None,
    ) -> None:
        """Write down that something happened; once, if it has a key."""
        self.execute(
            "insert_event",
            {
                "at": self.at,
                "type": type,
                "session_id": session_id,
                "execution_id": execution_id,
                "data": json.dumps({} if data is None else data),
                "key": key,
            },
        )
