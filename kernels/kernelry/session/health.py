"""What a kernel is doing, told from outside and by asking it; never behind the user's cell.

The process is looked at through /proc (psutil) while a question goes over the control
channel; both take at most `PROBE_DEADLINE`. A heartbeat is not asked for: it is answered
by a thread without the interpreter lock and proves only that the process exists
(measured in reference/kernels.md section 4).
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from kernelry.engines import LocalKernel
from kernelry.errors import KernelSilentError
from kernelry.messaging import understood
from kernelry.models import Activity, Health, HealthStatus, KernelState
from kernelry.session.session import Session
from kernelry.usage import ProcessTree, read_tree

PROBE_DEADLINE = 0.2  # seconds for the kernel's answer; the call itself stays below 0.3
CPU_WINDOW = 0.1  # seconds over which CPU use is measured
FLAT_CPU = 0.02  # seconds of CPU time in the window below which a process does nothing

ADVICE = {
    Activity.NOT_STARTED: "The kernel starts with the first execution.",
    Activity.STARTING: "Wait for it.",
    Activity.IDLE: "Ready for code.",
    Activity.BUSY: "It runs Python code. Wait, or interrupt_execution.",
    Activity.PAUSED: "Held at a safe point. resume_execution goes on, stop_execution ends it.",
    Activity.BUSY_NATIVE: (
        "It uses CPU but does not answer: native code, or many busy threads. Wait; an interrupt "
        "takes effect when that code lets it."
    ),
    Activity.BLOCKED: (
        "It neither answers nor uses CPU: a native call waits and holds the interpreter. "
        "The stack says where. interrupt_execution may end it; restart_kernel does."
    ),
    Activity.STOPPED: "It is halted (SIGSTOP). interrupt_execution wakes it; restart_kernel works.",
    Activity.DEAD: "Its variables are gone. Call restart_kernel to get a new one.",
}

_STATUS = {
    Activity.NOT_STARTED: HealthStatus.STOPPED,
    Activity.STARTING: HealthStatus.HEALTHY,
    Activity.IDLE: HealthStatus.HEALTHY,
    Activity.BUSY: HealthStatus.HEALTHY,
    Activity.PAUSED: HealthStatus.HEALTHY,
    Activity.BUSY_NATIVE: HealthStatus.HEALTHY,
    Activity.BLOCKED: HealthStatus.UNRESPONSIVE,
    Activity.STOPPED: HealthStatus.STOPPED,
    Activity.DEAD: HealthStatus.DEAD,
}


@dataclass(frozen=True, slots=True)
class Probe:
    """What was learned within the deadline."""

    #: what the kernel said of itself; None: nothing
    answer: dict[str, Any] | None
    #: seconds it took
    seconds: float
    #: its processes now
    tree: ProcessTree
    #: seconds of CPU time they used meanwhile
    cpu_used: float
    #: seconds they were watched
    watched: float


async def check(session: Session) -> Health:
    """Say how a session's kernel is."""
    kernel = session.kernel
    state = session.kernel_state
    if kernel is None or state in (KernelState.DEAD, KernelState.STARTING):
        activity = Activity(state.value)
        return _report(session, activity, None)
    probe = await look(kernel)
    activity = judge(probe, dead=kernel.process.exit is not None)
    if activity is Activity.IDLE and session.current is not None:
        activity = Activity.BUSY  # it was sent something, and is about to take it up
    stack = await session.stack() if activity is Activity.BLOCKED else ""
    return _report(session, activity, probe, stack)


async def look(kernel: LocalKernel) -> Probe:
    """Watch a kernel's processes while asking it."""
    loop = asyncio.get_running_loop()
    looked = loop.time()
    first, (answer, seconds), _ = await asyncio.gather(
        asyncio.to_thread(read_tree, kernel.process, memory=False),
        _ask(kernel),
        asyncio.sleep(CPU_WINDOW),
    )
    tree = await asyncio.to_thread(read_tree, kernel.process)
    used = max(tree.cpu_time - first.cpu_time, 0.0)
    return Probe(answer, seconds, tree, used, loop.time() - looked)


def judge(probe: Probe, *, dead: bool) -> Activity:
    """Decide what a kernel is doing."""
    if dead:
        return Activity.DEAD
    if probe.tree.stopped:  # looked at after it may have answered
        return Activity.STOPPED
    if probe.answer is not None:
        if probe.answer.get("held"):
            return Activity.PAUSED
        return Activity.BUSY if probe.answer["busy"] else Activity.IDLE
    return Activity.BUSY_NATIVE if probe.cpu_used > FLAT_CPU else Activity.BLOCKED


async def _ask(kernel: LocalKernel) -> tuple[dict[str, Any] | None, float]:
    loop = asyncio.get_running_loop()
    started = loop.time()
    try:
        said = await kernel.request("status", deadline=PROBE_DEADLINE)
        with understood("status"):
            answer = {"busy": bool(said["busy"]), "held": bool(said.get("held"))}
    except KernelSilentError:
        answer = None
    return answer, loop.time() - started


def _report(session: Session, activity: Activity, probe: Probe | None, stack: str = "") -> Health:
    kernel = session.kernel
    alive = kernel is not None and kernel.process.exit is None
    run = session.current
    tree = probe.tree if probe else ProcessTree()
    walls = kernel.walls if kernel is not None and alive else session.walls
    session.peak_memory = max(session.peak_memory, tree.memory)
    return Health(
        session_id=session.id,
        status=_STATUS[activity],
        activity=activity,
        advice=ADVICE[activity],
        responsive=activity is not Activity.STOPPED
        and probe is not None
        and probe.answer is not None,
        response_time=probe.seconds if probe else 0.0,
        pid=kernel.process.leader if kernel is not None and alive else 0,
        generation=session.record.generation,
        start=kernel.process.start if kernel is not None else "",
        isolation=walls.isolation,
        network=walls.network,
        limits=session.walls.limits,
        python=str(session.environment.parent),
        memory_usage=tree.memory,
        peak_memory=session.peak_memory,
        cpu_percent=100 * probe.cpu_used / probe.watched if probe and probe.watched else 0.0,
        num_threads=tree.threads,
        num_processes=tree.processes,
        uptime=session.uptime if alive else 0.0,
        idle_seconds=session.idle_seconds,
        execution_count=session.record.execution_count,
        execution_id=run.id if run else "",
        running_for=run.elapsed if run else 0.0,
        cause=session.death if activity is Activity.DEAD else session.stopped_why,
        stack=stack,
    )
