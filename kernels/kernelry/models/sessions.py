"""Sessions and kernels as data, and what they can be.

All frozen: a change is a new value. Times are aware UTC datetimes, durations seconds.
"""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any


def now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


class SessionStatus(StrEnum):
    """Where a session is in its life."""

    #: can run code
    ACTIVE = "active"
    #: held at a safe point
    PAUSED = "paused"
    #: checkpointed, its kernel stopped
    SUSPENDED = "suspended"
    #: ended well
    COMPLETED = "completed"
    #: ended badly, may be resumed
    FAILED = "failed"
    #: ended on request
    CANCELLED = "cancelled"

    @property
    def has_kernel(self) -> bool:
        """Say whether a session with this status has a kernel, or gets one when it is used."""
        return self in (SessionStatus.ACTIVE, SessionStatus.PAUSED)


class KernelState(StrEnum):
    """What the kernel of a session is doing; computed, never stored."""

    #: it starts with the first execution
    NOT_STARTED = "not_started"
    #: its process exists, it does not answer yet
    STARTING = "starting"
    #: it waits for code
    IDLE = "idle"
    #: it runs code
    BUSY = "busy"
    #: its process is gone
    DEAD = "dead"


class Isolation(StrEnum):
    """How a session is kept apart from others, from weak to strong."""

    #: a process and a process group of its own; the same user
    PROCESS = "process"
    #: files, sockets, signals and system calls are walled off by Linux (Landlock, seccomp)
    GUARD = "guard"
    #: the same, and namespaces of its own for processes, network and files (bubblewrap)
    BOX = "box"

    @property
    def strength(self) -> int:
        """Compares levels; higher is stronger."""
        return list(Isolation).index(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How much of the machine a session may use; 0: no limit."""

    #: bytes of memory of all its processes
    memory: int = 0
    #: bytes of one file
    file_size: int = 0
    #: open files of one process
    open_files: int = 0
    #: processes at once
    processes: int = 0
    #: seconds of processor time of one execution
    cpu_seconds: float = 0.0
    #: seconds without an execution after which the kernel is stopped
    idle_seconds: float = 0.0
    #: bytes of the workspace, which all sessions share
    workspace: int = 0

    @property
    def are_watched(self) -> bool:
        """Say whether any needs looking at what the session uses."""
        return bool(self.memory or self.processes or self.cpu_seconds or self.workspace)

    def narrowed(self, wanted: dict[str, float]) -> "Limits":
        """Return these limits with some lowered; what would be more stays as it is."""
        lower: dict[str, Any] = {}
        for name, value in wanted.items():
            own = getattr(self, name)
            if value:
                lower[name] = type(own)(min(own, value) if own else value)
        return replace(self, **lower)

    @property
    def of_a_process(self) -> dict[str, int]:
        """What each process is told by the system; see kernelry/inside/walls/limits.py."""
        return {
            "memory": self.memory,
            "file_size": self.file_size,
            "open_files": self.open_files,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionSpec:
    """What somebody asks of a new session."""

    #: the id it shall have; empty: one is made
    id: str = ""
    #: one line for people and agents
    description: str = ""
    #: words to find it by
    tags: tuple[str, ...] = ()
    #: free key-value pairs
    metadata: dict[str, Any] = field(default_factory=dict)
    #: a stronger isolation than the server's; None: the server's
    isolation: Isolation | None = None
    #: False takes the network away; None: as the server has it
    network: bool | None = None
    #: names of `Limits` -> lower ones than the server's
    limits: dict[str, float] = field(default_factory=dict)
    #: interpreter of its kernels: a path or a name; empty: the service's own
    python: str = ""
    #: the session that it is made for; empty: none
    parent_session_id: str = ""
    #: the execution of that session which asked for it; empty: none
    parent_execution_id: str = ""
    #: values of JSON by name, for its code and for tools
    context: dict[str, Any] = field(default_factory=dict)
    #: whether input() and getpass() in it may ask
    stdin: bool = False
    #: name of a preset; empty: none
    template: str = ""
    #: PEP 508 strings that are installed at once
    packages: tuple[str, ...] = ()
    #: code that each of its kernels runs first
    startup: str = ""
    #: before how many of its newest executions it can be put back; None: as the server has it
    rewind: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionRecord:
    """What is kept of a session, with or without a kernel."""

    #: unique among the sessions that exist
    id: str
    #: one line for people and agents
    description: str = ""
    #: words to find it by
    tags: tuple[str, ...] = ()
    #: free key-value pairs
    metadata: dict[str, Any] = field(default_factory=dict)
    #: where it is in its life
    status: SessionStatus = SessionStatus.ACTIVE
    #: when it was created
    created_at: datetime = field(default_factory=now)
    #: when an execution last began or ended
    last_activity_at: datetime = field(default_factory=now)
    #: how many kernels it has had; each restart adds one
    generation: int = 0
    #: how many executions it has had, over all its kernels
    execution_count: int = 0
    #: name of its private directory in the state directory
    directory: str = ""
    #: whether its kernels must be fresh processes: it asked for that, or has a package in
    #: another version than the fork server
    fresh: bool = False
    #: the stronger isolation that it asked for; None: the server's
    isolation: Isolation | None = None
    #: False: it asked to have no network; None: as the server has it
    network: bool | None = None
    #: names of `Limits` -> what it asked for
    limits: dict[str, float] = field(default_factory=dict)
    #: path of its own interpreter, which its kernels are fresh processes of; empty: it has none
    python: str = ""
    #: the session that it was made for; empty: none
    parent_session_id: str = ""
    #: the execution of that session which asked for it; empty: none
    parent_execution_id: str = ""
    #: values of JSON by name, for its code and for tools
    context: dict[str, Any] = field(default_factory=dict)
    #: whether input() and getpass() in it may ask
    stdin: bool = False
    #: name of the preset that it was made from; empty: none
    template: str = ""
    #: code that each of its kernels runs first
    startup: str = ""
    #: before how many of its newest executions it can be put back; None: as the server has it
    rewind: int | None = None
    #: why it has the status that it has; often empty
    reason: str = ""
    #: when it was completed, cancelled or failed; None: it was not
    ended_at: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelRecord:
    """What is kept of a session's kernel, so that the next server can take it over."""

    #: process id
    pid: int
    #: when it was started, in ticks since the boot
    started: int
    #: the boot in which these mean something
    boot: str
    #: path prefix of its sockets; the name in it is its own for ever
    path: str
    #: signs its messages
    key: str
    #: who we are to it
    client_id: str
    #: how it was started: "fork", "spawn" or "box"
    start: str
    #: how it is kept apart
    isolation: Isolation = Isolation.PROCESS
    #: whether it may use the network
    network: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class ArtifactLimits:
    """How much a session may keep as artifacts; 0: no limit."""

    #: bytes of one
    size: int = 100 << 20
    #: how many
    count: int = 1000
    #: bytes of all together, before they are compressed
    total: int = 10 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One line of the log."""

    #: its number; higher than those of all events before
    seq: int
    #: when it was asked to be written
    at: datetime
    #: what it is about
    topic: str
    #: the session that it happened in or came from; empty: none
    session_id: str = ""
    #: the execution that it happened in; empty: none
    execution_id: str = ""
    #: the rest, as JSON knows it
    data: Any = None
