"""Output that comes after its execution has ended: what a thread prints, an update of a display.

The newest executions of a session are kept in memory; what is heard for one of them later is
added to it, written down when it has been quiet for a moment, and told with the next execution's
end: nobody looks again at what has ended.
"""

import asyncio
from collections import OrderedDict

from kernelry import bounds
from kernelry.messaging import Message
from kernelry.session.run import NOTE, Run
from kernelry.session.services import Services

REMEMBERED_RUNS = 8  # finished executions that late output is still added to
NAMED = 3  # executions that are told of at once
LINE_CHARS = 80  # of a line that is told
WRITE_DELAY = 0.5  # seconds in which late output is gathered before it is stored


class LateOutput:
    """The newest finished executions of one session."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._unwritten: set[str] = set()
        self._untold: dict[str, Run] = {}

    def find(self, execution_id: str) -> Run | None:
        """Return an execution, if it is among the newest."""
        return self._runs.get(execution_id)

    @property
    def runs(self) -> tuple[Run, ...]:
        """All of them, the oldest first."""
        return tuple(self._runs.values())

    def remember(self, run: Run) -> None:
        """Take a finished execution; the oldest one is forgotten."""
        self._runs[run.id] = run
        while len(self._runs) > REMEMBERED_RUNS or (
            len(self._runs) > 1
            and sum(run.fold.size for run in self._runs.values()) > bounds.REMEMBERED_BYTES
        ):
            self._runs.popitem(last=False)

    def hear(self, message: Message) -> None:
        """Add what was published for an execution that has ended."""
        run = self._runs.get(message["parent_id"])
        if run is None or message["msg_type"] == "status":
            return
        if message["msg_type"] == NOTE:
            run.note(message)
            return
        if not run.hear_late(message):
            return
        self._untold[run.id] = run
        if run.id not in self._unwritten:
            self._unwritten.add(run.id)
            self._services.spawn(self._write(run), name=f"late output {run.id}")

    def news(self) -> str:
        """Say, once, which executions have put something out since they ended."""
        untold = list(self._untold.values())
        self._untold.clear()
        told = [
            f"Execution {run.id} has output since its end ({run.fold.last_line()[:LINE_CHARS]!r}): "
            "get_execution reads it."
            for run in untold[-NAMED:]
        ]
        more = len(untold) - NAMED
        return " ".join([*told, *([f"So have {more} more."] if more > 0 else [])])

    async def _write(self, run: Run) -> None:
        await asyncio.sleep(WRITE_DELAY * (1 + run.fold.size / bounds.MIB))  # all is written again
        self._unwritten.discard(run.id)
        await self._services.store.finish_execution(run.snapshot())
