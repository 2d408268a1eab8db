"""What is done before and after each execution so that it can be undone.

A session's executions know that somebody does it; who does knows sessions (checkpoints/rewinds.py).
"""

from typing import Protocol

from kernelry.session.run import Run


class Undoer(Protocol):
    """Sees to it that executions can be undone."""

    async def before(self, session_id: str, run: Run) -> str:
        """Get ready before an execution is sent; return why it must not be, empty: it may."""
        ...

    async def after(self, session_id: str, run: Run) -> None:
        """Undo an execution that has ended, if that was asked for; its outcome is not told yet."""
        ...


class Undoing:
    """Who does it; nobody, until somebody is named."""

    def __init__(self) -> None:
        #: who
        self.by: Undoer | None = None

    async def before(self, session_id: str, run: Run) -> str:
        """See `Undoer`."""
        return await self.by.before(session_id, run) if self.by else ""

    async def after(self, session_id: str, run: Run) -> None:
        """See `Undoer`."""
        if self.by is not None:
            await self.by.after(session_id, run)
