"""Keep the images that executions show: the original in the workspace's outputs/."""

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from kernelry.apart import Apart
from kernelry.beneath import writing
from kernelry.output.fold import IMAGE_MIMES, Display, Output
from kernelry.paths import Workspace

INLINE_BYTES = 1 << 20  # base64 characters of an image that are also kept in the store
SUFFIXES = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/gif": "gif",
    "image/webp": "webp",
    "image/svg+xml": "svg",
}
#: key in a display's metadata: MIME type -> path of the saved original, in the workspace
SAVED = "kernelry_saved"
NOT_SAVED = "not saved"


async def save_images(
    outputs: tuple[Output, ...],
    workspace: Workspace,
    stem: str,
    apart: Apart | None = None,
    owner: str = "",
) -> tuple[Output, ...]:
    """Write the images among outputs to files.

    Args:
        outputs: What an execution emitted.
        workspace: The files come into its outputs/.
        stem: How their names begin; a number and a suffix follow.
        apart: Does it; None: a thread of its own.
        owner: Whose they are.

    Returns:
        The outputs, with notes of where the files are.
    """
    if not any(isinstance(o, Display) and images_of(o) for o in outputs):
        return outputs
    return await (apart or Apart()).run(owner, _save_all, outputs, workspace, stem)


def images_of(display: Display) -> dict[str, str]:
    """Return the image forms of a display."""
    return {
        mime: value
        for mime in IMAGE_MIMES
        if isinstance(value := display.data.get(mime), str) and value
    }


def image_bytes(mime: str, value: str) -> bytes:
    """Return an image's bytes; SVG comes as text, the others as base64.

    Raises:
        ValueError: It is not what it says.
    """
    if mime == "image/svg+xml":
        return value.encode("utf-8")
    try:
        return base64.b64decode(value, validate=False)
    except binascii.Error as error:
        raise ValueError(f"not a {mime}: {error}") from error


def saved_files(outputs: Iterable[Output]) -> list[tuple[str, str]]:
    """Return (MIME type, path) of the images that were saved."""
    return [
        (mime, path)
        for output in outputs
        for mime, path in saved_in(output).items()
        if not path.startswith(NOT_SAVED)
    ]


def saved_in(output: Output) -> dict[str, str]:
    """Return MIME type -> path of the images of an output that were saved, or why one was not."""
    found = output.metadata.get(SAVED) if isinstance(output, Display) else None
    # A cell that writes the key itself names what it likes; it is read below the workspace only.
    return (
        {mime: found[mime] for mime in SUFFIXES if isinstance(found.get(mime), str)}
        if isinstance(found, dict)
        else {}
    )


def _save_all(outputs: tuple[Output, ...], workspace: Workspace, stem: str) -> tuple[Output, ...]:
    number = 0
    saved: list[Output] = []
    for output in outputs:
        if isinstance(output, Display) and (forms := images_of(output)):
            number += 1
            saved.append(_save(output, forms, workspace, f"{stem}-{number}"))
        else:
            saved.append(output)
    return tuple(saved)


def _save(display: Display, forms: dict[str, str], workspace: Workspace, stem: str) -> Display:
    paths: dict[str, Any] = {}
    data = dict(display.data)
    rasters = [mime for mime in forms if mime != "image/svg+xml"]
    for mime, value in forms.items():
        if mime in rasters[1:]:  # the same picture in another form, as PIL offers it
            del data[mime]
            continue
        try:
            content = image_bytes(mime, value)
            paths[mime] = _write_new(workspace, stem, SUFFIXES[mime], content)
        except (OSError, ValueError) as error:
            paths[mime] = f"{NOT_SAVED}: {error}"
            continue
        if len(value) > INLINE_BYTES:
            del data[mime]
    return replace(display, data=data, metadata={**display.metadata, SAVED: paths})


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
