"""The turn of what happens to a session between two of its executions."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kernelry.errors import SessionBusyError
from kernelry.session import Session


@asynccontextmanager
async def turn(session: Session, patience: float | None, why: str) -> AsyncIterator[None]:
    """Have nothing run in a session meanwhile, behind what was asked for before.

    Args:
        session: Which.
        patience: Seconds to wait for that; None: as long as it takes.
        why: Why it has to be waited for.

    Raises:
        SessionBusyError: It took longer.
    """
    began = time.monotonic()
    waiting = True
    try:
        async with session.turn(patience):
            waiting = False
            yield
    except TimeoutError:
        if not waiting:
            raise
        msg = (
            f"session '{session.id}' runs code for {time.monotonic() - began:.0f} s already, and "
            f"{why}. Wait for the execution or interrupt it, then try again."
        )
        raise SessionBusyError(msg) from None
