"""What the tools for scripts and files return."""

from pydantic import BaseModel, Field

from kernelry_mcp.answers.results.base import ToolResult


class SavedScript(ToolResult):
    """A script in the workspace."""

    script: str = Field(description="Its path, relative to the workspace")
    module: str = Field(description="Name to import it by; empty if it is none")
    instead: str = Field(description="What that name means in cells, if not this file")
    held_by: list[str] = Field(description="Sessions that keep the code that they imported before")
    reloaded: list[str] = Field(description="Sessions that have loaded it anew")


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
    url: str = Field(description="Where it can be fetched, if a link was asked for")


class WrittenFile(ToolResult):
    """A file of the workspace after it was written."""

    path: str = Field(description="Relative to the workspace")
    size: int = Field(description="Bytes of the whole file")
    created: bool = Field(description="Whether it is new")
    url: str = Field(description="Where it can be brought, if a link was asked for")


class DeletedFile(ToolResult):
    """What is gone from the workspace."""

    path: str = Field(description="Relative to the workspace")
    type: str = Field(description="What it was: file, folder, link or other")
