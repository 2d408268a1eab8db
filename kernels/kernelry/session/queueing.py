"""What waits in a session: executions, and turns of what is none."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

from kernelry.errors import IdTakenError, StoreError
from kernelry.models import Execution, OnError, SessionRecord, short_id
from kernelry.session.run import Run


class Turn:
    """A place in the queue for what is no execution: nothing runs while somebody has it."""

    def __init__(self) -> None:
        #: from here on
        self.granted = asyncio.Event()
        #: until here
        self.over = asyncio.Event()


class Hold:
    """Who has a session's kernel, to start, end or replace it; one at a time."""

    def __init__(self) -> None:
        #: held by whoever does
        self.lock = asyncio.Lock()
        self._enders = 0

    @property
    def is_ending(self) -> bool:
        """Say whether somebody ends the kernel, or waits to."""
        return self._enders > 0

    @asynccontextmanager
    async def to_end(self) -> AsyncIterator[None]:
        """Have the kernel to end it; from here on nobody puts another in its place."""
        self._enders += 1
        try:
            async with self.lock:
                yield
        finally:
            self._enders -= 1


def asked(
    record: SessionRecord, code: str, timeout: float | None, note: str, on_error: OnError
) -> Execution:
    """Return the next execution of a session."""
    return Execution(
        id=short_id(),
        session_id=record.id,
        index=record.execution_count + 1,
        generation=record.generation,
        code=code,
        timeout=timeout,
        note=note,
        on_error=on_error,
    )


async def queued(
    execution: Execution, make: Callable[[Execution], Run], add: Callable[[Run], Awaitable[None]]
) -> Run:
    """Return an execution when it is written down and waits, by an id that no other has.

    Raises:
        StoreError: It can't be written down; it does not wait.
    """
    while True:
        run = make(execution)
        try:
            await add(run)
        except StoreError as error:
            if not isinstance(error.__cause__, IdTakenError):
                raise
            execution = replace(execution, id=short_id())
        else:
            return run
