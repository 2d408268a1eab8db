"""The history of sessions as a notebook (nbformat 4.5) or a script, with or without kernels.

A notebook can be run elsewhere: its first cells install the packages that the session had and
write the scripts that it imports.
"""

import ast
import base64
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from kernelry import bounds
from kernelry.apart import in_thread
from kernelry.errors import KernelryError
from kernelry.history.scripting import as_python, parsed, script
from kernelry.history.search import History
from kernelry.models import Execution, ExecutionStatus, SessionRecord
from kernelry.output import SAVED, Display, Error, Output, Spill, Stream, Transcript, saved_in
from kernelry.paths import Workspace
from kernelry.workspace import Mode, Written, files

SPILL_CHARS = 1 << 20  # of an execution's spilled text
IMAGE_BYTES = 8 << 20  # of an image that is read from the workspace
SCRIPT_BYTES = 1 << 20  # of a script that a notebook carries
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
    #: packages that its first cells install
    packages: Sequence[str] = ()
    #: scripts that its first cells write, by name
    scripts: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Chapter:
    """A session in an export."""

    #: the session
    record: SessionRecord
    #: what of it is exported, with outputs
    executions: list[Execution]
    #: where its spilled output is, or was
    spill_dir: Path
    #: packages that it has for itself, as pip takes them
    packages: Sequence[str] = ()
    #: scripts of the workspace that it imports: name -> text
    scripts: Mapping[str, str] = field(default_factory=dict)


async def export(
    history: History,
    session_ids: Sequence[str],
    workspace: Workspace,
    sessions_dir: Path,
    *,
    packages: Mapping[str, Sequence[str]] | None = None,
    path: str = "",
    which: Which = Which.ALL,
    form: Form = Form.NOTEBOOK,
    overwrite: bool = False,
) -> Exported:
    """Write what sessions ran to a file of the workspace; needs no kernel.

    Args:
        history: Where it is.
        session_ids: The sessions, which may be closed, or deleted with their history kept.
        workspace: Where to write, and where scripts are.
        sessions_dir: Where sessions keep spilled output.
        packages: Session -> packages that it has for itself, as pip takes them; None: none.
        path: Relative to the workspace; empty: in outputs/, named after the first session.
        which: Which executions.
        form: Notebook or script.
        overwrite: Whether to replace a file that exists.

    Raises:
        SessionNotFoundError: There is none.
        FileExistsConflictError: There is such a file.
        InvalidArgumentError: No file can have this path.
    """
    suffix = ".ipynb" if form is Form.NOTEBOOK else ".py"
    path = path or f"{workspace.outputs.name}/{session_ids[0]}{suffix}"
    told = []
    for name in session_ids:
        record = await history.session(name)
        told.append((record, choose(await history.executions(name), which)))

    def write() -> Exported:
        chapters = []
        for record, executions in told:
            spill_dir = Path(os.path.normpath(sessions_dir / record.directory / "spill"))
            chapter = Chapter(record, executions, spill_dir)
            if form is Form.NOTEBOOK:
                brought = (packages or {}).get(record.id, ()), scripts_of(executions, workspace)
                chapter = replace(chapter, packages=brought[0], scripts=brought[1])
            chapters.append(chapter)
        if form is Form.NOTEBOOK:
            text = notebook(chapters, workspace)
        else:
            text = "\n\n".join(script(one.record, one.executions) for one in chapters)
        mode = Mode.OVERWRITE if overwrite else Mode.CREATE
        return Exported(
            files.write(workspace.root, path, text.encode("utf-8"), mode),
            sum(len(one.executions) for one in chapters),
            sorted({package for one in chapters for package in one.packages}),
            sorted({name for one in chapters for name in one.scripts}),
        )

    return await in_thread(write)


def choose(executions: Iterable[Execution], which: Which) -> list[Execution]:
    """Return the executions that are meant, in their order."""
    ran = [execution for execution in executions if execution.status in RAN]
    if which is Which.SUCCESSFUL:
        return [run for run in ran if run.status is ExecutionStatus.COMPLETED]
    if which is Which.LATEST and ran:
        newest = max(execution.generation for execution in ran)
        return [execution for execution in ran if execution.generation == newest]
    return ran


def notebook(chapters: Sequence[Chapter], workspace: Workspace) -> str:
    """Return sessions as the text of one notebook.

    Args:
        chapters: The sessions.
        workspace: Where images were saved.
    """
    import nbformat  # its schemas take 0.1 s
    from nbformat import v4

    images = Images(workspace.root)
    cells = []
    for number, chapter in enumerate(chapters, 1):
        record = chapter.record
        text = f"# {record.id}\n\n{record.description}"
        cells.append(v4.new_markdown_cell(text, id=f"session-{number}"))
        cells += [
            v4.new_code_cell(code, id=f"setup-{number}-{place}", metadata={"tags": ["setup"]})
            for place, code in enumerate(setup_of(chapter, workspace.scripts.name), 1)
        ]
        for execution in chapter.executions:
            outputs = outputs_of(execution, chapter.spill_dir, images)
            cell = v4.new_code_cell(
                execution.code,
                id=execution.id,
                execution_count=execution.index,
                metadata={
                    "kernelry": metadata_of(execution),
                    **({"tags": ["undone"]} if execution.undone else {}),
                },
                outputs=[nbformat.from_dict(item) for item in outputs],
            )
            cells.append(cell)
    kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    made = v4.new_notebook(
        cells=cells,
        metadata={
            "kernelspec": kernelspec,
            "language_info": {"name": "python"},
            "kernelry": {**about(chapters[0]), "sessions": [about(one) for one in chapters]},
        },
    )
    nbformat.validate(made)
    return str(nbformat.writes(made))


def about(chapter: Chapter) -> dict[str, Any]:
    """Return what a notebook's metadata tells of a session."""
    record = chapter.record
    return {
        "session_id": record.id,
        "tags": list(record.tags),
        "metadata": record.metadata,
        "packages": list(chapter.packages),
    }


def setup_of(chapter: Chapter, folder: str) -> Iterable[str]:
    """Yield the code of cells that bring a session's packages, and the scripts it imports."""
    if chapter.packages:
        yield f"%pip install {' '.join(chapter.packages)}"
    if chapter.scripts:
        yield (
            f"import os, sys\n\nos.makedirs({folder!r}, exist_ok=True)\n"
            f"sys.path.insert(0, {folder!r})"
        )
    for name, text in chapter.scripts.items():
        yield f"%%writefile {folder}/{name}.py\n{text}"


def scripts_of(executions: Iterable[Execution], workspace: Workspace) -> dict[str, str]:
    """Return the scripts of the workspace that code imports, name -> text; blocking."""
    scripts = {}
    for name in sorted(imported(execution.code for execution in executions)):
        with suppress(KernelryError):  # there is no such script
            path = f"{workspace.scripts.name}/{name}.py"
            content = files.read_bytes(workspace.root, path, SCRIPT_BYTES)
            scripts[name] = content.decode("utf-8", "replace")
    return scripts


def imported(codes: Iterable[str]) -> set[str]:
    """Return the top-level modules that code imports."""
    found = set[str]()
    for code in codes:
        for node in ast.walk(parsed(as_python(code)) or ast.Module([], [])):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found


def metadata_of(execution: Execution) -> dict[str, Any]:
    """Return what a cell tells of its execution besides outputs."""
    return {
        "execution_id": execution.id,
        "status": execution.status.value,
        "generation": execution.generation,
        "undone": execution.undone.value,
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
            with suppress(ValueError, RecursionError):  # somebody made something else of it
                data[mime] = form_of(mime, content)
        return data


def form_of(mime: str, content: bytes) -> Any:
    """Return a form as a notebook has it, from what was saved of it."""
    if mime.endswith("json"):
        return json.loads(content)
    if mime in ("text/html", "image/svg+xml"):
        return content.decode("utf-8", "replace")
    return base64.b64encode(content).decode("ascii")
