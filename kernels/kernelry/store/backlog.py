"""What could not be written yet, in the order it was asked for.

Bounded: intents (new sessions, new executions) are refused when `full`; outcomes of what
was admitted before are kept beyond that, in the end without their outputs, so that memory
stays bounded and an execution that ended is never shown as running. Reads are served from
here first: what waits is newer than what is on disk.
"""

import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace

from kernelry.models import Execution, SessionRecord

FULL_BYTES = 64 * 2**20  # of waiting changes, when no new work is taken
FULL_COUNT = 10_000  # waiting changes, likewise
HARD_BYTES = 4 * FULL_BYTES  # when outcomes are kept without their outputs
BASE_BYTES = 1000  # of a change besides what it shows
OUTPUTS_DROPPED = (
    "its output is lost: the state directory could not be written and too much was waiting"
)

Step = Callable[[], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One transaction: what to run, and what a reader shall see of it before it has run."""

    #: run in order, in one transaction; may be run again after a failure
    steps: tuple[Step, ...]
    #: whether it announces new work, which may be refused
    intent: bool = False
    #: the execution as it is after the change
    execution: Execution | None = None
    #: the session as it is after the change
    session: SessionRecord | None = None
    #: id of the session that it deletes
    deletes: str = ""
    #: makes the same change of an execution without outputs; None: it writes no outputs
    without_outputs: Callable[[Execution], tuple[Step, ...]] | None = None

    def __str__(self) -> str:
        if self.execution is not None:
            it = self.execution
            return f"execution {it.id} of session '{it.session_id}' is {it.status}"
        if self.session is not None:
            return f"session '{self.session.id}' is {self.session.status}"
        return f"session '{self.deletes}' is deleted" if self.deletes else "an event"

    @property
    def size(self) -> int:
        """Bytes of memory that it keeps from being freed, about."""
        return BASE_BYTES + footprint(self.execution) + footprint(self.session)

    def supersedes(self, other: "Change") -> bool:
        """Say whether `other`, which came before, need not be run: both write one outcome."""
        return (
            self.without_outputs is not None
            and other.without_outputs is not None
            and self.execution is not None
            and other.execution is not None
            and self.execution.id == other.execution.id
        )

    def bare(self) -> "Change":
        """Return the change without outputs, if it has some."""
        if self.execution is None or self.without_outputs is None:
            return self
        bare = replace(
            self.execution, outputs=(), outputs_complete=False, note=self._note(self.execution)
        )
        return replace(self, execution=bare, steps=self.without_outputs(bare))

    @staticmethod
    def _note(execution: Execution) -> str:
        return "; ".join(filter(None, [execution.note, OUTPUTS_DROPPED]))


class Backlog:
    """Changes that wait; the oldest is the next to be written."""

    def __init__(self) -> None:
        self._changes: deque[Change] = deque()
        self._sizes: deque[int] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._changes)

    def __iter__(self) -> Iterator[Change]:
        return iter(self._changes)

    @property
    def full(self) -> bool:
        """Whether no new work should be taken."""
        return self._bytes >= FULL_BYTES or len(self) >= FULL_COUNT

    def add(self, change: Change) -> None:
        """Put a change at the end; in the place of one that it makes superfluous."""
        place = next((i for i, old in enumerate(self._changes) if change.supersedes(old)), None)
        # A thread that goes on printing has its whole output written again and again.
        freed = 0 if place is None else self._sizes[place]
        if self._bytes - freed + change.size > HARD_BYTES:
            change = change.bare()
        self._bytes += change.size - freed
        if place is None:
            self._changes.append(change)
            self._sizes.append(change.size)
        else:
            self._changes[place], self._sizes[place] = change, change.size

    def first(self) -> Change:
        """Return the oldest change."""
        return self._changes[0]

    def drop_first(self) -> None:
        """Forget the oldest change."""
        self._changes.popleft()
        self._bytes -= self._sizes.popleft()

    def over_execution(self, execution_id: str, stored: Execution | None) -> Execution | None:
        """Return `stored` as it will be when everything is written; None: it will not be there."""
        found, gone = stored, False
        for change in self._changes:
            if found is not None and change.deletes == found.session_id:
                found, gone = None, True
            it = change.execution
            if it is not None and it.id == execution_id and not gone:
                found = it
        return found

    def executions(self, session_id: str) -> list[Execution]:
        """Return the executions of a session that wait, as their last changes leave them."""
        found: dict[str, Execution] = {}
        for change in self._changes:
            if change.deletes == session_id:
                found.clear()
            if change.execution is not None and change.execution.session_id == session_id:
                found[change.execution.id] = change.execution
        return list(found.values())

    def over_sessions(self, stored: list[SessionRecord]) -> list[SessionRecord]:
        """Return `stored` as it will be when everything is written."""
        found = {record.id: record for record in stored}
        for change in self._changes:
            found.pop(change.deletes, None)
            if change.session is not None:
                found[change.session.id] = change.session
            run = change.execution
            if run and change.intent and (known := found.get(run.session_id)):
                found[known.id] = replace(
                    known, execution_count=run.index, last_activity_at=run.created_at
                )
        return sorted(found.values(), key=lambda record: (record.created_at, record.id))

    def over_open_executions(self, stored: list[Execution]) -> list[Execution]:
        """Return `stored` as it will be when everything is written."""
        found = {execution.id: execution for execution in stored}
        for change in self._changes:
            if change.deletes:
                found = {k: v for k, v in found.items() if v.session_id != change.deletes}
            if change.execution is not None:
                found.pop(change.execution.id, None)
                if change.execution.ended_at is None:
                    found[change.execution.id] = change.execution
        return list(found.values())


def footprint(value: object) -> int:
    """Return about how many bytes of memory a value takes, with what is in it."""
    if isinstance(value, (str, bytes)):
        return sys.getsizeof(value)
    if isinstance(value, Mapping):
        return 64 + sum(footprint(key) + footprint(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return 64 + sum(footprint(item) for item in value)
    if is_dataclass(value):
        return sum(footprint(getattr(value, field.name)) for field in fields(value))
    return 32
