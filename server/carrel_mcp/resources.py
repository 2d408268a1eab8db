"""Resources: workspace files and artifacts, for clients that follow links."""

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

from carrel import Sessions, files
from carrel.artifacts.service import Artifacts
from carrel.errors import ArtifactNotFoundError, CarrelError, FileTooLargeError
from carrel.listing import list_folder
from carrel_mcp.context import App, Ctx, app_of
from carrel_mcp.links import ARTIFACT_SCHEME, SCHEME
from carrel_mcp.settings import Settings

TEMPLATE = SCHEME + "{+path}"
ARTIFACT_TEMPLATE = ARTIFACT_SCHEME + "{artifact_id}"
COMPLETIONS = 100  # the protocol's limit for one answer
FILE_BYTES = 700_000  # clients drop events over 1 MiB, and base64 adds a third


class Completer:
    """Completes what stands in the addresses of resources."""

    def __init__(self, root: Path) -> None:
        self._root = root
        #: the service, while it lives
        self.sessions: Sessions | None = None

    async def complete(
        self,
        reference: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> Completion | None:
        """Complete the path of a workspace file, or the id of an artifact."""
        if not isinstance(reference, ResourceTemplateReference):
            return None
        found: list[str] = []
        if reference.uri == TEMPLATE:
            found = await asyncio.to_thread(matching_paths, self._root, argument.value)
        elif reference.uri == ARTIFACT_TEMPLATE and self.sessions is not None:
            found = await self.sessions.artifacts.ids(argument.value, COMPLETIONS + 1)
        else:
            return None
        return Completion(values=found[:COMPLETIONS], has_more=len(found) > COMPLETIONS)


def add_resources(server: MCPServer[App], settings: Settings) -> Completer:
    """Offer ``workspace://{path}`` and ``artifact://{id}``; return what completes these."""
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
        return as_text(mimetypes.guess_type(path)[0] or "", content)

    @server.resource(
        ARTIFACT_TEMPLATE,
        name="artifact",
        description="The whole content of an artifact",
        mime_type="application/octet-stream",
    )
    async def artifact(artifact_id: str, ctx: Ctx) -> str | bytes:
        """Return the content of an artifact; text if it is text."""
        return await read_artifact(app_of(ctx).sessions.artifacts, artifact_id)

    completer = Completer(root)
    server.completion()(completer.complete)  # type: ignore[no-untyped-call]  # the SDK's
    return completer


def as_text(kind: str, content: bytes) -> str | bytes:
    """Return content as text if its MIME type says that it is."""
    if kind.startswith("text/") or kind in ("application/json", "image/svg+xml"):
        return content.decode("utf-8", "replace")
    return content


async def read_artifact(artifacts: Artifacts, artifact_id: str) -> str | bytes:
    """Return the content of an artifact.

    Raises:
        ResourceNotFoundError: There is none of this id.
        ResourceError: It is too large, or damaged.
    """
    try:
        found = await artifacts.get(artifact_id)
        if found.size > FILE_BYTES:
            msg = f"{artifact_id} has {found.size} bytes; get_artifact reads it by pages"
            raise ResourceError(msg)
        return as_text(found.mime_type, await artifacts.read_bytes(found))
    except ArtifactNotFoundError as error:
        raise ResourceNotFoundError(str(error)) from error
    except CarrelError as error:
        raise ResourceError(str(error)) from error


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
