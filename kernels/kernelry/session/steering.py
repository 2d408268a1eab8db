"""Pause, resume and stop what runs in a session, from outside, at its safe points.

The request goes to the kernel and stays there: a server that comes later finds it. Nothing
is forced; code that comes to no safe point goes on (`Session.interrupt` is for that).
"""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

from kernelry import bounds
from kernelry.errors import ConflictError, KernelSilentError
from kernelry.messaging import understood
from kernelry.models import Steered
from kernelry.output import taking
from kernelry.session.run import Run
from kernelry.session.session import Session
from kernelry.specs import check_text

ASK_DEADLINE = 2.0  # seconds a kernel has to take a request
NATIVE = (
    "it is in native code and did not answer; the request waits there and may still be taken. "
    "Look at get_execution, or interrupt_execution"
)


async def steer(session: Session, action: str, *, by: str, wait: float) -> Steered:
    """Ask the execution that runs in a session to pause, resume or stop.

    Args:
        session: Where.
        action: "pause", "resume" or "stop".
        by: Who asks, for whoever asks next.
        wait: Seconds to wait for it to take effect.

    Raises:
        ConflictError: Nothing runs, somebody asked before, or there is nothing to resume.
        KernelSilentError: The kernel could not be asked.
    """
    run, kernel = session.current, session.kernel
    if run is None or kernel is None:
        msg = f"nothing runs in session '{session.id}', so there is nothing to {action}"
        raise ConflictError(msg)
    at = time.time()
    asked = {"msg_id": run.id, "action": action, "by": by, "at": at}
    try:
        answer = await kernel.request("ask", deadline=ASK_DEADLINE, **asked)
    except KernelSilentError as error:
        raise KernelSilentError(f"session '{session.id}': {NATIVE}") from error
    with understood("ask"):
        if not answer["done"]:
            raise ConflictError(refusal(session, action, answer))
    state = await _effect(run, action, wait)
    when = datetime.fromtimestamp(at, UTC)
    return Steered(execution_id=run.id, action=action, state=state, by=by, at=when)


async def answer(session: Session, run: Run, text: str) -> bool:
    """Answer what an execution asks; say whether that was in time.

    Raises:
        InvalidArgumentError: The text can't be sent.
        ConflictError: It asks nothing.
        KernelSilentError: The kernel could not be told.
    """
    check_text("the answer", text)
    question = run.execution.question
    if question is None or session.kernel is None:
        raise ConflictError(f"execution {run.id} asks nothing now; it is {run.execution.status}")
    told = {"question": question.id, "text": text}
    taken = await session.kernel.request("answer", deadline=ASK_DEADLINE, **told)
    with understood("answer"):
        done = bool(taken["done"])
    if done and run.execution.question is question:
        run.ask(None)  # the kernel's own word for it is on its way
    return done


def refusal(session: Session, action: str, answer: dict[str, Any]) -> str:
    """Say why a request was not taken.

    Raises:
        KeyError, TypeError, ValueError, OverflowError: The kernel does not say.
    """
    if answer.get("over"):
        return f"the execution in session '{session.id}' has just ended"
    pending = answer["pending"]
    if pending is None:
        return f"session '{session.id}' is not paused: its execution runs"
    when = datetime.fromtimestamp(pending["at"], UTC).isoformat(timespec="seconds")
    who = f"{taking.line(pending['by'], bounds.NOTE_CHARS)} asked at {when}"
    if pending["action"] == "stop":
        return f"session '{session.id}' is about to stop: {who}. It ends at its next safe point."
    if answer["held"]:
        return f"session '{session.id}' is paused already: {who}. resume_execution goes on."
    return (
        f"session '{session.id}' is about to pause: {who}, and it has come to no safe point yet. "
        "resume_execution takes that back."
    )


async def _effect(run: Run, action: str, wait: float) -> str:
    """Wait for what was asked; say how it is then."""

    def state() -> str:
        if run.done.is_set():
            return "stopped" if action == "stop" else "ended"
        held = run.held_since is not None
        return {
            "pause": "paused" if held else "requested",
            "resume": "requested" if held else "running",
            "stop": "requested",
        }[action]

    try:
        async with asyncio.timeout(wait):
            while state() == "requested":
                waiting = [asyncio.ensure_future(e.wait()) for e in (run.changed, run.done)]
                try:
                    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for task in waiting:
                        task.cancel()
    except TimeoutError:
        pass
    return state()
