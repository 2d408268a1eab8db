"""What was run: every execution of every session, found by its text, also of sessions gone.

A text filter finds what has all of its words, as words or beginnings of words, in any order
and in upper or lower case. Filters are ANDed. The newest comes first.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from kernelry import bounds
from kernelry.errors import ExecutionNotFoundError, InvalidArgumentError, SessionNotFoundError
from kernelry.models import Execution, ExecutionStatus, SessionRecord
from kernelry.store import Statements, Store, rows

WORD = re.compile(r"\w+")
WORDS = 32  # of one filter
SEARCHED = 50_000  # executions whose output is looked through, the newest that have any
FAR = datetime(9999, 1, 1, tzinfo=UTC)
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """What executions to look for; an empty filter lets all through."""

    #: words in the code
    code_text: str = ""
    #: words in the code of the execution that the session was made for
    parent_code_text: str = ""
    #: words in the session's description
    description_text: str = ""
    #: words in the error: its class, what it said, the traceback
    error_text: str = ""
    #: words in what it put out: the ends of a long text, of the newest 50,000
    output_text: str = ""
    #: a file that it wrote, below the workspace; a glob
    wrote: str = ""
    #: in these sessions; globs
    session_ids: Sequence[str] = ()
    #: with one of these statuses
    statuses: Sequence[ExecutionStatus] = ()
    #: asked for at that time or later
    since: datetime | None = None
    #: asked for before that time
    until: datetime | None = None


class History:
    """The executions of one service.

    Args:
        store: Keeps them.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def search(
        self, wanted: Search, *, limit: int = 50, offset: int = 0
    ) -> Sequence[Execution]:
        """Return executions that match, the newest first, without their outputs.

        Args:
            wanted: What to look for.
            limit: At most so many.
            offset: Without the first so many.

        Raises:
            InvalidArgumentError: A text filter has no word, or too many.
        """
        values = {
            "code": match("code", "code_text", wanted.code_text),
            "error": match("error", "error_text", wanted.error_text),
            "output": json.dumps(words("output_text", wanted.output_text), ensure_ascii=False),
            "results": SEARCHED,
            "wrote": wanted.wrote,
            "parent": match("code", "parent_code_text", wanted.parent_code_text),
            "description": json.dumps(words("description_text", wanted.description_text)),
            "sessions": json.dumps(list(wanted.session_ids)),
            "statuses": json.dumps([status.value for status in wanted.statuses]),
            "since": (wanted.since or LONG_AGO).timestamp(),
            "until": (wanted.until or FAR).timestamp(),
            "limit": limit,
            "offset": offset,
        }

        def read(statements: Statements) -> list[Execution]:
            return [rows.execution(row, ()) for row in statements.execute("search", values)]

        return await self._store.read(read)

    async def results(self, execution_ids: Sequence[str]) -> dict[str, str]:
        """Return the last line that executions have put out, by id; none: nothing."""
        values = {"ids": json.dumps(list(execution_ids))}

        def read(statements: Statements) -> dict[str, str]:
            return {
                row["id"]: row["line"].strip().rpartition("\n")[2]
                for row in statements.execute("results", values)
            }

        return await self._store.read(read)

    async def check_names(self, session_ids: Sequence[str]) -> None:
        """Refuse names of sessions, or globs, that nothing is known of.

        Raises:
            SessionNotFoundError: There is one.
        """
        wanted = {"sessions": json.dumps(list(session_ids))}

        def read(statements: Statements) -> list[str]:
            return [row[0] for row in statements.execute("unknown_sessions", wanted)]

        if unknown := await self._store.read(read):
            msg = f"no session {unknown[0][:64]!r}; list_sessions names them, globs are taken"
            raise SessionNotFoundError(msg)

    async def matching(self, globs: Sequence[str]) -> list[str]:
        """Return the ids of sessions that globs name, in the order of the globs.

        Raises:
            SessionNotFoundError: One names none.
        """
        await self.check_names(globs)

        def read(statements: Statements) -> list[str]:
            found = (
                row["id"]
                for glob in globs
                for row in statements.execute("matching_sessions", {"glob": glob})
            )
            return list(dict.fromkeys(found))

        return await self._store.read(read)

    async def session(self, session_id: str) -> SessionRecord:
        """Return the record of a session, also of one that is deleted and whose history is kept.

        Raises:
            SessionNotFoundError: There is none.
        """

        def read(statements: Statements) -> SessionRecord | None:
            row = statements.execute("session_record", {"id": session_id}).fetchone()
            return rows.session_record(row) if row else None

        found = await self._store.read(read)
        if found is None:
            msg = f"no session {session_id[:64]!r}; list_sessions and search_executions name them"
            raise SessionNotFoundError(msg)
        return found

    async def execution(self, session_id: str, index: int) -> Execution:
        """Return an execution by its number in its session.

        Raises:
            ExecutionNotFoundError: There is none.
        """
        values = {"id": session_id, "index": min(index, bounds.COUNT)}

        def read(statements: Statements) -> str:
            row = statements.execute("execution_by_index", values).fetchone()
            return str(row["id"]) if row else ""

        found = await self._store.read(read)
        execution = await self._store.execution(found) if found else None
        if execution is None:
            msg = f"session {session_id[:64]!r} has no execution {str(index)[:20]}"
            raise ExecutionNotFoundError(msg)
        return execution

    async def executions(self, session_id: str) -> list[Execution]:
        """Return all executions of a session in their order, with outputs."""
        return await self._store.executions(session_id)


def words(name: str, text: str) -> list[str]:
    """Return the words of a filter, in lower case.

    Raises:
        InvalidArgumentError: There is text and no word in it, or there are too many.
    """
    found = [word.lower() for word in WORD.findall(text)]
    if text.strip() and not found:
        raise InvalidArgumentError(f"{name}: {text[:40]!r} has no letter or digit to look for")
    if len(found) > WORDS:
        raise InvalidArgumentError(f"{name}: at most {WORDS} words, not {len(found)}")
    return found


def match(column: str, name: str, text: str) -> str:
    """Return what SQLite's FTS5 understands for a text filter on a column; empty: no filter.

    Args:
        column: Which.
        name: The filter's.
        text: What is looked for.

    Raises:
        InvalidArgumentError: It can't be looked for.
    """
    found = words(name, text)
    return f"{{{column}}} : (" + " AND ".join(f'"{word}"*' for word in found) + ")" if found else ""
