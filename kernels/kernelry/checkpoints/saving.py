"""What a kernel is asked to save its namespace, and to put one back; and how that ends early."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress

import anyio

from kernelry.engines import LocalKernel
from kernelry.errors import CheckpointError, KernelDeadError, KernelSilentError
from kernelry.messaging import Message
from kernelry.models import LeftOut

SAVE_DEADLINE = 900.0  # seconds for a kernel to write its namespace
RESTORE_DEADLINE = 900.0  # seconds to read one
ABANDON_DEADLINE = 2.0  # seconds to end either when nobody wants it any more


async def begin(kernel: LocalKernel, save_id: str, path: str) -> float:
    """Have a kernel fork a child that saves its namespace; return the seconds that took.

    Raises:
        KernelDeadError: It ended.
        CheckpointError: It could not, or did not in time.
    """
    content = {"id": save_id, "path": path}
    return float((await ask(kernel, "kernelry_checkpoint", content, SAVE_DEADLINE))["blocked"])


async def finish(kernel: LocalKernel, save_id: str) -> Message:
    """Wait for the end of a save, and return what the child says of it.

    Raises:
        KernelDeadError: The kernel ended.
        CheckpointError: The namespace was not saved.
    """
    try:
        outcome: Message = await kernel.request("saved", deadline=SAVE_DEADLINE, id=save_id)
    except KernelSilentError as error:
        raise what_happened(kernel, error) from error
    if "error" in outcome:
        raise CheckpointError(f"nothing was saved: {outcome['error']}.")
    return outcome


@asynccontextmanager
async def abandoning(kernel: LocalKernel, save_id: str) -> AsyncIterator[None]:
    """End a save that does not come to its end."""
    try:
        yield
    except BaseException:
        with anyio.CancelScope(shield=True), suppress(KernelSilentError):
            await kernel.request("abandon", deadline=ABANDON_DEADLINE, id=save_id)
        raise


async def ask(kernel: LocalKernel, what: str, content: Message, deadline: float) -> Message:
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
        raise CheckpointError(f"the kernel could not: {reply.get('error')}.")
    answer: Message = reply["answer"]
    return answer


async def restore(kernel: LocalKernel, content: Message) -> Message:
    """Have a kernel restore a file; whoever is cancelled stops it before the next cell begins."""
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


def left_out(found: Iterable[Message]) -> tuple[LeftOut, ...]:
    """Return what a kernel says was left out."""
    return tuple(
        LeftOut(name=str(i["name"]), type=str(i["type"]), reason=str(i["reason"])) for i in found
    )
