"""What is told of an artifact's content: its kind, and pages of it."""

import mimetypes
from dataclasses import replace
from difflib import unified_diff

from kernelry.artifacts.models import Artifact
from kernelry.output import Page, Source, cut
from kernelry.store import chunks_of
from kernelry.workspace import files

COMPARED_LINES = 5_000  # of a content: comparing takes the square of it at worst


def content_of(
    source: Source, artifact: Artifact, offset: int, limit: int, data_bytes: int
) -> files.Content:
    """Return a page of a content; see `Artifacts.read`."""
    start = source.read(files.PROBE_BYTES)
    whole, kind = Rewound(start, source), artifact.mime_type
    content = files.Content(artifact.name, kind, artifact.size)
    if files.is_image(kind) and artifact.size <= files.IMAGE_BYTES:
        return replace(content, data=b"".join(chunks_of(whole)))
    if files.is_text(start):
        text, total = cut(whole, offset, offset + limit, artifact.size + 1)
        page = Page(text, min(offset, total), min(offset + len(text), total), total)
        return replace(content, page=page)
    return replace(content, data=_slice(whole, offset, data_bytes))


def guess(name: str, start: bytes) -> str:
    """Return the MIME type of data, by its name and its beginning."""
    usual = "text/plain" if files.is_text(start) else "application/octet-stream"
    return mimetypes.guess_type(name)[0] or usual


class Rewound:
    """A source of which the beginning was read already."""

    def __init__(self, start: bytes, source: Source) -> None:
        self._start = start
        self._source = source

    def read(self, size: int, /) -> bytes:
        """Return the next bytes; none at the end."""
        if self._start:
            data, self._start = self._start[:size], self._start[size:]
            return data
        return self._source.read(size)


def _slice(source: Source, offset: int, most: int) -> bytes:
    position, pieces = 0, []
    for chunk in chunks_of(source):
        pieces.append(chunk[max(offset - position, 0) : max(offset + most - position, 0)])
        position += len(chunk)
    return b"".join(pieces)


def difference(old: tuple[Artifact, bytes], new: tuple[Artifact, bytes]) -> str:
    """Return what changed between two contents: lines as a unified diff, else their sizes."""
    names = [f"{one.name} v{one.version} ({one.id})" for one, _ in (old, new)]
    if old[1] == new[1]:
        return f"{names[0]} and {names[1]} have the same content."
    sizes = f"{names[0]} has {old[0].size} bytes, {names[1]} has {new[0].size}"
    try:
        lines = [content.decode("utf-8").splitlines() for _, content in (old, new)]
    except UnicodeDecodeError:
        return f"{sizes}; they differ, and are no text."
    before, after = lines
    if max(len(before), len(after)) > COMPARED_LINES:
        return f"{sizes}; they differ, and have too many lines to be compared one by one."
    return "\n".join(unified_diff(before, after, names[0], names[1], lineterm=""))
