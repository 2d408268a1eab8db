"""What of an execution is kept as artifacts: its text, if that was too long, and its images."""

import codecs
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from kernelry.artifacts.specs import ArtifactSpec
from kernelry.beneath import reading
from kernelry.models import Execution
from kernelry.output import (
    SPILL_BYTES,
    Display,
    Output,
    Spill,
    beyond,
    readable,
    saved_files,
    text_of,
)
from kernelry.store import chunks_of

TYPE = "system_generated"


@dataclass(frozen=True, slots=True)
class Capture:
    """Something that an execution left."""

    #: what it is
    spec: ArtifactSpec
    #: gives its content; raises OSError if that can't be read
    chunks: Callable[[], Iterable[bytes]]


def is_wanted(execution: Execution) -> bool:
    """Say whether there is something to keep."""
    return any(
        isinstance(output, Spill) or (isinstance(output, Display) and saved_files([output]))
        for output in execution.outputs
    )


def captures_of(execution: Execution, spill_dir: Path, workspace: Path) -> Iterator[Capture]:
    """Yield what of an execution is to be kept."""
    outputs, number = execution.outputs, {"execution": execution.index}
    if any(isinstance(output, Spill) for output in outputs):
        name = f"{execution.session_id}-{execution.index}-output.txt"
        spec = ArtifactSpec(
            name=name, type=TYPE, mime_type="text/plain", tags=("output",), metadata=number
        )
        yield Capture(spec, lambda: whole_text(outputs, spill_dir))
    for mime, path in saved_files(outputs):
        spec = ArtifactSpec(
            name=PurePath(path).name,
            type=TYPE,
            mime_type=mime,
            tags=("image" if mime.startswith("image/") else "display",),
            metadata={**number, "path": path},
        )

        def content(path: str = path) -> Iterator[bytes]:
            return file_chunks(workspace, path)

        yield Capture(spec, content)


def whole_text(outputs: Iterable[Output], spill_dir: Path) -> Iterator[bytes]:
    """Yield the whole text of an execution, with what was spilled, as a terminal would show it.

    Raises:
        OSError: What was spilled can't be read.
    """
    for output in outputs:
        if isinstance(output, Spill):
            decoder, rest = codecs.getincrementaldecoder("utf-8")("replace"), ""
            for chunk in file_chunks(spill_dir.parent, f"{spill_dir.name}/{output.file}"):
                lines, end, rest = (rest + decoder.decode(chunk)).rpartition("\n")
                if not end:  # one enormous line
                    lines, rest = rest, ""
                yield readable(lines + end).encode("utf-8")
            yield readable(rest + decoder.decode(b"", final=True)).encode("utf-8")
            yield beyond(output).encode("utf-8", "replace")
        else:
            yield text_of(output).encode("utf-8", "replace")


def file_chunks(root: Path, path: str) -> Iterator[bytes]:
    """Yield what is in a file below a folder that cells write to.

    Raises:
        OSError: It can't be read, or a link is on the way.
    """
    left = SPILL_BYTES
    with reading.opened(root, path) as file:
        for chunk in chunks_of(file):
            yield chunk[:left]
            left -= len(chunk)
            if left <= 0:
                return
