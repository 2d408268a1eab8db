"""Resources: workspace files and artifacts, for clients that follow links."""

import asyncio
import mimetypes
from pathlib import Path

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError

from kernelry.artifacts import Artifacts
from kernelry.errors import ArtifactNotFoundError, FileTooLargeError, KernelryError
from kernelry.workspace import files, transfer
from kernelry_mcp.answers import ARTIFACT_SCHEME, FILE_BYTES, SCHEME
from kernelry_mcp.context import App, Ctx, app_of
from kernelry_mcp.settings import Settings

TEMPLATE = SCHEME + "{+path}{?offset,length}"
LARGEST = 1 << 62  # offset that a file can have
ARTIFACT_TEMPLATE = ARTIFACT_SCHEME + "{artifact_id}"


def add_resources(server: MCPServer[App], settings: Settings) -> None:
    """Offer ``workspace://{path}`` and ``artifact://{id}``."""
    root = settings.workspace.expanduser().absolute()

    @server.resource(
        TEMPLATE,
        name="workspace file",
        description=f"A file of the workspace; with offset and length those bytes, {FILE_BYTES} "
        "at most",
        mime_type="application/octet-stream",
    )
    async def workspace_file(path: str, offset: int = 0, length: int = 0) -> str | bytes:
        """Return a file of the workspace, text if it is text; or some of its bytes."""
        if offset or length:
            return await asyncio.to_thread(read_part, root, path, offset, length or FILE_BYTES)
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
    except KernelryError as error:
        raise ResourceError(str(error)) from error


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
    except KernelryError as error:
        raise ResourceNotFoundError(str(error)) from error


def read_part(root: Path, path: str, offset: int, length: int) -> bytes:
    """Return some bytes of a regular file below `root`; no link is followed.

    Raises:
        ResourceNotFoundError: There is no such file there.
        ResourceError: They are too many, or none can be meant.
    """
    if not 0 <= offset < LARGEST or not 0 < length <= FILE_BYTES:
        raise ResourceError(f"offset begins at 0, length is 1 to {FILE_BYTES}")
    try:
        file = transfer.Download(root, path)
    except KernelryError as error:
        raise ResourceNotFoundError(str(error)) from error
    try:
        return file.read(offset, length)
    finally:
        file.close()
