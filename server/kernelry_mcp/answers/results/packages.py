"""What the tools for packages return."""

from pydantic import BaseModel, Field

from kernelry_mcp.answers.results.base import ToolResult


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
