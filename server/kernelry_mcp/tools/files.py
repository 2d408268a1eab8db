"""Toolset `files`: the files of the workspace, without running code."""

import asyncio
import base64
import binascii
import mimetypes
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from mcp.types import CallToolResult, ContentBlock, ImageContent, ResourceLink
from pydantic import Field

from kernelry.errors import FileTooLargeError, InvalidArgumentError
from kernelry.usage import quantity
from kernelry.workspace import Content, Mode, known, list_folder, transfer
from kernelry.workspace import files as library
from kernelry_mcp.answers import FILE_BYTES, IMAGES_TOTAL, fitted, is_raster, uri_of
from kernelry_mcp.answers.results import DeletedFile, FileContent, FileEntry, FileList, WrittenFile
from kernelry_mcp.context import Ctx, Declaration, app_of, tool
from kernelry_mcp.links import Purpose
from kernelry_mcp.tools.parameters import PAGE_CHARS

NO_BASE64 = "the content is no base64; encode it, or leave encoding at 'text'"
WorkspacePath = Annotated[str, Field(description="Path in the workspace, like outputs/a.csv")]


@tool(Declaration(title="List files", toolset="files", read_only=True, idempotent=True))
async def list_files(
    ctx: Ctx,
    path: Annotated[str, Field(description="Folder in the workspace")] = ".",
    pattern: Annotated[
        str, Field(max_length=200, description="Glob for names, like *.csv; default: all")
    ] = "",
    recursive: Annotated[bool, Field(description="Look into folders, too")] = False,
    limit: Annotated[int, Field(ge=1, le=1000, description="Entries of a page")] = 200,
    offset: Annotated[int, Field(ge=0, description="Entries to leave out")] = 0,
) -> Annotated[CallToolResult, FileList]:
    r"""List files and folders of the workspace, which all sessions share.

    Sorted by path. Links are not followed. Odd bytes of names are shown as \xNN; only code can
    open such files.
    """
    root = app_of(ctx).sessions.workspace.root
    found = await asyncio.to_thread(list_folder, root, path, pattern=pattern, recursive=recursive)
    total = len(found.entries)
    shown = found.entries[offset : offset + limit]
    end = offset + len(shown)
    result = FileList(
        path=found.path,
        files=[
            FileEntry(
                path=entry.path,
                type=entry.type,
                size=entry.size,
                modified=entry.modified.isoformat(timespec="seconds"),
            )
            for entry in shown
        ],
        total=total,
        next_offset=end if end < total else -1,
        complete=found.complete,
    )
    lines = [f"[{len(shown)} of {total} in {found.path}]", *map(line_of, result.files)]
    if result.next_offset >= 0:
        lines.append(f"[next: offset={result.next_offset}]")
    if not result.complete:
        lines.append("[there is more than was looked at; list a folder in it]")
    return result.answer("\n".join(lines))


@tool(Declaration(title="Read a file", toolset="files", read_only=True, idempotent=True))
async def read_file(
    ctx: Ctx,
    path: WorkspacePath,
    offset: Annotated[
        int, Field(ge=0, description="Read a text from this character on, page by page")
    ] = 0,
    limit: Annotated[int, Field(ge=1, le=PAGE_CHARS, description="Characters of a page")] = 8000,
    link: Annotated[
        bool, Field(description="A download link (on stdio: the path) instead of the content")
    ] = False,
) -> Annotated[CallToolResult, FileContent]:
    """Read a file of the workspace: text by pages, images as images, the rest as base64.

    Large data are better read in run_python_code, or fetched by a link. Links and special files
    are refused.
    """
    app = app_of(ctx)
    if link:
        return await download_link(ctx, path)
    root, budget = app.sessions.workspace.root, app.settings.text_budget

    def read() -> tuple[FileContent, str, list[ContentBlock]]:
        small = budget // 4 * 3  # bytes whose base64 fits
        content = library.read(root, path, offset=offset, limit=limit, data_bytes=small)
        return shown_content(content, offset, small, app.settings.image_side)

    result, text, blocks = await asyncio.to_thread(read)
    return result.answer(text, *blocks)


@tool(Declaration(title="Write a file", toolset="files", destructive=True))
async def write_file(
    ctx: Ctx,
    path: WorkspacePath,
    content: Annotated[str, Field(description="What to write; '' with link")],
    encoding: Annotated[
        Literal["text", "base64"], Field(description="text is written as UTF-8")
    ] = "text",
    overwrite: Annotated[bool, Field(description="Replace a file of that name")] = False,
    append: Annotated[bool, Field(description="Write at the end of a file of that name")] = False,
    link: Annotated[
        bool, Field(description="An upload link (on stdio: the path) for what is no content here")
    ] = False,
) -> Annotated[CallToolResult, WrittenFile]:
    """Write a file of the workspace; folders that are missing are made.

    A file is replaced as a whole or not at all. save_script is for code that sessions import.
    """
    if overwrite and append:
        raise InvalidArgumentError("overwrite and append exclude each other; pass one of them")
    if link:
        if content or append:
            raise InvalidArgumentError("link takes neither content nor append")
        return await upload_link(ctx, path, replace=overwrite)
    mode = Mode.OVERWRITE if overwrite else Mode.APPEND if append else Mode.CREATE
    data = bytes_of(content, encoding)
    root = app_of(ctx).sessions.workspace.root
    done = await asyncio.to_thread(library.write, root, path, data, mode)
    result = WrittenFile(path=done.path, size=done.size, created=done.created, url="")
    verb = "Made" if done.created else "Wrote"
    return result.answer(f"{verb} {done.path}, {done.size} bytes.")


@tool(Declaration(title="Delete a file", toolset="files", destructive=True))
async def delete_file(ctx: Ctx, path: WorkspacePath) -> Annotated[CallToolResult, DeletedFile]:
    """Delete a file or an empty folder of the workspace. Of a link only the link goes."""
    root = app_of(ctx).sessions.workspace.root
    gone = await asyncio.to_thread(library.delete, root, path)
    result = DeletedFile(path=gone.path, type=gone.type)
    return result.answer(f"Deleted the {gone.type} {gone.path}.")


async def download_link(ctx: Ctx, path: str) -> CallToolResult:
    """Answer with where a file can be fetched without passing the model."""
    app = app_of(ctx)
    root = app.sessions.workspace.root
    file = await asyncio.to_thread(transfer.Download, root, path)
    file.close()
    base, path = base_of(ctx), await asyncio.to_thread(known, root, path)
    place = f"on this machine: {root / path}"
    url, until = "", ""
    if base:
        url, grant = app.links.make(base, path, Purpose.DOWNLOAD, file.size)
        until = f", good until {datetime.fromtimestamp(grant.until, UTC):%H:%M:%S} UTC"
        place = f"{url}\nGET{until}, no token needed; Range and If-Range resume it."
    result = FileContent(
        path=path,
        mime_type=mimetypes.guess_type(path)[0] or "",
        size=file.size,
        encoding="link",
        text="",
        offset=0,
        next_offset=-1,
        total_chars=0,
        url=url or (root / path).as_uri(),
    )
    return result.answer(f"{path}, {quantity(file.size)}: {place}")


async def upload_link(ctx: Ctx, path: str, *, replace: bool) -> CallToolResult:
    """Answer with where a file can be brought without passing the model."""
    app = app_of(ctx)
    root = app.sessions.workspace.root
    path = await asyncio.to_thread(transfer.check, root, path, replace=replace)
    await asyncio.to_thread(transfer.remove_old, root)
    base, most = base_of(ctx), app.settings.upload_bytes
    url, said = "", f"Copy it to this path on this machine: {root / path}"
    if base:
        purpose = Purpose.REPLACE if replace else Purpose.UPLOAD
        url, grant = app.links.make(base, path, purpose, most)
        until = f"{datetime.fromtimestamp(grant.until, UTC):%H:%M:%S} UTC"
        said = (
            f"PUT up to {quantity(most)} to (good until {until}, no token needed):\n{url}\n"
            f"For example: curl -T FILE 'URL'. To resume, HEAD tells Upload-Offset; go on with "
            "Content-Range: bytes OFFSET-LAST/TOTAL."
        )
    result = WrittenFile(path=path, size=0, created=False, url=url or (root / path).as_uri())
    return result.answer(said)


def base_of(ctx: Ctx) -> str:
    """Return by which address the client reaches this server; empty: over stdio."""
    request = ctx.request_context.request
    if request is None:
        return ""
    return f"{request.url.scheme}://{request.headers.get('host', '')}"


def line_of(entry: FileEntry) -> str:
    """Return an entry as a line for the model."""
    if entry.type == "folder":
        return f"{entry.path}/"
    kind = "" if entry.type == "file" else f" ({entry.type})"
    return f"{entry.path}  {entry.size} bytes{kind}"


def shown_content(
    content: Content, offset: int, small: int, side: int
) -> tuple[FileContent, str, list[ContentBlock]]:
    """Return what a file's content is answered with.

    Args:
        content: What was read.
        offset: The character that was asked for.
        small: Bytes up to which data are answered as base64.
        side: Pixels of a picture's longer side.

    Raises:
        FileTooLargeError: Neither an answer nor a resource can hold it.
    """
    result = FileContent(
        path=content.path,
        mime_type=content.mime_type,
        size=content.size,
        encoding="link",
        text="",
        offset=offset,
        next_offset=-1,
        total_chars=0,
        url="",
    )
    name = f"{content.path}, {content.size} bytes"
    if content.page is not None:
        page = content.page
        result.encoding, result.text, result.total_chars = "text", page.text, page.total
        result.next_offset = page.end if page.end < page.total else -1
        where = f"[{content.path}: characters {page.offset} to {page.end} of {page.total}"
        more = f"; next: offset={page.end}]" if result.next_offset >= 0 else "; the end]"
        return result, f"{where}{more}\n{page.text}", []
    if content.data is not None and (image := image_of(content.mime_type, content.data, side)):
        result.encoding = "image"
        return result, f"[{name}]", [image]
    if content.data is not None and len(content.data) <= small:
        result.encoding, result.text = "base64", base64.b64encode(content.data).decode("ascii")
        return result, f"[{name}, not text, as base64]\n{result.text}", []
    if content.size > FILE_BYTES:
        msg = f"'{content.path}' is not text and has {content.size} bytes, more than fit an answer"
        raise FileTooLargeError(f"{msg}. Read it in run_python_code, or pass link=true.")
    link = ResourceLink(
        type="resource_link",
        uri=uri_of(content.path),
        name=Path(content.path).name,
        mime_type=content.mime_type or "application/octet-stream",
    )
    return result, f"[{name}, not text: read it in run_python_code, or the resource]", [link]


def image_of(mime: str, data: bytes, side: int) -> ImageContent | None:
    """Return an image that fits an answer; None: it is none, or none that can be shown."""
    if not is_raster(mime):
        return None
    try:
        picture = fitted(data, side)
    except ValueError:
        return None
    encoded = base64.b64encode(picture.data).decode("ascii")
    if len(encoded) > IMAGES_TOTAL:
        return None
    return ImageContent(type="image", data=encoded, mime_type=picture.mime)


def bytes_of(content: str, encoding: str) -> bytes:
    """Return the bytes that a content stands for.

    Raises:
        InvalidArgumentError: It is no base64, or can't be UTF-8.
    """
    try:
        if encoding == "base64":
            return base64.b64decode(content, validate=True)
        return content.encode("utf-8")
    except binascii.Error as error:
        raise InvalidArgumentError(NO_BASE64) from error
    except UnicodeEncodeError as error:
        msg = "the content holds a lone surrogate; it can't be written as UTF-8"
        raise InvalidArgumentError(msg) from error
    except ValueError as error:  # not even ASCII
        raise InvalidArgumentError(NO_BASE64) from error
