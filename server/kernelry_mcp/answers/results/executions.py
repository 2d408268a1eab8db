"""What the tools that run code return."""

from pydantic import BaseModel, Field

from kernelry_mcp.answers.results.base import ToolResult


class ErrorInfo(BaseModel):
    """Why an execution did not complete."""

    type: str = Field(description="Exception class, or the kind of end")
    message: str = Field(description="What it said")
    traceback: str = Field(description="Plain text, possibly cut; empty if there is none")


class SavedFile(BaseModel):
    """An image that was shown and is kept in the workspace."""

    path: str = Field(description="Relative to the workspace")
    mime_type: str = Field(description="What it is")


class RunResult(ToolResult):
    """An execution, as far as it is."""

    session_id: str = Field(description="Where it runs")
    execution_id: str = Field(description="For get_execution and interrupt_execution")
    status: str = Field(
        description="queued, running, completed, failed (the code raised), interrupted, timed_out, "
        "cancelled (never ran), died (the kernel went), lost or waiting_input"
    )
    stdout: str = Field(description="What was printed, within the budget")
    stderr: str = Field(description="The same of stderr")
    results: list[str] = Field(description="Plain text of results and displays")
    outputs: list[SavedFile] = Field(
        description="What was shown and text does not tell (pictures, pages, charts, sound), saved"
    )
    error: ErrorInfo | None = Field(description="Why it did not complete; null if it did")
    new_files: list[str] = Field(description="Workspace files it created or changed")
    execution_time: float = Field(description="Seconds, so far or in all")
    execution_index: int = Field(description="Its number in the session")
    generation: int = Field(description="Number of the kernel that ran it")
    truncated: bool = Field(description="Whether text was left out of this answer")
    total_chars: int = Field(description="Characters of its whole text output")
    total_lines: int = Field(description="Lines of its whole text output")
    since: str = Field(description="With it get_execution shows only what came after this")
    note: str = Field(description="What else is to be known; often empty")
    paused_by: str = Field(description="Who has it, or what it is queued behind, paused; or empty")
    paused_since: str = Field(description="ISO 8601, UTC; empty: it is not paused")
    progress: str = Field(description="How far the code said that it is; often empty")
    prompt: str = Field(description="What it asks: answer with send_input; empty: nothing")
    undone: str = Field(description="'rollback', 'rewind': variables are as before it")
    memory_change: int = Field(description="Bytes of memory that the kernel has more; 0: unknown")


class ExecutionPage(RunResult):
    """An execution with a part of its whole text output."""

    code: str = Field(description="What was run")
    text: str = Field(description="The part; empty if none was asked for")
    offset: int = Field(description="Where the part begins, in characters")
    line: int = Field(description="Number of its first line; 0: not counted")
    next_offset: int = Field(description="Where the next page begins; -1: this was the last")


class Interrupted(ToolResult):
    """What an interrupt did."""

    session_id: str = Field(description="Where")
    execution_id: str = Field(description="What was interrupted; empty: nothing ran")
    interrupted: bool = Field(description="Whether it ended")
    status: str = Field(description="How the execution is now; empty: nothing ran")
    output: str = Field(description="Its newest lines")
    step: str = Field(
        description="nothing_running, dequeued, sigint, sigint_again, restarted or no_effect"
    )
    responsive: bool = Field(description="Whether the kernel answered afterwards")
    stack: str = Field(description="Where the code is stuck, if nothing worked")


class EndedExecution(BaseModel):
    """An execution that a restart ended."""

    execution_id: str = Field(description="For get_execution")
    status: str = Field(description="died: it ran; cancelled: it was queued")
    output: str = Field(description="Its newest lines; empty: it has none, or there are many")


class Restarted(ToolResult):
    """A session with a new kernel."""

    session_id: str = Field(description="The session")
    restarted: bool = Field(description="true")
    generation: int = Field(description="Number of the new kernel")
    variables_kept: bool = Field(description="false: the namespace is empty")
    checkpoint_id: str = Field(description="What kept them; empty: nothing")
    lost: dict[str, str] = Field(description="Not kept -> type, reason")
    ended: list[EndedExecution] = Field(description="What ran or was queued, in that order")


class Steered(ToolResult):
    """What became of a request to an execution."""

    session_id: str = Field(description="The session")
    execution_id: str = Field(description="The execution")
    state: str = Field(
        description="paused, running, stopped, ended, or requested: at its next safe point"
    )
    requested_by: str = Field(description="Who asked")
    requested_at: str = Field(description="ISO 8601, UTC")


class InputSent(ToolResult):
    """Whether an answer was taken."""

    session_id: str = Field(description="The session")
    execution_id: str = Field(description="The execution")
    taken: bool = Field(description="false: it was not asked for any more")
    status: str = Field(description="How the execution is now")
    output: str = Field(description="What it put out since it asked")
