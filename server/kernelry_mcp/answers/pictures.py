"""Pictures in an answer: what their bytes are, no larger than models see, no more than help.

Whatever is not shown as it is, is named: scaled ones with their size, broken ones as broken, those
beyond the number by how many they are; all with their file.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mcp.types import ContentBlock, ImageContent, ResourceLink

from kernelry.errors import KernelryError
from kernelry.output import Display, image_bytes, images_of, saved_files, saved_in
from kernelry.workspace import files
from kernelry_mcp.answers.links import uri_of

IMAGE_BYTES = 500_000  # of one image in an answer
IMAGE_PIXELS = 1_200_000
SHRINK_STEPS = (1.0, 0.7, 0.5, 0.35, 0.25)  # of the largest size that is allowed
IMAGES_TOTAL = 700_000  # base64 characters of all images; clients drop events over 1 MiB
IMAGE_LIMIT_PIXELS = 64_000_000  # a picture that claims more is not opened
RASTER_MIMES = ("image/png", "image/jpeg", "image/gif", "image/webp")
#: Pillow's name of a kind that clients show -> its type; any other is converted
SHOWN_AS_IS = {
    "PNG": RASTER_MIMES[0],
    "JPEG": "image/jpeg",
    "GIF": "image/gif",
    "WEBP": "image/webp",
}
NAMED = 5  # files of pictures that are not shown


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of pictures goes into one answer."""

    #: how many
    count: int = 10
    #: pixels of the longer side
    side: int = 2_000


@dataclass(slots=True)
class Shown:
    """The pictures of an answer."""

    #: pictures, then links to all that was saved
    blocks: list[ContentBlock] = field(default_factory=list)
    #: what is not shown as it is
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as it can be sent."""

    #: its type
    mime: str
    #: its bytes
    data: bytes
    #: how large it is
    size: tuple[int, int]
    #: how large the original is
    of: tuple[int, int]


def show(displays: Sequence[Display], workspace: Path, limits: Limits) -> Shown:
    """Return the pictures among displays, as far as they fit; blocking, ask from a thread."""
    shown = Shown()
    links: list[ContentBlock] = []
    left_out: list[str] = []
    room, number = IMAGES_TOTAL, 0
    for display in displays:
        links += [link_to(mime, path) for mime, path in saved_files([display])]
        file = next((path for mime, path in saved_files([display]) if is_raster(mime)), "")
        if not any(is_raster(mime) for mime in (*display.data, *saved_in(display))):
            continue
        if number >= limits.count or room <= 0:
            left_out.append(file)
            continue
        number += 1
        kept = f"; the original: {file}" if file else ""
        try:
            picture = read(display, workspace, limits.side)
            encoded = base64.b64encode(picture.data).decode("ascii")
            if len(encoded) > room:
                room = 0
                left_out.append(file)
                continue
        except (KernelryError, ValueError) as error:
            shown.notes.append(f"Picture {number} can't be shown: {error}{kept}")
            continue
        room -= len(encoded)
        shown.blocks.append(ImageContent(type="image", data=encoded, mime_type=picture.mime))
        if picture.size != picture.of:
            sizes = [f"{width}x{height}" for width, height in (picture.of, picture.size)]
            shown.notes.append(f"Picture {number} is {sizes[0]}, shown as {sizes[1]}{kept}")
    if left_out:
        names = [file for file in left_out if file]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        where = f": {', '.join(names[:NAMED])}{more}" if names else ""
        shown.notes.append(f"{len(left_out)} more pictures are not shown{where}")
    shown.blocks += links
    return shown


def is_raster(mime: str) -> bool:
    """Say whether a type is one of a picture made of pixels."""
    return mime.startswith("image/") and mime != "image/svg+xml"


def link_to(mime: str, path: str) -> ResourceLink:
    """Return a link to a file of the workspace."""
    return ResourceLink(
        type="resource_link", uri=uri_of(path), name=Path(path).name, mime_type=mime
    )


def read(display: Display, workspace: Path, side: int) -> Picture:
    """Return the picture of a display, from the first of its forms that is one.

    Raises:
        KernelryError: Its file can't be read.
        ValueError: None is a picture, or none that can be sent.
    """
    forms, saved = images_of(display), saved_in(display)
    why: Exception = ValueError("there is no picture in it")
    for mime in filter(is_raster, dict.fromkeys((*RASTER_MIMES, *forms, *saved))):
        try:
            if mime in forms:
                return fitted(image_bytes(mime, forms[mime]), side)
            if mime in saved:
                return fitted(files.read_bytes(workspace, saved[mime], files.IMAGE_BYTES), side)
        except (KernelryError, ValueError) as error:
            why = error
    raise why


def fitted(data: bytes, side: int) -> Picture:
    """Return a picture that fits an answer: as it is, converted, or scaled down.

    Raises:
        ValueError: It is broken, claims to be enormous, or has too much detail.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as image:
            size = (image.width, image.height)
            if size[0] * size[1] > IMAGE_LIMIT_PIXELS:
                raise ValueError(f"{size[0]}x{size[1]} is too large to open")
            image.load()
            mime = SHOWN_AS_IS.get(image.format or "")
            fits = min(1.0, side / max(size), (IMAGE_PIXELS / (size[0] * size[1])) ** 0.5)
            if mime and fits == 1.0 and len(data) <= IMAGE_BYTES:
                return Picture(mime, data, size, size)
            whole = image.convert("RGBA" if "A" in image.getbands() else "RGB")
    except UnidentifiedImageError as error:
        raise ValueError("it is broken, or no picture") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"it is broken: {error}") from error
    for step in SHRINK_STEPS:
        scaled = (max(int(size[0] * fits * step), 1), max(int(size[1] * fits * step), 1))
        small = whole if scaled == size else whole.resize(scaled)
        for kind in ("PNG", "JPEG"):
            buffer = io.BytesIO()
            (small.convert("RGB") if kind == "JPEG" else small).save(buffer, kind)
            if buffer.tell() <= IMAGE_BYTES:
                return Picture(f"image/{kind.lower()}", buffer.getvalue(), scaled, size)
    raise ValueError("it has too much detail to be sent small")
