"""Keep what executions show and text can't tell: the original in the workspace's outputs/.

Pictures always; pages, sound, films and what a library of charts draws itself, where a reader of
text would miss them. A file is named for what its bytes are, not for what they are said to be.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from kernelry.apart import Apart
from kernelry.beneath import writing
from kernelry.output.fold import Display, Output
from kernelry.output.forms import PICTURES, SAVED, is_told, joined
from kernelry.paths import Workspace

INLINE_BYTES = 1 << 20  # characters of a form that are also kept in the store
NOT_SAVED = "not saved"
SVG = "image/svg+xml"
#: what the first bytes of a picture say that it is
SIGNS = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"BM": "image/bmp",
    b"II*\0": "image/tiff",
    b"MM\0*": "image/tiff",
}
SUFFIXES = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/gif": "gif",
    "image/webp": "webp",
    "image/bmp": "bmp",
    "image/tiff": "tiff",
    SVG: "svg",
    "text/html": "html",
    "application/pdf": "pdf",
    "application/geo+json": "geojson",
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "audio/mpeg": "mp3",
    "audio/ogg": "ogg",
    "audio/flac": "flac",
    "video/mp4": "mp4",
    "video/webm": "webm",
    "video/ogg": "ogv",
}
#: charts as JSON: the library's name in the type -> suffix
CHARTS = {"plotly": "plotly.json", "vegalite": "vl.json", "vega": "vg.json"}
CHART_MIME = re.compile(r"application/vnd\.(plotly|vegalite|vega)\.v\d[\w.]*\+json")
#: what makes a page more than its text
RICH_HTML = re.compile(r"<(?:script|svg|audio|video|iframe|canvas|img|object|embed)\b", re.I)
LOOKED_AT = 200_000  # characters of a page in which that is looked for


async def save_shown(
    outputs: tuple[Output, ...],
    workspace: Workspace,
    stem: str,
    apart: Apart | None = None,
    owner: str = "",
) -> tuple[Output, ...]:
    """Write what text can't tell of some outputs to files.

    Args:
        outputs: What an execution emitted.
        workspace: The files come into its outputs/.
        stem: How their names begin; a number and a suffix follow.
        apart: Does it; None: a thread of its own.
        owner: Whose they are.

    Returns:
        The outputs, with notes of where the files are.
    """
    if not any(isinstance(o, Display) and saved_forms(o) for o in outputs):
        return outputs
    return await (apart or Apart()).run(owner, _save_all, outputs, workspace, stem)


def saved_forms(display: Display) -> dict[str, Any]:
    """Return the forms of a display that are kept in files."""
    return {
        mime: form
        for mime, form in display.data.items()
        if form and suffix_of(mime) and (mime != "text/html" or needs_page(display))
    }


def needs_page(display: Display) -> bool:
    """Say whether the page of a display has what its text has not."""
    page = joined(display.data.get("text/html"))[:LOOKED_AT]
    return not is_told(display.data) or RICH_HTML.search(page) is not None


def suffix_of(mime: str) -> str:
    """Return how the name of a file of this kind ends; "": such are not kept."""
    if chart := CHART_MIME.fullmatch(mime):
        return CHARTS[chart[1]]
    return SUFFIXES.get(mime, "")


def images_of(display: Display) -> dict[str, str]:
    """Return the image forms of a display."""
    return {
        mime: value
        for mime in PICTURES
        if isinstance(value := display.data.get(mime), str) and value
    }


def image_bytes(mime: str, value: str) -> bytes:
    """Return the bytes of a form; SVG and pages come as text, what is binary as base64.

    Raises:
        ValueError: It is not what it says.
    """
    if mime == SVG:
        return value.encode("utf-8")
    try:
        return base64.b64decode(value, validate=False)
    except binascii.Error as error:
        raise ValueError(f"not a {mime}: {error}") from error


def kind_of(mime: str, content: bytes) -> str:
    """Return what a picture is, by its first bytes; what these don't say it is as it says."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    found = (kind for sign, kind in SIGNS.items() if content.startswith(sign))
    return next(found, mime) if mime.startswith("image/") and mime != SVG else mime


def saved_files(outputs: Iterable[Output]) -> list[tuple[str, str]]:
    """Return (MIME type, path) of what was saved."""
    return [
        (mime, path)
        for output in outputs
        for mime, path in saved_in(output).items()
        if not path.startswith(NOT_SAVED)
    ]


def saved_in(output: Output) -> dict[str, str]:
    """Return MIME type -> path of the forms of an output that were saved, or why one was not."""
    found = output.metadata.get(SAVED) if isinstance(output, Display) else None
    # A cell that writes the key itself names what it likes; it is read below the workspace only.
    return (
        {m: path for m, path in found.items() if isinstance(path, str) and suffix_of(m)}
        if isinstance(found, dict)
        else {}
    )


def _save_all(outputs: tuple[Output, ...], workspace: Workspace, stem: str) -> tuple[Output, ...]:
    number = 0
    saved: list[Output] = []
    for output in outputs:
        if isinstance(output, Display) and (forms := saved_forms(output)):
            number += 1
            saved.append(_save(output, forms, workspace, f"{stem}-{number}"))
        else:
            saved.append(output)
    return tuple(saved)


def _save(display: Display, forms: dict[str, Any], workspace: Workspace, stem: str) -> Display:
    paths: dict[str, Any] = {}
    data = dict(display.data)
    rasters = [mime for mime in forms if mime.startswith("image/") and mime != SVG]
    for mime, form in forms.items():
        if mime in rasters[1:]:  # the same picture in another form, as PIL offers it
            del data[mime]
            continue
        try:
            content = _content(mime, form)
            kind = kind_of(mime, content)
            paths[mime] = _write_new(workspace, stem, suffix_of(kind), content)
        except (OSError, ValueError) as error:
            paths[mime] = f"{NOT_SAVED}: {error}"
            continue
        if len(content) > INLINE_BYTES:
            del data[mime]
    return replace(display, data=data, metadata={**display.metadata, SAVED: paths})


def _content(mime: str, form: Any) -> bytes:
    """Return what goes into the file.

    Raises:
        ValueError: The form is not what it says.
    """
    if mime.endswith("json"):
        return json.dumps(form, ensure_ascii=False).encode("utf-8")
    text = joined(form)
    return text.encode("utf-8") if mime == "text/html" else image_bytes(mime, text)


def _write_new(workspace: Workspace, stem: str, suffix: str, content: bytes) -> str:
    """Write a file of outputs/ that does not exist yet, numbering the name if it does."""
    stem = f"{workspace.outputs.name}/{re.sub(r'[^A-Za-z0-9_.-]', '_', stem)}"
    for attempt in range(1000):
        path = f"{stem}.{suffix}" if attempt == 0 else f"{stem}_{attempt}.{suffix}"
        try:
            writing.create(workspace.root, path, content)
        except FileExistsError:
            continue
        return path
    raise OSError(f"no free name for {stem}.{suffix}")
