"""Resources: the files of the workspace, for clients that follow links."""

import asyncio
import mimetypes
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

from carrel import files
from carrel.errors import CarrelError, FileTooLargeError
from carrel.listing import list_folder
from carrel_mcp.context import App
from carrel_mcp.links import SCHEME
from carrel_mcp.settings import Settings

TEMPLATE = SCHEME + "{+path}"
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
        content = await asyncio.to_thread(read_file, root, path)
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
    above, _, _ = start.rpartition("/")
    try:
        found = list_folder(root, above or ".").entries
    except CarrelError:
        return []
    names = (entry.path + ("/" if entry.type == "folder" else "") for entry in found)
    return [name for name in names if name.startswith(start)]


def read_file(root: Path, path: str) -> bytes:
    """Return a regular file below `root`; no link is followed.

    Raises:
        ResourceNotFoundError: There is no such file there.
        ResourceError: It is too large.
    """
    try:
        return files.read_bytes(root, path, FILE_BYTES)
    except FileTooLargeError as error:
        raise ResourceError(str(error)) from error
    except CarrelError as error:
        raise ResourceNotFoundError(str(error)) from error
