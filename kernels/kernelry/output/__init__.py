"""From messages to outputs, and from outputs to text and pictures."""

from kernelry.output import fold, taking
from kernelry.output.fold import (
    Display,
    Error,
    Output,
    OutputFold,
    Spill,
    Stream,
    clip,
    spill_of,
    stream_text,
    text_of,
)
from kernelry.output.forms import SAVED
from kernelry.output.saving import (
    image_bytes,
    images_of,
    kind_of,
    save_shown,
    saved_files,
    saved_in,
)
from kernelry.output.terminal import plain, readable
from kernelry.output.transcript import COUNTED, SPILL_BYTES, Page, Source, Transcript, beyond, cut

__all__ = [
    "COUNTED",
    "SAVED",
    "SPILL_BYTES",
    "Display",
    "Error",
    "Output",
    "OutputFold",
    "Page",
    "Source",
    "Spill",
    "Stream",
    "Transcript",
    "beyond",
    "clip",
    "cut",
    "fold",
    "image_bytes",
    "images_of",
    "kind_of",
    "plain",
    "readable",
    "save_shown",
    "saved_files",
    "saved_in",
    "spill_of",
    "stream_text",
    "taking",
    "text_of",
]
