"""What the tools for artifacts and checkpoints return."""

from typing import Any

from pydantic import BaseModel, Field

from kernelry_mcp.answers.results.base import ToolResult


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
    encoding: str = Field(description="text, base64, diff, or image (in the content, maybe scaled)")
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


class CheckpointInfo(BaseModel):
    """A saved namespace."""

    saved_from: str = Field(description="Session")
    name: str = Field(description="What somebody called it")
    reason: str = Field(description="manual, restart, suspend or stop")
    created_at: str = Field(description="ISO 8601, UTC")
    size: int = Field(description="Bytes")
    variables: list[str] = Field(description="What is in it")
    live: bool = Field(description="All, in memory")


class CreatedCheckpoint(ToolResult):
    """A namespace that was just saved."""

    session_id: str = Field(description="The session")
    checkpoint_id: str = Field(description="For restore_checkpoint")
    size: int = Field(description="Bytes")
    blocked: float = Field(description="Seconds of hold-up")
    variables: list[str] = Field(description="What is in it")
    skipped: dict[str, str] = Field(description="Not saved -> type, reason")
    live: bool = Field(description="All, in memory")
    named: list[str] = Field(description="What it lacks or shares")


class CheckpointList(ToolResult):
    """Checkpoints, the newest first."""

    checkpoints: dict[str, CheckpointInfo] = Field(description="Id -> what it is")


class RestoredCheckpoint(ToolResult):
    """What a restore did."""

    session_id: str = Field(description="The session")
    restored: list[str] = Field(description="What came back")
    failed: dict[str, str] = Field(description="Not restored -> type, reason")
    warnings: list[str] = Field(description="What differs")
    live: bool = Field(description="All is as it was")
