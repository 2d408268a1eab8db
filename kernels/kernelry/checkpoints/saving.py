"""What a kernel is asked to save its namespace, and to put one back; and how that ends early."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import anyio

from kernelry import bounds
from kernelry.engines import LocalKernel
from kernelry.errors import CheckpointError, KernelDeadError, KernelSilentError
from kernelry.messaging import Message, understood
from kernelry.models import Checkpoint, LeftOut
from kernelry.output import taking
from kernelry.session import Session

SAVE_DEADLINE = 900.0  # seconds for a kernel to write its namespace
RESTORE_DEADLINE = 900.0  # seconds to read one
ABANDON_DEADLINE = 2.0  # seconds to end either when nobody wants it any more


@dataclass(frozen=True, slots=True)
class Begun:
    """A save that a kernel has begun."""

    #: what it will be
    checkpoint: Checkpoint
    #: whose namespace it is
    session: Session
    #: which kernel writes it
    kernel: LocalKernel


@dataclass(frozen=True, slots=True)
class Saved:
    """What a kernel says of a namespace that it has written."""

    #: which Python it was
    python: str
    #: names that were saved
    variables: tuple[str, ...]
    #: what was left out
    skipped: tuple[LeftOut, ...]


@dataclass(frozen=True, slots=True)
class Restored:
    """What a kernel says of a namespace that it has read."""

    #: names that it has now
    restored: tuple[str, ...]
    #: what could not be read
    failed: tuple[LeftOut, ...]
    #: what may be different
    warnings: tuple[str, ...]


def kernel_of(session: Session) -> LocalKernel:
    """Return the kernel that there is something to save of.

    Raises:
        KernelDeadError: There is none.
    """
    kernel = session.kernel
    if kernel is None or kernel.process.exit is not None:
        why = session.death or session.stopped_why or "it was not started yet"
        msg = f"session '{session.id}' has no kernel ({why}): there is nothing to save."
        raise KernelDeadError(msg)
    return kernel


async def begin(kernel: LocalKernel, save_id: str, path: str) -> float:
    """Have a kernel fork a child that saves its namespace; return the seconds that took.

    Raises:
        KernelDeadError: It ended.
        CheckpointError: It could not, or did not in time.
    """
    content = {"id": save_id, "path": path}
    answer = await ask(kernel, "kernelry_checkpoint", content, SAVE_DEADLINE)
    with understood("checkpoint", CheckpointError):
        blocked = float(answer["blocked"])
        if not 0 <= blocked <= SAVE_DEADLINE:
            raise ValueError("no time")
        return blocked


async def finish(kernel: LocalKernel, save_id: str) -> Saved:
    """Wait for the end of a save, and return what the child says of it.

    Raises:
        KernelDeadError: The kernel ended.
        CheckpointError: The namespace was not saved.
    """
    try:
        outcome: Message = await kernel.request("saved", deadline=SAVE_DEADLINE, id=save_id)
    except KernelSilentError as error:
        raise what_happened(kernel, error) from error
    with understood("saved", CheckpointError):
        if "error" in outcome:
            why = taking.line(outcome["error"], bounds.ERROR_CHARS)
            raise CheckpointError(f"nothing was saved: {why}.")
        return Saved(
            python=taking.line(outcome["python"], bounds.VARIABLE_CHARS),
            variables=names_in(outcome["variables"]),
            skipped=left_out(outcome["skipped"]),
        )


@asynccontextmanager
async def abandoning(kernel: LocalKernel, save_id: str) -> AsyncIterator[None]:
    """End a save that does not come to its end."""
    try:
        yield
    except BaseException:
        with anyio.CancelScope(shield=True), suppress(KernelSilentError):
            await kernel.request("abandon", deadline=ABANDON_DEADLINE, id=save_id)
        raise


async def ask(
    kernel: LocalKernel, what: str, content: Message, deadline: float
) -> Mapping[str, Any]:
    """Ask a kernel for something between two cells.

    Raises:
        KernelDeadError: It ended.
        CheckpointError: It could not, or did not in time.
    """
    try:
        reply = await kernel.channels.ask("shell", what, content, deadline=deadline)
    except KernelSilentError as error:
        raise what_happened(kernel, error) from error
    if reply.get("status") != "ok":
        why = taking.line(reply.get("error"), bounds.ERROR_CHARS)
        raise CheckpointError(f"the kernel could not: {why}.")
    with understood(what, CheckpointError):
        return taking.table(reply["answer"])


async def restore(kernel: LocalKernel, content: Message) -> Restored:
    """Have a kernel restore a file; whoever is cancelled stops it before the next cell begins."""
    told = await _restore(kernel, content)
    with understood("restore", CheckpointError):
        return Restored(
            restored=names_in(told["restored"]),
            failed=left_out(told["failed"]),
            warnings=tuple(
                taking.line(warning, bounds.ERROR_CHARS)
                for warning in told["warnings"][: bounds.LEFT_OUT]
            ),
        )


async def _restore(kernel: LocalKernel, content: Message) -> Mapping[str, Any]:
    asking = asyncio.ensure_future(ask(kernel, "kernelry_restore", content, RESTORE_DEADLINE))
    try:
        return await asyncio.shield(asking)
    except BaseException:
        if not asking.done():
            kernel.interrupt()
            with anyio.CancelScope(shield=True):
                await asyncio.wait([asking], timeout=ABANDON_DEADLINE)
        asking.cancel()
        raise


def what_happened(
    kernel: LocalKernel, error: KernelSilentError
) -> CheckpointError | KernelDeadError:
    """Return why a kernel did not answer."""
    if kernel.process.exit is not None:
        return KernelDeadError(f"the kernel ended meanwhile ({kernel.process.exit}).")
    return CheckpointError(f"{error}.")


def left_out(found: Sequence[Message]) -> tuple[LeftOut, ...]:
    """Return what a kernel says was left out.

    Raises:
        KeyError, TypeError, ValueError: It does not say so, or too much.
    """
    if len(found) > bounds.LEFT_OUT:
        raise ValueError(f"more than {bounds.LEFT_OUT} names left out")
    return tuple(
        LeftOut(
            name=taking.line(item["name"], bounds.VARIABLE_CHARS),
            type=taking.line(item["type"], bounds.VARIABLE_CHARS),
            reason=taking.line(item["reason"], bounds.ERROR_CHARS),
        )
        for item in found
    )


def names_in(found: Sequence[object]) -> tuple[str, ...]:
    """Return names that a kernel tells.

    Raises:
        TypeError, ValueError: It tells none, or too many.
    """
    if len(found) > bounds.SAVED_NAMES:
        raise ValueError(f"more than {bounds.SAVED_NAMES} names")
    return tuple(taking.line(name, bounds.VARIABLE_CHARS) for name in found)
