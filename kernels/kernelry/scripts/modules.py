"""A script as a module: which sessions have imported it, and whether they get it by its name."""

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from kernelry.errors import KernelSilentError
from kernelry.messaging import understood
from kernelry.models import ExecutionStatus, KernelState
from kernelry.output import taking
from kernelry.session import Run, Session

log = logging.getLogger(__name__)

ASK_DEADLINE = 1.0  # seconds a kernel has to say what it has imported
RELOAD_DEADLINE = 10.0  # seconds in which a module is loaded anew
PLACE_CHARS = 500  # of where another module of the name is
RELOAD = "import importlib, sys\nimportlib.reload(sys.modules[{name!r}])\nNone"


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of a module in the sessions that run."""

    #: those that have imported it from this file
    holders: tuple[Session, ...]
    #: what its name means in cells instead; "": this file
    instead: str


async def look(sessions: Iterable[Session], name: str, path: Path) -> Found:
    """Ask all kernels about a module.

    Args:
        sessions: Those to ask; those without a kernel have imported nothing.
        name: Of the module.
        path: Its file, absolute.
    """
    asked = [session for session in sessions if session.kernel is not None]
    answers = await asyncio.gather(*(ask(session, name, path) for session in asked))
    holders = [session for session, (holds, _) in zip(asked, answers, strict=True) if holds]
    instead = next((place for _, place in answers if place), "")
    if name in sys.stdlib_module_names:
        instead = "Python's own module"
    return Found(tuple(holders), instead)


async def ask(session: Session, name: str, path: Path) -> tuple[bool, str]:
    """Ask one kernel whether it has imported a module, and where else its name leads."""
    try:
        assert session.kernel is not None
        answer = await session.kernel.request(
            "module", deadline=ASK_DEADLINE, name=name, path=str(path)
        )
        with understood("module"):
            return answer["holds"] is True, taking.line(answer["instead"], PLACE_CHARS)
    except KernelSilentError as error:  # it is busy in native code, or ends
        log.warning("session %s does not say whether it has '%s': %s", session.id, name, error)
        return False, ""


async def reload(
    holders: Iterable[Session], name: str, run: Callable[[Session, str], Awaitable[Run]]
) -> list[Session]:
    """Load a module anew where nothing runs; return the sessions that have the new one.

    Args:
        holders: Sessions that have imported it.
        name: Of the module.
        run: Runs code in a session.
    """
    done: list[Session] = []
    for session in holders:
        if session.kernel_state is not KernelState.IDLE:
            continue
        execution = await run(session, RELOAD.format(name=name))
        await execution.wait(RELOAD_DEADLINE)
        if execution.snapshot().status is ExecutionStatus.COMPLETED:
            done.append(session)
    return done
