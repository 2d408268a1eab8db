"""Toolset `artifacts`: named data of sessions that outlives kernels and servers."""

import base64
from dataclasses import replace
from typing import Annotated, Any, Literal

from mcp.types import CallToolResult, ContentBlock, ResourceLink
from pydantic import Field

from kernelry import Artifact, ArtifactQuery, ArtifactSpec
from kernelry.artifacts import ID
from kernelry.errors import InvalidArgumentError
from kernelry.output import clip
from kernelry.workspace import Content
from kernelry_mcp.answers import FILE_BYTES, artifact_uri
from kernelry_mcp.answers.results import (
    ArtifactContent,
    ArtifactInfo,
    ArtifactList,
    DeletedArtifact,
    StoredArtifact,
)
from kernelry_mcp.callers import caller_of
from kernelry_mcp.context import App, Ctx, Declaration, app_of, tool
from kernelry_mcp.tools.files import bytes_of, image_of
from kernelry_mcp.tools.parameters import PAGE_CHARS, Moment, SessionId

ANY_SESSION = "*"
LIST_CHARS = 250_000  # of a list in one answer; clients drop events over 1 MiB


@tool(
    Declaration(
        title="Store an artifact",
        toolset="artifacts",
        options=("encoding", "type", "mime_type", "metadata"),
    )
)
async def store_artifact(
    ctx: Ctx,
    name: Annotated[
        str, Field(description="The same name again in a session makes its next version")
    ],
    content: Annotated[str | None, Field(description="What to store; or path")] = None,
    path: Annotated[str | None, Field(description="Workspace file to store")] = None,
    encoding: Annotated[Literal["text", "base64"], Field(description="Of content")] = "text",
    type: Annotated[
        str,
        Field(
            description="user_input, tool_result, agent_output, system_generated, or a word of "
            "your own; default: as the version before, else agent_output"
        ),
    ] = "",
    mime_type: Annotated[str, Field(description="Default: as name and content tell")] = "",
    tags: Annotated[
        list[str] | None,
        Field(description="Words to find it by; default: those of the version before"),
    ] = None,
    metadata: Annotated[dict[str, Any] | None, Field(description="Key-value pairs")] = None,
    session_id: SessionId = None,
) -> Annotated[CallToolResult, StoredArtifact]:
    """Keep data of a session under a name, unchanged, until it or the session is deleted.

    For results worth finding again: they have versions and tags, and no cell can change them.
    """
    app = app_of(ctx)
    session = app.sessions.find(caller_of(ctx), session_id)
    spec = ArtifactSpec(
        name=name,
        type=type,
        mime_type=mime_type,
        tags=None if tags is None else (*tags,),
        metadata=metadata or {},
    )
    artifacts = app.sessions.artifacts
    if content is not None and path is None:
        made = await artifacts.store(session.id, spec, bytes_of(content, encoding))
    elif path is not None and content is None:
        made = await artifacts.store_file(session.id, spec, path)
    else:
        raise InvalidArgumentError("pass either content or path")
    result = StoredArtifact(
        session_id=made.session_id,
        artifact_id=made.id,
        name=made.name,
        version=made.version,
        previous=made.previous,
        mime_type=made.mime_type,
        size=made.size,
        hash=made.hash,
    )
    version = f", version {made.version}" if made.version > 1 else ""
    tagged = f", tags {', '.join(made.tags)}" if made.tags else ""
    return result.answer(
        f"Stored '{made.name}' as {made.id}{version}, {made.size} bytes ({made.type}{tagged})."
    )


@tool(Declaration(title="Read an artifact", toolset="artifacts", read_only=True, idempotent=True))
async def get_artifact(
    ctx: Ctx,
    artifact_id: Annotated[
        str, Field(description="Its id; or its name: the newest version in the session")
    ],
    session_id: SessionId = None,
    offset: Annotated[
        int, Field(ge=0, description="Read from this character on; from this byte if not text")
    ] = 0,
    limit: Annotated[int, Field(ge=4, le=PAGE_CHARS, description="Characters of a page")] = 8000,
    compare_with: Annotated[
        str, Field(description="A version number or an id: say what changed since that one")
    ] = "",
) -> Annotated[CallToolResult, ArtifactContent]:
    """Read an artifact: text by pages, an image as an image, the rest as base64 by pages.

    With compare_with: what changed between two versions, as a diff.
    """
    app = app_of(ctx)
    found = await find(ctx, artifact_id, session_id)
    if compare_with:
        return await compared(app, found, compare_with, limit)
    most = limit // 4 * 3  # bytes whose base64 fits
    content = await app.sessions.artifacts.read(found, offset=offset, limit=limit, data_bytes=most)
    result, text, blocks = shown_artifact(found, content, offset, most, app.settings.image_side)
    return result.answer(text, *blocks)


@tool(
    Declaration(
        title="Find artifacts",
        toolset="artifacts",
        read_only=True,
        idempotent=True,
        options=("execution_id", "since", "until", "min_size", "max_size", "limit", "offset"),
    )
)
async def query_artifacts(
    ctx: Ctx,
    session_id: Annotated[
        str | None, Field(description="Default: the one last switched to; '*': all")
    ] = None,
    execution_id: Annotated[str, Field(description="Output of this execution")] = "",
    type: Annotated[str, Field(description="Of this type")] = "",
    tags: Annotated[list[str] | None, Field(description="With all of these")] = None,
    name: Annotated[str, Field(max_length=200, description="Glob, like *.csv")] = "",
    since: Moment = None,
    until: Moment = None,
    min_size: Annotated[int | None, Field(ge=0, description="Bytes")] = None,
    max_size: Annotated[int | None, Field(ge=0, description="Bytes")] = None,
    limit: Annotated[int, Field(ge=1, le=1000, description="Artifacts of a page")] = 100,
    offset: Annotated[int, Field(ge=0, description="Artifacts to leave out")] = 0,
) -> Annotated[CallToolResult, ArtifactList]:
    """Find artifacts that fit all filters, the newest first.

    Long output of an execution, and its images, are artifacts too (type system_generated).
    """
    app = app_of(ctx)
    session = ""
    if session_id != ANY_SESSION:
        session = app.sessions.find(caller_of(ctx), session_id).id
    query = ArtifactQuery(
        session_id=session,
        execution_id=execution_id,
        type=type,
        tags=tuple(tags or ()),
        name=name,
        since=since,
        until=until,
        min_size=min_size,
        max_size=max_size,
    )
    found, total = await app.sessions.artifacts.query(query, limit=limit, offset=offset)
    shown: list[ArtifactInfo] = []
    room = LIST_CHARS
    for artifact in found:
        info = info_of(artifact)
        room -= len(info.model_dump_json())
        if room < 0 and shown:
            break
        shown.append(info)
    end = offset + len(shown)
    result = ArtifactList(
        session_id=session or ANY_SESSION,
        artifacts=shown,
        total=total,
        next_offset=end if end < total else -1,
    )
    lines = [f"[{len(shown)} of {total}]", *map(line_of, shown)]
    if result.next_offset >= 0:
        lines.append(f"[next: offset={result.next_offset}]")
    if not total and session:
        _, there = await app.sessions.artifacts.query(replace(query, session_id=""), limit=1)
        lines.append(f"None in session '{session}'; session_id='*' looks in all: {there} fit.")
    return result.answer("\n".join(lines))


@tool(Declaration(title="Delete an artifact", toolset="artifacts", destructive=True))
async def delete_artifact(
    ctx: Ctx,
    artifact_id: Annotated[str, Field(description="Its id; a name is not enough")],
    session_id: SessionId = None,
) -> Annotated[CallToolResult, DeletedArtifact]:
    """Delete one version of an artifact; others stay, also those with the same content."""
    app = app_of(ctx)
    artifacts = app.sessions.artifacts
    owner = "" if session_id is None else app.sessions.get(session_id).id
    gone = await artifacts.delete((await artifacts.get(artifact_id, owner)).id)
    result = DeletedArtifact(
        session_id=gone.session_id, artifact_id=gone.id, name=gone.name, version=gone.version
    )
    return result.answer(f"Deleted '{gone.name}' version {gone.version} ({gone.id}).")


async def find(ctx: Ctx, key: str, session_id: str | None) -> Artifact:
    """Return the artifact of an id, or the newest of a name in the session that is meant."""
    sessions = app_of(ctx).sessions
    session = sessions.find(caller_of(ctx), session_id)
    if ID.fullmatch(key):  # an id says all; a session that is named besides must be its own
        return await sessions.artifacts.get(key, "" if session_id is None else session.id)
    return await sessions.artifacts.newest(session.id, key)


async def compared(app: App, new: Artifact, key: str, limit: int) -> CallToolResult:
    """Answer with what changed between two versions."""
    artifacts = app.sessions.artifacts
    if key.isdecimal():
        number = min(int(key[:9]), 10**9)
        old = await artifacts.version(new.session_id, new.name, number)
    else:
        old = await artifacts.get(key)
    whole = await artifacts.compare(old, new)
    text = clip(whole, limit).joined("[... left out; ask for a larger limit ...]")
    result = ArtifactContent(
        session_id=new.session_id,
        artifact=info_of(new),
        encoding="diff",
        text=text,
        offset=0,
        next_offset=-1,
        total=len(whole),
    )
    return result.answer(text)


def info_of(artifact: Artifact) -> ArtifactInfo:
    """Return what is told of an artifact."""
    return ArtifactInfo(
        artifact_id=artifact.id,
        session_id=artifact.session_id,
        execution_id=artifact.execution_id,
        name=artifact.name,
        version=artifact.version,
        previous=artifact.previous,
        type=artifact.type,
        mime_type=artifact.mime_type,
        size=artifact.size,
        tags=list(artifact.tags),
        metadata=artifact.metadata,
        hash=artifact.hash,
        created_at=artifact.created_at.isoformat(timespec="milliseconds"),
    )


def line_of(info: ArtifactInfo) -> str:
    """Return an artifact as a line for the model."""
    tags = f"  #{' #'.join(info.tags)}" if info.tags else ""
    what = f"{info.type}, {info.mime_type}, {info.size} bytes, {info.created_at}"
    return f"{info.artifact_id}  {info.name} v{info.version}  {what}{tags}"


def shown_artifact(
    artifact: Artifact, content: Content, offset: int, most: int, side: int
) -> tuple[ArtifactContent, str, list[ContentBlock]]:
    """Return what an artifact is answered with.

    Args:
        artifact: Which.
        content: What was read.
        offset: Where from.
        most: Bytes of data that the answer may have.
        side: Pixels of a picture's longer side.
    """
    result = ArtifactContent(
        session_id=artifact.session_id,
        artifact=info_of(artifact),
        encoding="text",
        text="",
        offset=offset,
        next_offset=-1,
        total=artifact.size,
    )
    name = f"{artifact.name} v{artifact.version} ({artifact.id}), {artifact.mime_type}"
    if content.page is not None:
        result.text, result.total, end = content.page.text, content.page.total, content.page.end
        unit = "characters"
    else:
        data = content.data or b""
        if offset == 0 and (image := image_of(artifact.mime_type, data, side)):
            result.encoding = "image"
            return result, f"[{name}, {artifact.size} bytes]", [image]
        if len(data) > most:  # an image that can't be shown, whole
            data = data[offset : offset + most]
        result.encoding, result.text = "base64", base64.b64encode(data).decode("ascii")
        unit, end = "base64 of bytes", offset + len(data)
    blocks: list[ContentBlock] = []
    where = f"[{name}: {unit} {min(offset, result.total)} to {end} of {result.total}"
    if end < result.total:
        result.next_offset = end
        where += f"; next: offset={end}]"
        if artifact.size <= FILE_BYTES:
            blocks.append(link_to(artifact))
    else:
        where += "; the end]"
    return result, f"{where}\n{result.text}", blocks


def link_to(artifact: Artifact) -> ResourceLink:
    """Return a link to the whole content."""
    return ResourceLink(
        type="resource_link",
        uri=artifact_uri(artifact.id),
        name=artifact.name,
        mime_type=artifact.mime_type,
        size=artifact.size,
    )
