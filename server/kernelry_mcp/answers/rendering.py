"""Executions as content blocks and results: text within a budget, images whole, links.

One path for finished, running, timed out and dead executions alike.
"""

from collections.abc import Container, Iterable
from dataclasses import dataclass

from mcp.types import ContentBlock

from kernelry import Execution, ExecutionStatus, Run, Sessions
from kernelry.output import (
    Display,
    Output,
    Transcript,
    clip,
    readable,
    saved_files,
    spill_of,
    stream_text,
)
from kernelry_mcp.answers import pictures
from kernelry_mcp.answers.cursors import Cursor, cursor_at, pictured
from kernelry_mcp.answers.folding import folded
from kernelry_mcp.answers.results import ErrorInfo, RunResult, SavedFile
from kernelry_mcp.context import App
from kernelry_mcp.errors import after_death

FOLDED_CHARS = 400_000  # of a text that is looked through for what repeats
FOLDED = '\n[folded from {} lines; get_execution(execution_id="{}", offset=0) reads all of it]'
RESULTS = 20  # texts of results and displays in one answer
SHOWN_FILES = 20
PICTURES = pictures.Limits()
UNDER_WAY = (ExecutionStatus.RUNNING, ExecutionStatus.QUEUED)
CANCELLED_BY_DEATH = "the kernel died before it ran"  # note of what was queued then
SHOWN_STACK = 2000  # characters of where the code was that crashed a kernel
NO_INPUT = "StdinNotImplementedError"  # what input() raises where nobody can be asked
MAY_ASK = (
    "A session made with create_session(options={'stdin': true}) may ask: send_input answers it."
)


@dataclass(frozen=True, slots=True)
class Size:
    """How much text there is."""

    #: characters
    chars: int
    #: lines, also one that has no end yet
    lines: int


def size_of(transcript: Transcript) -> Size:
    """Return how much text an execution has; blocking if something was spilled."""
    return Size(transcript.total, transcript.lines)


@dataclass(frozen=True, slots=True)
class Rendered:
    """An execution, ready to be answered."""

    result: RunResult
    text: str
    blocks: list[ContentBlock]
    #: the part of its output that was asked for
    part: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """An execution that is answered, and how much of it."""

    #: what
    execution: Execution
    #: where it runs
    sessions: Sessions
    #: characters of text at most
    budget: int
    #: the tools that may be named
    offered: Container[str]
    #: how much of its pictures
    limits: pictures.Limits = PICTURES


def answered_by(app: App, execution: Execution) -> Answered:
    """Return an execution as a server answers it."""
    settings = app.settings
    return Answered(
        execution=execution,
        sessions=app.sessions,
        budget=settings.text_budget,
        offered=app.offered,
        limits=pictures.Limits(settings.image_count, settings.image_side),
    )


async def render(answered: Answered) -> Rendered:
    """Render an execution within its budget of text, and with its pictures."""
    execution, sessions = answered.execution, answered.sessions
    spill_dir = sessions.spill_dir(execution)

    def fit() -> tuple[Size, Cursor, str, bool]:
        transcript = Transcript(execution.outputs, spill_dir)
        cursor = cursor_at(transcript, execution)
        return size_of(transcript), cursor, *_fit(execution, transcript, answered.budget)

    # Only a spill file and images are work for a thread; most executions have neither.
    spilled = spill_of(execution.outputs) is not None
    found = await sessions.apart.run(execution.session_id, fit) if spilled else fit()
    size, cursor, body, truncated = found
    shown = await drawn(answered)
    result = run_result(answered, size, cursor, truncated=truncated)
    held = holding(execution, sessions)
    lines = [status_line(execution, held), *([body] if body else [])]
    lines += [*shown.notes, *await notices(answered, result, is_held=held is not None)]
    return Rendered(result, "\n".join(lines), shown.blocks)


async def drawn(answered: Answered, start: int = 0) -> pictures.Shown:
    """Return the pictures of an execution, without the first `start` displays that have one."""
    execution, sessions = answered.execution, answered.sessions
    displays = pictured(execution)[start:]
    if not displays:
        return pictures.Shown()
    root, owner = sessions.workspace.root, execution.session_id
    return await sessions.apart.run(owner, pictures.show, displays, root, answered.limits)


def run_result(answered: Answered, size: Size, cursor: Cursor, *, truncated: bool) -> RunResult:
    """Return the structured form of an execution.

    Args:
        answered: The execution.
        size: Of its whole text.
        cursor: How far it is told.
        truncated: Whether not all of them are answered.
    """
    execution, budget = answered.execution, answered.budget
    outputs = execution.outputs
    held = holding(execution, answered.sessions)
    error = execution.error
    return RunResult(
        session_id=execution.session_id,
        execution_id=execution.id,
        status=execution.status.value,
        stdout=_stream(outputs, "stdout", budget),
        stderr=_stream(outputs, "stderr", budget),
        results=_results(outputs, budget),
        outputs=[SavedFile(path=p, mime_type=m) for m, p in saved_files(outputs)],
        error=ErrorInfo(
            type=error.type,
            message=clip(error.message, budget // 4).joined("..."),
            traceback=clip(error.traceback, budget // 2).joined("..."),
        )
        if error
        else None,
        new_files=list(execution.new_files),
        execution_time=round(execution.duration, 6),
        execution_index=execution.index,
        generation=execution.generation,
        truncated=truncated,
        total_chars=size.chars,
        total_lines=size.lines,
        since=str(cursor),
        note=_note(execution),
        paused_by=held[0].held_by if held else "",
        paused_since=held[0].held_since.isoformat() if held and held[0].held_since else "",
        progress=execution.progress,
        prompt=execution.question.prompt if execution.question else "",
        undone=execution.undone.value,
        memory_change=execution.memory_after - execution.memory_before,
    )


def holding(execution: Execution, sessions: Sessions) -> tuple[Run, bool] | None:
    """Return who is held at a safe point, and whether it is this one; None: nobody is.

    What is queued behind one that is held waits for the same.
    """
    live = sessions.live_run(execution.id)
    if live is None or execution.status not in UNDER_WAY:
        return None
    current = live[0].current
    return None if current is None or not current.held_since else (current, current is live[1])


def status_line(execution: Execution, held: tuple[Run, bool] | None = None) -> str:
    """Return the first line of every answer about an execution."""
    took = f"{execution.duration:.3g} s"
    queued, running = "queued behind another cell", f"running for {took}"
    if held is not None and (since := held[0].held_since):
        paused = f"paused at a safe point by {held[0].held_by} since {since:%H:%M:%S} UTC"
        queued, running = f"queued behind a cell that is {paused}", paused
    words = {
        ExecutionStatus.QUEUED: queued,
        ExecutionStatus.RUNNING: running,
        ExecutionStatus.WAITING_INPUT: "waiting for input",
        ExecutionStatus.CANCELLED: "cancelled, it never ran",
    }.get(execution.status, f"{execution.status} after {took}")
    words += ", undone" if execution.undone else ""
    return f"[{words}; session {execution.session_id}; execution {execution.id}]"


def _note(execution: Execution) -> str:
    notes = [execution.note] if execution.note else []
    spill = spill_of(execution.outputs)
    if spill is not None and spill.displays:
        notes.append(f"{spill.displays} more displays are in the text as lines.")
    if execution.status.is_final and not execution.outputs_complete and execution.started_at:
        notes.append("Some of its last output may be missing.")
    return " ".join(notes)


async def notices(answered: Answered, result: RunResult, *, is_held: bool) -> list[str]:
    """Return what is said below an execution's text: what it waits for, what to do next."""
    execution, offered = answered.execution, answered.offered
    lines = []
    if execution.progress:
        lines.append(f"[progress: {execution.progress}]")
    if execution.question:
        can = "answer with send_input" if "send_input" in offered else "no tool here can answer"
        lines.append(f"[it asks: {execution.question.prompt!r}; {can}]")
    error = execution.error
    if error is not None and execution.status is not ExecutionStatus.FAILED:
        lines.append(f"{error.type}: {clip(error.message, 1000).joined('...')}".rstrip(": "))
        if execution.status is ExecutionStatus.DIED and error.traceback:
            lines.append(clip(error.traceback, SHOWN_STACK).joined("..."))
    if error is not None and error.type == NO_INPUT and "send_input" in offered:
        lines.append(MAY_ASK)
    if is_held:
        if "resume_execution" in offered:
            named = f'session_id="{execution.session_id}"'
            lines.append(f"resume_execution({named}) lets it go on; stop_execution ends it there.")
    elif execution.status in UNDER_WAY:
        stops = "; interrupt_execution stops it" if "interrupt_execution" in offered else ""
        lines.append(
            f'get_execution(execution_id="{execution.id}", wait=30, since="{result.since}") '
            f"waits on and shows what is new{stops}."
        )
    is_lost = execution.status is ExecutionStatus.DIED and not execution.undone
    if is_lost or result.note.startswith(CANCELLED_BY_DEATH):
        lines.append(await after_death(answered.sessions, execution.session_id, offered))
    if result.note:
        lines.append(result.note)
    files = result.new_files
    if files:
        more = f" and {len(files) - SHOWN_FILES} more" if len(files) > SHOWN_FILES else ""
        lines.append(f"Files written: {', '.join(files[:SHOWN_FILES])}{more}")
    if result.outputs:
        paths = [file.path for file in result.outputs]
        more = f" and {len(paths) - SHOWN_FILES} more" if len(paths) > SHOWN_FILES else ""
        lines.append(f"Saved: {', '.join(paths[:SHOWN_FILES])}{more}")
    return lines


def _fit(execution: Execution, transcript: Transcript, budget: int) -> tuple[str, bool]:
    """Return the transcript within the budget, and whether something was left out.

    What repeats is folded first: it may be all that there is too much of.
    """
    if transcript.total <= max(budget, FOLDED_CHARS):
        text = transcript.read(0, transcript.total).text.rstrip("\n")
        short = folded(text)
        if len(short) <= budget:
            notice = FOLDED.format(transcript.lines, execution.id) if short != text else ""
            return short + notice, short != text
    half = budget // 2
    head = transcript.read(0, half).text
    tail = transcript.read(transcript.total - half, half).text
    left_out = transcript.total - 2 * half
    notice = (
        f"[... {left_out} of {transcript.total} characters ({transcript.lines} lines) left out; "
        f'get_execution(execution_id="{execution.id}", offset={half}) reads them ...]'
    )
    return f"{head}\n{notice}\n{tail}".rstrip("\n"), True


def _stream(outputs: Iterable[Output], name: str, budget: int) -> str:
    spill = spill_of(outputs)
    more = spill.totals.get(name, 0) if spill else 0
    tail = spill.tails.get(name, "") if spill else ""
    cut = clip(stream_text(outputs, name), budget, more=more, tail=readable(tail))
    return cut.joined(f"[... {cut.omitted} characters left out ...]")


def _results(outputs: Iterable[Output], budget: int) -> list[str]:
    texts = [readable(o.text) for o in outputs if isinstance(o, Display) and o.text]
    shown = texts if len(texts) <= RESULTS else [*texts[: RESULTS // 2], *texts[-RESULTS // 2 :]]
    each = max(budget // max(len(shown), 1), 200)
    cuts = [clip(text, each) for text in shown]
    found = [cut.joined(f"[... {cut.omitted} characters left out ...]") for cut in cuts]
    if len(texts) > RESULTS:
        found.insert(RESULTS // 2, f"[... {len(texts) - RESULTS} results left out ...]")
    return found
