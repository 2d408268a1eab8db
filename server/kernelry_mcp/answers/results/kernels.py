"""What the tools that look into kernels return."""

from pydantic import BaseModel, Field

from kernelry_mcp.answers.results.base import ToolResult


class VariableInfo(BaseModel):
    """One variable."""

    type: str = Field(description="Its class")
    repr: str = Field(description="A short description")
    size: int = Field(description="Items or characters; -1: it has none")
    shape: list[int] = Field(description="Shape of an array or a table; empty: it has none")
    bytes: int = Field(description="Bytes that it takes, without its items; -1: not known")
    columns: list[str] = Field(description="Names of a table's first columns")


class VariableList(ToolResult):
    """The variables of a session."""

    session_id: str = Field(description="The session")
    variables: dict[str, VariableInfo] = Field(description="Name -> what it is")
    total: int = Field(description="How many there are")
    text: str = Field(description="The one that was asked for, in depth; empty: none was")
    matches: list[str] = Field(description="Completions, whole names; empty: none were asked for")


class KernelHealth(ToolResult):
    """How a kernel is."""

    session_id: str = Field(description="The session")
    status: str = Field(description="healthy (busy or not), stopped, unresponsive or dead")
    activity: str = Field(
        description="not_started, starting, idle, busy, paused, busy_native, blocked, stopped, dead"
    )
    advice: str = Field(description="What that means and what helps")
    pid: int = Field(description="Process id; 0: none")
    generation: int = Field(description="Number of this kernel in its session")
    start: str = Field(description="How it was started: fork, spawn or box; empty: there is none")
    isolation: str = Field(description="How it is kept apart: process, guard or box")
    network: bool = Field(description="Whether it may use the network")
    limits: dict[str, float] = Field(description="memory (bytes), processes, ...; 0: none")
    python: str = Field(description="Interpreter of the session's kernels")
    memory_usage: int = Field(description="Bytes, with child processes")
    peak_memory: int = Field(description="The most that was seen, bytes")
    cpu_percent: float = Field(description="Of one core, over the last 0.1 s")
    num_threads: int = Field(description="Threads, with child processes")
    num_processes: int = Field(description="The kernel and its children")
    uptime: float = Field(description="Seconds since the kernel started")
    idle_seconds: float = Field(description="Seconds since a cell last began or ended")
    execution_count: int = Field(description="Executions so far")
    execution_id: str = Field(description="What runs now; empty: nothing")
    running_for: float = Field(description="Seconds it has run")
    cause: str = Field(description="Why the kernel is dead; empty: it is not")
    stack: str = Field(description="Stacks of a blocked kernel")
    degraded: str = Field(
        description="What of the server itself does not work now, with the cure; empty: all does"
    )


class Responsiveness(ToolResult):
    """Whether a kernel answers."""

    session_id: str = Field(description="The session")
    responsive: bool = Field(description="Whether it answered; a busy one does")
    response_time: float = Field(description="Seconds it took")
    verdict: str = Field(
        description="not_started, starting, idle, busy, paused, busy_native, blocked, stopped, dead"
    )
    advice: str = Field(description="What that means and what helps")
