"""A value of a session in depth, and completions; variables set from outside."""

from typing import Any

from kernelry import bounds
from kernelry.errors import ConflictError, InvalidArgumentError, KernelDeadError, KernelSilentError
from kernelry.messaging import understood
from kernelry.models import Look
from kernelry.output import taking
from kernelry.session import Session, inspection

PATIENCE = 0.5  # seconds to wait for what runs to end
LOOK_DEADLINE = 10.0  # seconds for a text of the user's own code, or completions
STOP_DEADLINE = 2.0  # seconds for it to end when it is interrupted


async def look(session: Session, name: str, complete: str) -> Look:
    """Return a value in depth, and what code may go on with; code of the user's may run for it.

    Args:
        session: Whose.
        name: A variable, or what is reached from one by dots; empty: none.
        complete: Code; empty: none.

    Raises:
        ConflictError: The session runs code.
        InvalidArgumentError: There is no such value, or it can't be looked at.
        KernelSilentError: It took too long, and was interrupted.
    """
    if len(name) > bounds.VARIABLE_CHARS or not all(p.isidentifier() for p in name.split(".") if p):
        raise InvalidArgumentError(f"name: {name[:60]!r} is no variable, like 'df' or 'df.columns'")
    kernel = await session.ensure_kernel()
    content = {"name": name, "complete": complete}
    try:
        async with session.turn(PATIENCE):
            reply = await kernel.channels.ask(
                "shell", "kernelry_look", content, deadline=LOOK_DEADLINE
            )
    except TimeoutError as error:
        msg = (
            f"session '{session.id}' runs code, and this needs it to be idle; list_variables "
            "without options tells what there is meanwhile"
        )
        raise ConflictError(msg) from error
    except KernelSilentError as error:
        kernel.interrupt()
        if kernel.process.exit is not None:
            raise KernelDeadError(f"the kernel ended meanwhile ({kernel.process.exit})") from error
        raise
    if reply.get("status") != "ok":
        raise InvalidArgumentError(taking.line(reply.get("error"), bounds.ERROR_CHARS))
    with understood("look"):
        answer = taking.table(reply["answer"])
        found = answer.get("variable")
        return Look(
            variable=inspection.variable(dict(taking.table(found))) if found else None,
            text=taking.words(answer.get("text", ""), bounds.LOOK_CHARS),
            matches=tuple(
                taking.line(match, bounds.VARIABLE_CHARS)
                for match in answer["matches"][: bounds.MATCHES]
            ),
        )


async def set_variables(session: Session, values: dict[str, Any]) -> None:
    """Set variables of a session that is idle, or held at a safe point.

    Args:
        session: Whose.
        values: Name -> a value that JSON knows.

    Raises:
        InvalidArgumentError: A name is none.
        ConflictError: It runs code that is not held.
        KernelSilentError: The kernel is in native code and can't be told now.
    """
    for name in values:
        if not name.isidentifier() or name.startswith("__"):
            raise InvalidArgumentError(f"variables: {name[:60]!r} can't be the name of one")
    kernel = await session.ensure_kernel()
    answer = await kernel.request(
        "set_variables", deadline=inspection.REQUEST_DEADLINE, values=values
    )
    with understood("set_variables"):
        if not answer["set"]:
            msg = (
                f"session '{session.id}' runs code: its variables can be set when it is idle or "
                "paused (pause_execution)"
            )
            raise ConflictError(msg)
    await session.note("session.updated", {"variables": sorted(values)})
