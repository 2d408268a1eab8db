"""What the tools for sessions return."""

from typing import Any

from pydantic import BaseModel, Field

from kernelry_mcp.answers.results.base import ToolResult


class SessionInfo(BaseModel):
    """One session."""

    description: str = Field(description="What it is for")
    status: str = Field(description="Lifecycle: active, paused, suspended, completed, ...")
    kernel: str = Field(description="not_started, starting, idle, busy or dead")
    tags: list[str] = Field(description="Words it can be found by")
    metadata: dict[str, Any] = Field(description="Free key-value pairs")
    created_at: str = Field(description="ISO 8601, UTC")
    last_activity_at: str = Field(description="ISO 8601, UTC")
    uptime: float = Field(description="Seconds since its kernel started; 0 without one")
    idle_seconds: float = Field(description="Since an execution last began or ended")
    memory_usage: int = Field(description="Bytes of its kernel and what that started; 0: unknown")
    execution_id: str = Field(description="What runs; empty: nothing")
    running_for: float = Field(description="Seconds that it has run")
    execution_count: int = Field(description="Executions so far")
    generation: int = Field(description="Number of its kernel; each restart adds one")
    isolation: str = Field(description="How it is kept apart: process, guard or box")
    network: bool = Field(description="Whether it may use the network")
    python: str = Field(description="Interpreter of its kernels")
    parent_session_id: str = Field(description="The session it was made for; may be empty")
    parent_execution_id: str = Field(description="The execution that wanted it; may be empty")
    children: list[str] = Field(description="Sessions made for it")
    context: dict[str, Any] = Field(description="What its code has as kernelry_session.context")
    reason: str = Field(description="Why it has its status; often empty")
    template: str = Field(description="The preset it was made from; may be empty")
    current: bool = Field(description="Whether it is the caller's default session")


class BranchInfo(BaseModel):
    """A session that began with all that another one had."""

    session_id: str = Field(description="Pass it to the other tools")
    how: str = Field(description="live: its kernel was forked; checkpoint: saved and restored")
    why: str = Field(description="Why it is not live; empty: it is")
    notes: list[str] = Field(description="What it lacks, or shares with its origin")
    left_out: dict[str, str] = Field(description="Variables that did not come -> type, reason")


class CreatedSession(ToolResult):
    """A session that is ready."""

    session_id: str = Field(description="Pass it to the other tools")
    status: str = Field(description="created, or existing with if_exists='reuse'")
    session: SessionInfo = Field(description="The session")
    workspace: str = Field(description="Folder shared by all sessions; the kernel's cwd")
    limits: dict[str, float] = Field(description="memory (bytes), processes, ...; 0: none")
    sessions: list[BranchInfo] = Field(description="With branch_of: all that were made")


class SessionList(ToolResult):
    """The sessions that match."""

    sessions: dict[str, SessionInfo] = Field(description="Session id -> what it is")
    active_session: str = Field(description="The caller's default session")
    total_sessions: int = Field(description="Sessions there are, whether they match or not")
    max_sessions: int = Field(description="Sessions there may be")
    next_offset: int = Field(description="Where the next page begins; -1: this is the last")


class SwitchedSession(ToolResult):
    """The caller's new default session."""

    previous_session: str = Field(description="What it was before")
    current_session: str = Field(description="What it is now")
    session_id: str = Field(description="The same as current_session")


class DeletedSession(ToolResult):
    """A session that is gone."""

    session_id: str = Field(description="Its id, free again")
    status: str = Field(description="deleted")
    kept_as: str = Field(description="Where search_executions has its history; empty: gone")
    active_session: str = Field(description="The caller's default session now")


class ChangedSession(ToolResult):
    """What of a session can be changed, as it is now."""

    session_id: str = Field(description="The session")
    status: str = Field(description="Lifecycle: active, completed, failed, cancelled, ...")
    reason: str = Field(description="Why it has that; often empty")
    description: str = Field(description="What it is for")
    tags: list[str] = Field(description="Words it can be found by")
    metadata: dict[str, Any] = Field(description="Free key-value pairs")
    context: dict[str, Any] = Field(description="What its code has as kernelry_session.context")


class SuspendedSession(ToolResult):
    """A session without a kernel, its variables saved."""

    session_id: str = Field(description="The session")
    checkpoint_id: str = Field(description="What they are in; empty: it had no kernel")
    variables: list[str] = Field(description="Names of what is saved")
    skipped: dict[str, str] = Field(description="What is not -> its class and why")
    blocked: float = Field(description="Seconds in which the kernel could do nothing else")


class ResumedSession(ToolResult):
    """A session that goes on."""

    session_id: str = Field(description="The session")
    before: str = Field(description="Its status before")
    checkpoint_id: str = Field(description="What was put back; empty: nothing")
    restored: list[str] = Field(description="Names of the variables that are back")
    missing: dict[str, str] = Field(description="What is not -> its class and why")


class CleanedUp(ToolResult):
    """What a clean-up did, or would do."""

    deleted: list[str] = Field(description="Sessions that went")
    kept: dict[str, str] = Field(description="Session -> why it stays though it was meant")
    removed: list[str] = Field(description="Private folders of no session that went")
    dry_run: bool = Field(description="Whether nothing was done yet")
