"""Do something to its end, whoever is cancelled meanwhile: what must not be left half done."""

import asyncio
from collections.abc import Awaitable, Coroutine, Iterable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

import anyio

T = TypeVar("T")


async def to_the_end(work: Awaitable[T]) -> T:
    """Await something until it is over, and only then be cancelled, if we were meanwhile.

    anyio's shield keeps off the scopes around it, which cancel again and again; who cancels
    the task itself has to be kept off by a task of its own. What `work` raises or returns is
    lost when we are cancelled.
    """
    doing = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not doing.done():
            try:
                await asyncio.wait([doing])
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is None:
        return doing.result()
    if not doing.cancelled():
        doing.exception()  # else asyncio complains that nobody has looked at it
    raise cancelled


async def given_up(tasks: Iterable[asyncio.Task[Any]], seconds: float) -> list[Any]:
    """Wait so many seconds for tasks, cancel the rest; return results and exceptions."""
    waited = list(tasks)
    if waited:
        await asyncio.wait(waited, timeout=seconds)
    for task in waited:
        task.cancel()
    return await asyncio.gather(*waited, return_exceptions=True)


class Unfinished:
    """Work that goes on to its end, though nobody may wait for it any more."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __iter__(self) -> Iterator[asyncio.Task[Any]]:
        """Yield what goes on now."""
        return iter(tuple(self._tasks))

    def begin(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Begin something; whoever awaits it shields it."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what `work` returns; who is cancelled meanwhile leaves it to itself."""
        return await asyncio.shield(self.begin(work))


class AbandonedError(Exception):
    """Cancels the tasks of a group that nobody wants any more."""


async def abandon(tasks: asyncio.TaskGroup) -> None:
    """Cancel what was started in a group, as leaving it with an error does."""
    with suppress(BaseExceptionGroup):
        await tasks.__aexit__(AbandonedError, AbandonedError(), None)
