"""What tools return, as schemas.

The root of each is ``type: object`` + ``allOf: [typed]``: `fastmcp.Client` then gives
``.data`` as a plain dict, which the workflows of our users are written against, and every
other client still gets the types (verified in reference/mcp.md section 2).
"""

from typing import Any

from mcp.types import CallToolResult, ContentBlock, TextContent
from pydantic import BaseModel, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


class ToolResult(BaseModel):
    """Base of what a tool returns."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Wrap the model's own schema; see the module's text."""
        schema = handler(core_schema)
        root = handler.resolve_ref_schema(schema)
        body = dict(root)
        root.clear()
        root.update(type="object", title=body.get("title", cls.__name__))
        if "description" in body:
            root["description"] = body.pop("description")
        root["allOf"] = [body]
        return schema

    def answer(self, text: str, *blocks: ContentBlock) -> CallToolResult:
        """Return the tool's result with `text` for the model."""
        return CallToolResult(
            content=[TextContent(type="text", text=text), *blocks],
            structured_content=self.model_dump(mode="json"),
        )


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
    execution_count: int = Field(description="Executions so far")
    generation: int = Field(description="Number of its kernel; each restart adds one")
    isolation: str = Field(description="How it is kept apart: process, guard or box")
    network: bool = Field(description="Whether it may use the network")
    python: str = Field(description="Interpreter of its kernels")
    parent_session_id: str = Field(description="The session it was made for; may be empty")
    parent_execution_id: str = Field(description="The execution that wanted it; may be empty")
    children: list[str] = Field(description="Sessions made for it")
    context: dict[str, Any] = Field(description="What its code has as carrel_session.context")
    reason: str = Field(description="Why it has its status; often empty")
    template: str = Field(description="The preset it was made from; may be empty")
    current: bool = Field(description="Whether it is the caller's default session")


class CreatedSession(ToolResult):
    """A session that is ready."""

    session_id: str = Field(description="Pass it to the other tools")
    status: str = Field(description="created, or existing with if_exists='reuse'")
    session: SessionInfo = Field(description="The session")
    workspace: str = Field(description="Folder shared by all sessions; the kernel's cwd")
    limits: dict[str, float] = Field(description="memory (bytes), processes, ...; 0: none")


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
    outputs: list[SavedFile] = Field(description="Images, saved in the workspace")
    error: ErrorInfo | None = Field(description="Why it did not complete; null if it did")
    new_files: list[str] = Field(description="Workspace files it created or changed")
    execution_time: float = Field(description="Seconds, so far or in all")
    execution_index: int = Field(description="Its number in the session")
    generation: int = Field(description="Number of the kernel that ran it")
    truncated: bool = Field(description="Whether text was left out of this answer")
    total_chars: int = Field(description="Characters of its whole text output")
    note: str = Field(description="What else is to be known; often empty")
    progress: str = Field(description="How far the code said that it is; often empty")
    prompt: str = Field(description="What it asks: answer with send_input; empty: nothing")
    memory_change: int = Field(description="Bytes of memory that the kernel has more; 0: unknown")


class ExecutionPage(RunResult):
    """An execution with a page of its whole text output."""

    text: str = Field(description="The page; empty if no offset was asked for")
    offset: int = Field(description="Where the page begins, in characters")
    next_offset: int = Field(description="Where the next page begins; -1: this was the last")


class Interrupted(ToolResult):
    """What an interrupt did."""

    session_id: str = Field(description="Where")
    execution_id: str = Field(description="What was interrupted; empty: nothing ran")
    interrupted: bool = Field(description="Whether it ended")
    step: str = Field(
        description="nothing_running, dequeued, sigint, sigint_again, restarted or no_effect"
    )
    responsive: bool = Field(description="Whether the kernel answered afterwards")
    stack: str = Field(description="Where the code is stuck, if nothing worked")


class CheckpointInfo(BaseModel):
    """A saved namespace."""

    saved_from: str = Field(description="Session")
    name: str = Field(description="What somebody called it")
    reason: str = Field(description="manual, restart, suspend or stop")
    created_at: str = Field(description="ISO 8601, UTC")
    size: int = Field(description="Bytes")
    variables: list[str] = Field(description="What is in it")


class CreatedCheckpoint(ToolResult):
    """A namespace that was just saved."""

    session_id: str = Field(description="The session")
    checkpoint_id: str = Field(description="For restore_checkpoint")
    size: int = Field(description="Bytes")
    blocked: float = Field(description="Seconds of hold-up")
    variables: list[str] = Field(description="What is in it")
    skipped: dict[str, str] = Field(description="Not saved -> type, reason")


class CheckpointList(ToolResult):
    """Checkpoints, the newest first."""

    checkpoints: dict[str, CheckpointInfo] = Field(description="Id -> what it is")


class RestoredCheckpoint(ToolResult):
    """What a restore did."""

    session_id: str = Field(description="The session")
    restored: list[str] = Field(description="What came back")
    failed: dict[str, str] = Field(description="Not restored -> type, reason")
    warnings: list[str] = Field(description="Versions that differ")


class Restarted(ToolResult):
    """A session with a new kernel."""

    session_id: str = Field(description="The session")
    restarted: bool = Field(description="true")
    generation: int = Field(description="Number of the new kernel")
    variables_kept: bool = Field(description="false: the namespace is empty")
    checkpoint_id: str = Field(description="What kept them; empty: nothing")
    lost: dict[str, str] = Field(description="Not kept -> type, reason")


class Installed(ToolResult):
    """What an installation did."""

    session_id: str = Field(description="Only this session sees the packages")
    returncode: int = Field(description="0: everything asked for is there")
    stdout: str = Field(description="What uv wrote")
    stderr: str = Field(description="What uv wrote to stderr")
    installed: list[str] = Field(description="name==version of what is new")
    restart_required: bool = Field(description="Whether a loaded module has another version")
    loaded_modules: list[str] = Field(description="Which modules those are")
    log: str = Field(description="File with what all installations into this session said")


class PackageInfo(BaseModel):
    """One package."""

    version: str = Field(description="Its version; empty: not known")
    own: bool = Field(description="Whether this session installed it; else the interpreter has it")


class PackageList(ToolResult):
    """Packages that a session can import."""

    session_id: str = Field(description="The session")
    packages: dict[str, PackageInfo] = Field(description="Name -> what it is; the session's first")
    total: int = Field(description="How many match")
    own_total: int = Field(description="How many of them are the session's own")
    next_offset: int = Field(description="Where the next page begins; -1: this was the last")
    python: str = Field(description="The interpreter that has the others")


class SavedScript(ToolResult):
    """A script in the workspace."""

    script: str = Field(description="Its path, relative to the workspace")
    module: str = Field(description="Name to import it by; empty if it is none")


class ScriptRun(ToolResult):
    """A script that ran."""

    session_id: str = Field(description="Whose environment it used")
    script: str = Field(description="Its path, relative to the workspace")
    returncode: int = Field(description="Its exit code; negative: minus the signal that ended it")
    stdout: str = Field(description="What it printed; cut in the middle if it is long")
    stderr: str = Field(description="The same of stderr")


class FileEntry(BaseModel):
    """Something in the workspace."""

    path: str = Field(description="Relative to the workspace")
    type: str = Field(description="file, folder, link (never followed) or other")
    size: int = Field(description="Bytes")
    modified: str = Field(description="ISO 8601, UTC")


class FileList(ToolResult):
    """What is in a folder of the workspace."""

    path: str = Field(description="The folder, relative to the workspace")
    files: list[FileEntry] = Field(description="A page of what is there, by path")
    total: int = Field(description="How many match")
    next_offset: int = Field(description="Where the next page begins; -1: this was the last")
    complete: bool = Field(description="false: there is more than was looked at; narrow it down")


class FileContent(ToolResult):
    """What is in a file of the workspace."""

    path: str = Field(description="Relative to the workspace")
    mime_type: str = Field(description="As its name tells; empty: unknown")
    size: int = Field(description="Bytes of the whole file")
    encoding: str = Field(
        description="text, base64, image (in the content, scaled down if large), or link (too "
        "large for an answer: read the resource, or in code)"
    )
    text: str = Field(description="A page of the text, or base64; empty for images and links")
    offset: int = Field(description="Where the page begins, in characters")
    next_offset: int = Field(description="Where the next page begins; -1: this was the last")
    total_chars: int = Field(description="Characters of the whole text; 0: it is none")


class WrittenFile(ToolResult):
    """A file of the workspace after it was written."""

    path: str = Field(description="Relative to the workspace")
    size: int = Field(description="Bytes of the whole file")
    created: bool = Field(description="Whether it is new")


class DeletedFile(ToolResult):
    """What is gone from the workspace."""

    path: str = Field(description="Relative to the workspace")
    type: str = Field(description="What it was: file, folder, link or other")


class ArtifactInfo(BaseModel):
    """One artifact."""

    artifact_id: str = Field(description="For get_artifact and delete_artifact")
    session_id: str = Field(description="Whose it is")
    execution_id: str = Field(description="What it is output of; empty: somebody stored it")
    name: str = Field(description="What it is called")
    version: int = Field(description="From 1, by name and session")
    previous: str = Field(description="Id of the version before; empty: none")
    type: str = Field(description="user_input, tool_result, agent_output, ...")
    mime_type: str = Field(description="MIME type")
    size: int = Field(description="Bytes")
    tags: list[str] = Field(description="Words it can be found by")
    metadata: dict[str, Any] = Field(description="Free key-value pairs")
    hash: str = Field(description="BLAKE3 of the content")
    created_at: str = Field(description="ISO 8601, UTC")


class StoredArtifact(ToolResult):
    """An artifact that was stored."""

    session_id: str = Field(description="Whose it is")
    artifact_id: str = Field(description="For get_artifact and delete_artifact")
    name: str = Field(description="What it is called")
    version: int = Field(description="From 1, by name and session")
    previous: str = Field(description="Id of the version before; empty: none")
    mime_type: str = Field(description="MIME type")
    size: int = Field(description="Bytes")
    hash: str = Field(description="BLAKE3 of the content")


class ArtifactContent(ToolResult):
    """What is in an artifact."""

    session_id: str = Field(description="Whose it is")
    artifact: ArtifactInfo = Field(description="What it is")
    encoding: str = Field(description="text, base64, or image (in the content, maybe scaled)")
    text: str = Field(description="A page of it; empty for images")
    offset: int = Field(description="Where the page begins: character, or byte of base64")
    next_offset: int = Field(description="Where the next page begins; -1: this was the last")
    total: int = Field(description="Characters, or bytes, of the whole")


class ArtifactList(ToolResult):
    """Artifacts that fit."""

    session_id: str = Field(description="Whose they are; *: of any")
    artifacts: list[ArtifactInfo] = Field(description="A page of them, the newest first")
    total: int = Field(description="How many fit")
    next_offset: int = Field(description="Where the next page begins; -1: this was the last")


class DeletedArtifact(ToolResult):
    """An artifact that is gone."""

    session_id: str = Field(description="Whose it was")
    artifact_id: str = Field(description="Its id, never used again")
    name: str = Field(description="What it was called")
    version: int = Field(description="Which of that name")


class VariableInfo(BaseModel):
    """One variable."""

    type: str = Field(description="Its class")
    repr: str = Field(description="A short description")
    size: int = Field(description="Items or characters; -1: it has none")
    shape: list[int] = Field(description="Shape of an array or a table; empty: it has none")


class VariableList(ToolResult):
    """The variables of a session."""

    session_id: str = Field(description="The session")
    variables: dict[str, VariableInfo] = Field(description="Name -> what it is")
    total: int = Field(description="How many there are")


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


class ChangedSession(ToolResult):
    """What of a session can be changed, as it is now."""

    session_id: str = Field(description="The session")
    status: str = Field(description="Lifecycle: active, completed, failed, cancelled, ...")
    reason: str = Field(description="Why it has that; often empty")
    description: str = Field(description="What it is for")
    tags: list[str] = Field(description="Words it can be found by")
    metadata: dict[str, Any] = Field(description="Free key-value pairs")
    context: dict[str, Any] = Field(description="What its code has as carrel_session.context")


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


class FoundExecution(BaseModel):
    """An execution that a search found."""

    execution_id: str = Field(description="For get_execution")
    session_id: str = Field(description="Where; with '~': deleted, its history kept")
    execution_index: int = Field(description="Its number there")
    status: str = Field(description="As of get_execution")
    code: str = Field(description="The beginning of it")
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
    differences: list[ReplayDifference] = Field(description="Those that did not")
    skipped: dict[str, str] = Field(description="execution_index -> status of what is left out")
    executions: list[FoundExecution] = Field(description="What would be run, if planned")
    stopped: str = Field(description="Why it ended early; empty: it did not")


class CleanedUp(ToolResult):
    """What a clean-up did, or would do."""

    deleted: list[str] = Field(description="Sessions that went")
    kept: dict[str, str] = Field(description="Session -> why it stays though it was meant")
    removed: list[str] = Field(description="Private folders of no session that went")
    dry_run: bool = Field(description="Whether nothing was done yet")


class Responsiveness(ToolResult):
    """Whether a kernel answers."""

    session_id: str = Field(description="The session")
    responsive: bool = Field(description="Whether it answered; a busy one does")
    response_time: float = Field(description="Seconds it took")
    verdict: str = Field(
        description="not_started, starting, idle, busy, paused, busy_native, blocked, stopped, dead"
    )
    advice: str = Field(description="What that means and what helps")
