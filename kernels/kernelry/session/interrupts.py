"""Stop an execution: tell the kernel which, then SIGINT, SIGINT again, and see whether it ended.

A kernel that was told begins no further statement of it, whatever absorbs the signal (see
inside/steering/stopping.py).

More than that is a decision, not a signal: `Session.interrupt` with force restarts the
kernel.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from kernelry.engines import LocalKernel
from kernelry.errors import KernelSilentError
from kernelry.models import ExecutionStatus, InterruptReport, InterruptStep, OnError
from kernelry.session.run import Run

GRACES = (1.0, 2.0)  # seconds given to the first and the second SIGINT
BEGIN_DEADLINE = 0.5  # seconds an interrupt waits for the kernel to take the request up
BEGIN_DELAY = 0.005  # seconds from there to the user's code
TELL_DEADLINE = 0.3  # seconds a kernel has to hear which execution is to stop
PROBE_DEADLINE = 1.0  # seconds a kernel has to answer after an interrupt


async def interrupt(
    kernel: Callable[[], LocalKernel | None], run: Run, stack: Callable[[], Awaitable[str]]
) -> InterruptReport:
    """Interrupt an execution and say what came of it.

    Args:
        kernel: Returns where it runs; another one when it was rolled back.
        run: The execution.
        stack: Tells where its code is, should nothing work.
    """
    run.stop_as = run.stop_as or ExecutionStatus.INTERRUPTED
    step, where = await signal_until_ended(kernel(), run), ""
    if step is InterruptStep.NO_EFFECT:
        if run.stop_as is ExecutionStatus.INTERRUPTED:
            run.stop_as = None  # should it end later, it was not this that ended it
        where = await stack()
    else:
        await run.done.wait()
    return InterruptReport(
        step=step, execution_id=run.id, responsive=await answers(kernel()), stack=where
    )


async def signal_until_ended(kernel: LocalKernel | None, run: Run) -> InterruptStep:
    """Send SIGINT until an execution ends; return the step that worked, or that none did."""
    # A signal before the kernel has taken the request up would be ignored.
    with suppress(TimeoutError):
        async with asyncio.timeout(BEGIN_DEADLINE):
            await run.begun.wait()
            await asyncio.sleep(BEGIN_DELAY)
    if kernel is not None:
        with suppress(KernelSilentError):  # native code holds it: the signal comes all the same
            await kernel.request("stop", deadline=TELL_DEADLINE, msg_id=run.id)
    steps = (InterruptStep.SIGINT, InterruptStep.SIGINT_AGAIN)
    for step, grace in zip(steps, GRACES, strict=True):
        if kernel is not None:
            kernel.interrupt()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await run.ended.wait()
            return step
    return InterruptStep.NO_EFFECT


async def answers(kernel: LocalKernel | None) -> bool:
    """Say whether a kernel is there and answers."""
    if kernel is None:
        return False
    try:
        await kernel.request("status", deadline=PROBE_DEADLINE)
    except KernelSilentError:
        return False
    return True


async def force(
    run: Run,
    kill: Callable[[str], Awaitable[object]],
    restart: Callable[[str], Awaitable[object]],
) -> InterruptStep:
    """End an execution with its kernel; return whether there is a new one, or it is rolled back."""
    why = "it did not react to two interrupts and force was given"
    if run.execution.on_error is OnError.KEEP:
        await restart(why)
        return InterruptStep.RESTARTED
    await kill(why)
    await run.done.wait()
    if run.execution.undone:
        return InterruptStep.ROLLED_BACK
    await restart(why)
    return InterruptStep.RESTARTED
