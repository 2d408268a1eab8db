"""A session's history as a notebook (nbformat 4.5) or a script, with or without its kernel."""

import ast
import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from kernelry import bounds
from kernelry.apart import in_thread
from kernelry.errors import KernelryError
from kernelry.history.search import History
from kernelry.models import Execution, ExecutionStatus, SessionRecord
from kernelry.output import SAVED, Display, Error, Output, Spill, Stream, Transcript, saved_in
from kernelry.paths import Workspace
from kernelry.workspace import Mode, Written, files

SPILL_CHARS = 1 << 20  # of an execution's spilled text
IMAGE_BYTES = 8 << 20  # of an image that is read from the workspace
#: statuses of executions that the kernel took up
RAN = frozenset(
    {
        ExecutionStatus.COMPLETED,
        ExecutionStatus.FAILED,
        ExecutionStatus.INTERRUPTED,
        ExecutionStatus.TIMED_OUT,
        ExecutionStatus.DIED,
        ExecutionStatus.LOST,
    }
)


class Which(StrEnum):
    """Which executions of a session are meant."""

    #: all that ran
    ALL = "all"
    #: those that completed
    SUCCESSFUL = "successful"
    #: those of its newest kernel: what its variables came from
    LATEST = "latest"


class Form(StrEnum):
    """What is made of them."""

    #: a Jupyter notebook
    NOTEBOOK = "notebook"
    #: a Python script of cells
    SCRIPT = "script"


@dataclass(frozen=True, slots=True)
class Exported:
    """A session's history in a file of the workspace."""

    #: the file
    written: Written
    #: executions that are in it
    count: int


async def export(
    history: History,
    session_id: str,
    workspace: Workspace,
    sessions_dir: Path,
    *,
    path: str = "",
    which: Which = Which.ALL,
    form: Form = Form.NOTEBOOK,
    overwrite: bool = False,
) -> Exported:
    """Write what a session ran to a file of the workspace; needs no kernel.

    Args:
        history: Where it is.
        session_id: The session, which may be closed, or deleted with its history kept.
        workspace: Where to write.
        sessions_dir: Where sessions keep spilled output.
        path: Relative to the workspace; empty: in outputs/, named after the session.
        which: Which executions.
        form: Notebook or script.
        overwrite: Whether to replace a file that exists.

    Raises:
        SessionNotFoundError: There is none.
        FileExistsConflictError: There is such a file.
        InvalidArgumentError: No file can have this path.
    """
    record = await history.session(session_id)
    executions = choose(await history.executions(session_id), which)
    suffix = ".ipynb" if form is Form.NOTEBOOK else ".py"
    path = path or f"{workspace.outputs.name}/{record.id}{suffix}"
    spill_dir = sessions_dir / record.directory / "spill"

    def write() -> Written:
        if form is Form.NOTEBOOK:
            text = notebook(record, executions, spill_dir, workspace.root)
        else:
            text = script(record, executions)
        mode = Mode.OVERWRITE if overwrite else Mode.CREATE
        return files.write(workspace.root, path, text.encode("utf-8"), mode)

    return Exported(await in_thread(write), len(executions))


def choose(executions: Iterable[Execution], which: Which) -> list[Execution]:
    """Return the executions that are meant, in their order."""
    ran = [execution for execution in executions if execution.status in RAN]
    if which is Which.SUCCESSFUL:
        return [run for run in ran if run.status is ExecutionStatus.COMPLETED]
    if which is Which.LATEST and ran:
        newest = max(execution.generation for execution in ran)
        return [execution for execution in ran if execution.generation == newest]
    return ran


def notebook(
    record: SessionRecord, executions: Sequence[Execution], spill_dir: Path, workspace: Path
) -> str:
    """Return executions as the text of a notebook.

    Args:
        record: Their session.
        executions: What shall be in it, with outputs.
        spill_dir: Where the session's spilled output is, or was.
        workspace: Where images were saved.
    """
    import nbformat  # its schemas take 0.1 s
    from nbformat import v4

    images = Images(workspace)
    cells = [v4.new_markdown_cell(f"# {record.id}\n\n{record.description}", id="session")]
    for execution in executions:
        cell = v4.new_code_cell(
            execution.code,
            id=execution.id,
            execution_count=execution.index,
            metadata={"kernelry": metadata_of(execution)},
            outputs=[nbformat.from_dict(item) for item in outputs_of(execution, spill_dir, images)],
        )
        cells.append(cell)
    kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    about = {"session_id": record.id, "tags": list(record.tags), "metadata": record.metadata}
    made = v4.new_notebook(
        cells=cells,
        metadata={
            "kernelspec": kernelspec,
            "language_info": {"name": "python"},
            "kernelry": about,
        },
    )
    nbformat.validate(made)
    return str(nbformat.writes(made))


def script(record: SessionRecord, executions: Iterable[Execution]) -> str:
    """Return executions as a script of cells (``# %%``); what only IPython knows is commented."""
    about = " ".join((record.description or "exported by kernelry").split())
    parts = [f"# {record.id}: {about}\n"]
    parts += [
        f"# %% {execution.index} ({execution.status})\n{as_python(execution.code)}\n"
        for execution in executions
    ]
    return "\n".join(parts)


def as_python(code: str) -> str:
    """Return code with magics and shell lines commented out; all of it if it is no Python then."""
    lines = code.splitlines()
    magic = [line.lstrip().startswith(("%", "!")) for line in lines]
    commented = "\n".join(
        f"# {line}" if is_magic else line for line, is_magic in zip(lines, magic, strict=True)
    )
    if is_python(code):  # what looks like magic is in a text
        return code
    if not code.lstrip().startswith("%%") and is_python(commented):
        return commented
    return "\n".join(f"# {line}".rstrip() for line in lines)


def is_python(code: str) -> bool:
    """Say whether Python can parse it."""
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def metadata_of(execution: Execution) -> dict[str, Any]:
    """Return what a cell tells of its execution besides outputs."""
    return {
        "execution_id": execution.id,
        "status": execution.status.value,
        "generation": execution.generation,
        "duration": execution.duration,
        "started_at": execution.started_at.isoformat() if execution.started_at else None,
    }


def outputs_of(execution: Execution, spill_dir: Path, images: "Images") -> list[dict[str, Any]]:
    """Return the outputs of an execution as nbformat has them."""
    made = [output_of(output, execution.index, spill_dir, images) for output in execution.outputs]
    raised = any(isinstance(output, Error) for output in execution.outputs)
    if execution.error and not raised:
        made.append(
            {
                "output_type": "error",
                "ename": execution.error.type,
                "evalue": execution.error.message,
                "traceback": execution.error.traceback.splitlines(),
            }
        )
    return made


def output_of(output: Output, count: int, spill_dir: Path, images: "Images") -> dict[str, Any]:
    """Return one output as nbformat has it."""
    match output:
        case Stream():
            return {"output_type": "stream", "name": output.name, "text": output.text}
        case Error():
            return {
                "output_type": "error",
                "ename": output.ename,
                "evalue": output.evalue,
                "traceback": list(output.traceback),
            }
        case Spill():
            text = Transcript((output,), spill_dir).read(0, SPILL_CHARS).text
            return {"output_type": "stream", "name": "stdout", "text": text}
        case Display():
            shown: dict[str, Any] = {
                "data": images.of(output),
                "metadata": {k: v for k, v in output.metadata.items() if k != SAVED},
            }
            if output.execution_count is None:
                return {"output_type": "display_data", **shown}
            return {"output_type": "execute_result", "execution_count": count, **shown}


class Images:
    """Images that are only in the workspace, as many as one notebook takes."""

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace
        self._left = bounds.EXPORT_IMAGES

    def of(self, display: Display) -> dict[str, Any]:
        """Return the forms of a display, with its saved images."""
        data = dict(display.data)
        for mime, path in saved_in(display).items():
            if mime in data or self._left <= 0:
                continue
            try:
                content = files.read_bytes(self._workspace, path, IMAGE_BYTES)
            except KernelryError:  # it was deleted, or is something else now
                continue
            self._left -= len(content)
            data[mime] = form_of(mime, content)
        return data


def form_of(mime: str, content: bytes) -> Any:
    """Return a form as a notebook has it, from what was saved of it."""
    if mime.endswith("json"):
        return json.loads(content)
    if mime in ("text/html", "image/svg+xml"):
        return content.decode("utf-8", "replace")
    return base64.b64encode(content).decode("ascii")
