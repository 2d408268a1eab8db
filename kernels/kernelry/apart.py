"""Work whose size a session decides, done apart: in a share of threads for each session.

Its threads are daemons: what does not come to its end holds up its own session, never another
one, nor the end of the server.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from kernelry import bounds
from kernelry.errors import SessionBusyError

T = TypeVar("T")


@dataclass(slots=True)
class Line:
    """What one owner has to be done."""

    #: when something of it was begun or done the last time, of the event loop's clock
    moved: float
    #: threads that work
    active: int = 0
    #: who waits for one
    waiting: "deque[asyncio.Future[None]]" = field(default_factory=deque)


class Apart:
    """Does work in threads, a few at a time for each owner.

    Args:
        most: Threads of one owner.
    """

    def __init__(self, most: int = bounds.WORKERS) -> None:
        self._most = most
        self._lines: dict[str, Line] = {}

    async def run(
        self, owner: str, work: Callable[..., T], *args: Any, seconds: float = bounds.WORK_SECONDS
    ) -> T:
        """Do something in a thread of an owner's share; return what it returns.

        A caller that is cancelled, or gives up, leaves it to itself.

        Args:
            owner: Whose share: a session.
            work: What.
            args: With what.
            seconds: How long the caller waits, for its turn and for the work.

        Raises:
            SessionBusyError: Much of this owner waits and nothing gets done, or it took longer.
        """
        line = self._lines.setdefault(owner, Line(asyncio.get_running_loop().time()))
        try:
            async with asyncio.timeout(seconds):
                await self._take_turn(line, owner)
                return await asyncio.shield(self._start(line, owner, work, args))
        except TimeoutError:
            msg = f"what session '{owner}' left takes longer than {seconds:g} s to be read"
            raise SessionBusyError(msg) from None

    async def _take_turn(self, line: Line, owner: str) -> None:
        loop = asyncio.get_running_loop()
        if line.active < self._most:
            line.active += 1
            line.moved = loop.time()
            return
        # A long line that moves is what a client of many requests makes, and no fault.
        stands_still = loop.time() - line.moved >= bounds.WORK_STILL
        if len(line.waiting) >= bounds.WORK_WAITING and stands_still:
            msg = f"session '{owner}' keeps the server busy with what it left: too much waits"
            raise SessionBusyError(msg)
        turn: asyncio.Future[None] = loop.create_future()
        line.waiting.append(turn)
        try:
            await turn
        except BaseException:
            if turn.cancelled():
                line.waiting.remove(turn)
            else:  # it was our turn by then
                self._end_turn(line, owner)
            raise

    def _end_turn(self, line: Line, owner: str) -> None:
        line.moved = asyncio.get_running_loop().time()
        while line.waiting:
            turn = line.waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        line.active -= 1
        if not line.active:
            self._lines.pop(owner, None)

    def _start(
        self, line: Line, owner: str, work: Callable[..., T], args: tuple[Any, ...]
    ) -> "asyncio.Future[T]":
        doing = in_thread(work, *args, name=f"work of {owner}")
        doing.add_done_callback(lambda _: self._end_turn(line, owner))
        return doing


def in_thread(work: Callable[..., T], *args: Any, name: str = "work") -> "asyncio.Future[T]":
    """Do something in a daemon thread of its own; return what will have its result."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(result)  # type: ignore[arg-type]
        else:
            done.set_exception(error)
            done.exception()  # nobody may wait for it any more

    def do() -> None:
        result: T | None = None
        error: BaseException | None = None
        try:
            result = work(*args)
        except BaseException as raised:  # whoever waits gets it
            error = raised
        try:
            loop.call_soon_threadsafe(tell, result, error)
        except RuntimeError:  # the server has ended meanwhile
            return

    threading.Thread(target=do, name=name, daemon=True).start()
    return done
