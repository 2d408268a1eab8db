"""Resources: the files of the workspace, for clients that follow links."""

import asyncio
import mimetypes
import os
import stat
from pathlib import Path

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError
from mcp.types import (
    Completion,
    CompletionArgument,
    CompletionContext,
    PromptReference,
    ResourceTemplateReference,
)

from carrel_mcp.context import App
from carrel_mcp.settings import Settings

TEMPLATE = "workspace://{+path}"
COMPLETIONS = 100  # the protocol's limit for one answer
FILE_BYTES = 700_000  # clients drop events over 1 MiB, and base64 adds a third


def add_resources(server: MCPServer[App], settings: Settings) -> None:
    """Offer ``workspace://{path}``."""
    root = settings.workspace.expanduser().absolute()

    @server.resource(
        TEMPLATE,
        name="workspace file",
        description="A file of the workspace that all sessions share",
        mime_type="application/octet-stream",
    )
    async def workspace_file(path: str) -> str | bytes:
        """Return a file of the workspace; text if it is text."""
        content = read_file(root, path)
        kind = mimetypes.guess_type(path)[0] or ""
        if kind.startswith("text/") or kind in ("application/json", "image/svg+xml"):
            return content.decode("utf-8", "replace")
        return content

    @server.completion()  # type: ignore[no-untyped-call, untyped-decorator]  # the SDK's
    async def complete(
        reference: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> Completion | None:
        """Complete the path of a workspace file."""
        if not isinstance(reference, ResourceTemplateReference) or reference.uri != TEMPLATE:
            return None
        found = await asyncio.to_thread(matching_paths, root, argument.value)
        return Completion(values=found[:COMPLETIONS], has_more=len(found) > COMPLETIONS)


def matching_paths(root: Path, start: str) -> list[str]:
    """Return paths below `root` that begin with `start`; folders end with a slash."""
    base = root.resolve()
    folder = (base / start).parent if not start.endswith("/") else base / start
    try:
        if not folder.resolve().is_relative_to(base):
            return []
        entries = sorted(folder.iterdir())
    except OSError:
        return []
    names = (p.relative_to(base).as_posix() + ("/" if p.is_dir() else "") for p in entries)
    return [name for name in names if name.startswith(start)]


def read_file(root: Path, path: str) -> bytes:
    """Return a regular file below `root`, following no link out of it.

    Raises:
        ResourceNotFoundError: There is no such file there.
        ResourceError: It is too large.
    """
    base = root.resolve()
    target = (base / path).resolve()
    if not target.is_relative_to(base):
        raise ResourceNotFoundError(f"no file {path!r} in the workspace")
    try:
        fd = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ResourceNotFoundError(f"no file {path!r} in the workspace") from error
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ResourceNotFoundError(f"{path!r} is not a regular file")
        if status.st_size > FILE_BYTES:
            msg = f"{path!r} has {status.st_size} bytes, the limit is {FILE_BYTES}; read it in code"
            raise ResourceError(msg)
        return file.read(FILE_BYTES)
