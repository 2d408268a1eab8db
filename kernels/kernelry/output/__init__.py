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
    readable,
    spill_of,
    stream_text,
    text_of,
)
from kernelry.output.images import SAVED, image_bytes, images_of, save_images, saved_files, saved_in
from kernelry.output.taking import plain
from kernelry.output.transcript import SPILL_BYTES, Page, Source, Transcript, beyond, cut

__all__ = [
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
    "plain",
    "readable",
    "save_images",
    "saved_files",
    "saved_in",
    "spill_of",
    "stream_text",
    "taking",
    "text_of",
]
