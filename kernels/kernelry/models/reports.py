"""What is said of sessions when somebody asks or acts: health, variables, interrupts.

All frozen, none kept: the next question has a new answer.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from kernelry.models.sessions import Isolation, Limits


class InterruptStep(StrEnum):
    """What ended an execution that was interrupted."""

    #: nothing was running
    NOTHING_RUNNING = "nothing_running"
    #: it was still in the queue
    DEQUEUED = "dequeued"
    #: the first SIGINT
    SIGINT = "sigint"
    #: the second SIGINT
    SIGINT_AGAIN = "sigint_again"
    #: the kernel was killed and started again
    RESTARTED = "restarted"
    #: the kernel was killed, and the session put back to before the execution
    ROLLED_BACK = "rolled_back"
    #: nothing did; it still runs
    NO_EFFECT = "no_effect"


@dataclass(frozen=True, kw_only=True, slots=True)
class InterruptReport:
    """What an interrupt did, after a probe."""

    #: the step of the ladder that worked
    step: InterruptStep
    #: the execution it was meant for; empty: none
    execution_id: str = ""
    #: whether the kernel answered afterwards
    responsive: bool = True
    #: where the code is stuck, when nothing worked
    stack: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Variable:
    """One variable of a session's namespace."""

    #: its name
    name: str
    #: its class
    type: str
    #: a short, bounded description; never made by code of the user's
    repr: str
    #: number of items or characters of a built-in container; None: has none
    size: int | None = None
    #: shape of an array or a table; empty: has none
    shape: tuple[int, ...] = ()
    #: bytes that it takes, of a container without its items; None: it does not tell
    bytes: int | None = None
    #: names of a table's columns, the first ones
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """A value in depth, and completions."""

    #: what it is; None: none was asked for
    variable: Variable | None = None
    #: its first rows or its text, how it is called, what is written of it
    text: str = ""
    #: what code may go on with, whole names
    matches: tuple[str, ...] = ()


class Activity(StrEnum):
    """What a kernel is doing, as seen from outside and by asking it."""

    #: no kernel yet
    NOT_STARTED = "not_started"
    #: started, does not answer yet
    STARTING = "starting"
    #: waits for code
    IDLE = "idle"
    #: runs Python code
    BUSY = "busy"
    #: held at a safe point
    PAUSED = "paused"
    #: does not answer, uses CPU: native code, or many busy threads
    BUSY_NATIVE = "busy_native"
    #: does not answer, uses no CPU: a native call that waits and holds the interpreter
    BLOCKED = "blocked"
    #: halted by SIGSTOP
    STOPPED = "stopped"
    #: process gone
    DEAD = "dead"


class HealthStatus(StrEnum):
    """One word on a kernel."""

    #: alive and not stuck, busy or not
    HEALTHY = "healthy"
    #: no process runs: not started, or halted by a signal
    STOPPED = "stopped"
    #: alive, does not answer and gets nowhere
    UNRESPONSIVE = "unresponsive"
    #: process gone
    DEAD = "dead"


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """What can be said of a session's kernel now."""

    #: the session
    session_id: str
    #: one word
    status: HealthStatus
    #: what it is doing
    activity: Activity
    #: what that means and what helps
    advice: str = ""
    #: whether the kernel itself answered within the probe's deadline
    responsive: bool = False
    #: seconds the answer took; the deadline if there was none
    response_time: float = 0.0
    #: process id of the kernel; 0: none
    pid: int = 0
    #: number of this kernel in its session
    generation: int = 0
    #: how it was started: "fork", "spawn" or "box"; empty: there is none
    start: str = ""
    #: how the kernel is kept apart; that of a session without one is how it will be
    isolation: Isolation = Isolation.PROCESS
    #: whether it may use the network
    network: bool = True
    #: how much of the machine it may use
    limits: Limits = field(default_factory=Limits)
    #: path of the interpreter that the session's kernels run
    python: str = ""
    #: bytes of memory of the kernel and its children (PSS where Linux tells, else RSS)
    memory_usage: int = 0
    #: the most of it that was seen
    peak_memory: int = 0
    #: CPU use of the process tree over the probe, percent of one core
    cpu_percent: float = 0.0
    #: threads of the process tree
    num_threads: int = 0
    #: processes of the tree
    num_processes: int = 0
    #: seconds since this kernel was started
    uptime: float = 0.0
    #: seconds since an execution last began or ended
    idle_seconds: float = 0.0
    #: executions of the session so far
    execution_count: int = 0
    #: the execution that runs; empty: none
    execution_id: str = ""
    #: seconds it has run
    running_for: float = 0.0
    #: why the kernel is dead
    cause: str = ""
    #: stacks of a kernel that is blocked
    stack: str = ""
    #: what of the server itself does not work now, why, and the cure; empty: all does
    degraded: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Steered:
    """What became of a request to pause, resume or stop an execution."""

    #: the execution
    execution_id: str
    #: pause, resume or stop
    action: str
    #: paused, running, stopped; or requested: it takes effect at the next safe point
    state: str
    #: who asked
    by: str
    #: when
    at: datetime
