"""What the tools for history and events return."""

from typing import Any

from pydantic import BaseModel, Field

from kernelry_mcp.answers.results.base import ToolResult


class FoundExecution(BaseModel):
    """An execution that a search found."""

    execution_id: str = Field(description="For get_execution")
    session_id: str = Field(description="Where; with '~': deleted, its history kept")
    execution_index: int = Field(description="Its number there")
    status: str = Field(description="As of get_execution")
    undone: str = Field(description="As of get_execution")
    code: str = Field(description="The beginning of it")
    result: str = Field(description="Last line of what it printed or showed; may be empty")
    new_files: list[str] = Field(description="Workspace files that it created or changed")
    error: str = Field(description="Class and text; empty: none")
    created_at: str = Field(description="ISO 8601, UTC")
    execution_time: float = Field(description="Seconds")


class SearchResult(ToolResult):
    """What a search found."""

    executions: list[FoundExecution] = Field(description="The newest first")
    next_offset: int = Field(description="Where the next page begins; -1: this was the last")


class ExportedHistory(ToolResult):
    """A file with what a session ran."""

    session_id: str = Field(description="The session")
    path: str = Field(description="Relative to the workspace")
    size: int = Field(description="Bytes")
    executions: int = Field(description="How many are in it")
    packages: list[str] = Field(description="What its first cells install")
    scripts: list[str] = Field(description="What its first cells write, of the workspace's")


class ReplayDifference(BaseModel):
    """An execution that came out differently."""

    execution_index: int = Field(description="Its number in the original")
    execution_id: str = Field(description="The original")
    replayed_id: str = Field(description="What was run now")
    changes: dict[str, list[str]] = Field(description="What differs -> [before, now]")


class Replayed(ToolResult):
    """How far a replay is, and what it found."""

    session_id: str = Field(description="The session that is replayed")
    into: str = Field(description="The new one; empty: nothing is run")
    state: str = Field(description="planned, running or over")
    total: int = Field(description="Executions to run")
    replayed: int = Field(description="How many have run")
    matched: int = Field(description="How many came out as before")
    folder: str = Field(description="Where it writes, in the workspace; '.': as the original")
    same_files: list[str] = Field(description="Files written with the content of the original's")
    differences: list[ReplayDifference] = Field(description="Those that did not")
    skipped: dict[str, str] = Field(description="execution_index -> status of what is left out")
    executions: list[FoundExecution] = Field(description="What would be run, if planned")
    stopped: str = Field(description="Why it ended early; empty: it did not")


class EventInfo(BaseModel):
    """One event."""

    seq: int = Field(description="Its number, higher than all before")
    at: str = Field(description="ISO 8601, UTC")
    topic: str = Field(description="What it is about")
    session_id: str = Field(description="Where it happened; may be empty")
    execution_id: str = Field(description="In which execution; may be empty")
    data: Any = Field(description="The rest")


class EventList(ToolResult):
    """A part of the log."""

    events: list[EventInfo] = Field(description="In their order")
    next_since: int = Field(description="Ask with this next")


class Published(ToolResult):
    """An event that is in the log."""

    seq: int = Field(description="Its number")
    topic: str = Field(description="Its topic")
