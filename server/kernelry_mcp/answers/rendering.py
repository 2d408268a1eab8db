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
    Page,
    Transcript,
    clip,
    readable,
    saved_files,
    spill_of,
    stream_text,
)
from kernelry_mcp.answers import pictures
from kernelry_mcp.answers.folding import folded
from kernelry_mcp.answers.results import ErrorInfo, ExecutionPage, RunResult, SavedFile

FOLDED_CHARS = 400_000  # of a text that is looked through for what repeats
FOLDED = '\n[folded; get_execution(execution_id="{}", offset=0) reads all of it]'
RESULTS = 20  # texts of results and displays in one answer
SHOWN_FILES = 20
PICTURES = pictures.Limits()
UNDER_WAY = (ExecutionStatus.RUNNING, ExecutionStatus.QUEUED)
SHOWN_STACK = 2000  # characters of where the code was that crashed a kernel


@dataclass(frozen=True, slots=True)
class Rendered:
    """An execution, ready to be answered."""

    result: RunResult
    text: str
    blocks: list[ContentBlock]


async def render(
    execution: Execution,
    sessions: Sessions,
    budget: int,
    offered: Container[str],
    limits: pictures.Limits = PICTURES,
) -> Rendered:
    """Render an execution within `budget` characters of text, and with its pictures.

    Args:
        execution: What.
        sessions: Where it runs.
        budget: Characters.
        offered: The tools that may be named.
        limits: How much of its pictures.
    """
    spill_dir, workspace = sessions.spill_dir(execution), sessions.workspace.root
    owner, apart = execution.session_id, sessions.apart

    def fit() -> tuple[int, str, bool]:
        transcript = Transcript(execution.outputs, spill_dir)
        return transcript.total, *_fit(execution, transcript, budget)

    # Only a spill file and images are work for a thread; most executions have neither.
    spilled = spill_of(execution.outputs) is not None
    total, body, truncated = await apart.run(owner, fit) if spilled else fit()
    displays = [o for o in execution.outputs if isinstance(o, Display) and has_files(o)]
    shown = pictures.Shown()
    if displays:
        shown = await apart.run(owner, pictures.show, displays, workspace, limits)
    result = run_result(execution, budget, total, truncated)
    held = holding(execution, sessions)
    lines = [status_line(execution, held), *([body] if body else [])]
    lost = ""
    if execution.status is ExecutionStatus.DIED:
        lost = await _after_death(execution, sessions, offered)
    is_held = held is not None
    lines += [*shown.notes, *_notices(execution, result, offered, lost, is_held=is_held)]
    return Rendered(result, "\n".join(lines), shown.blocks)


async def page(
    execution: Execution, sessions: Sessions, budget: int, offset: int, limit: int
) -> tuple[ExecutionPage, str]:
    """Return one page of an execution's whole text."""
    spill_dir = sessions.spill_dir(execution)

    def read() -> Page:
        return Transcript(execution.outputs, spill_dir).read(offset, limit)

    found = await sessions.apart.run(execution.session_id, read)
    more = found.end if found.end < found.total else -1
    result = run_result(execution, budget, found.total, truncated=more >= 0)
    answer = ExecutionPage(
        **{**result.model_dump(), "stdout": "", "stderr": "", "results": []},
        text=found.text,
        offset=offset,
        next_offset=more,
    )
    where = f"[characters {offset} to {found.end} of {found.total}"
    where += f"; next: offset={more}]" if more >= 0 else "; the end]"
    held = holding(execution, sessions)
    return answer, f"{status_line(execution, held)}\n{where}\n{found.text}"


def has_files(display: Display) -> bool:
    """Say whether a display is a picture, or was saved."""
    return bool(saved_files([display])) or any(mime.startswith("image/") for mime in display.data)


def run_result(execution: Execution, budget: int, total: int, truncated: bool) -> RunResult:
    """Return the structured form of an execution."""
    outputs = execution.outputs
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
        total_chars=total,
        note=_note(execution),
        progress=execution.progress,
        prompt=execution.question.prompt if execution.question else "",
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
    return f"[{words}; session {execution.session_id}; execution {execution.id}]"


def _note(execution: Execution) -> str:
    notes = [execution.note] if execution.note else []
    spill = spill_of(execution.outputs)
    if spill is not None and spill.displays:
        notes.append(f"{spill.displays} more displays are in the text as lines.")
    if execution.status.is_final and not execution.outputs_complete and execution.started_at:
        notes.append("Some of its last output may be missing.")
    return " ".join(notes)


async def _after_death(execution: Execution, sessions: Sessions, offered: Container[str]) -> str:
    """Say what is lost with a kernel, and what gives the session another one."""
    said = "All variables are gone. restart_kernel gives the session a new kernel."
    kept = await sessions.checkpoints.known(execution.session_id)
    if kept and "resume_session" in offered:
        said += f" resume_session gives it one with the variables of its checkpoint {kept[0]}."
    return said


def _notices(
    execution: Execution, result: RunResult, offered: Container[str], lost: str, *, is_held: bool
) -> list[str]:
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
    if is_held:
        if "resume_execution" in offered:
            named = f'session_id="{execution.session_id}"'
            lines.append(f"resume_execution({named}) lets it go on; stop_execution ends it there.")
    elif execution.status in UNDER_WAY:
        lines.append(
            f'get_execution(execution_id="{execution.id}", wait=30) waits on; '
            "interrupt_execution stops it."
        )
    if lost:
        lines.append(lost)
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
            notice = FOLDED.format(execution.id) if short != text else ""
            return short + notice, short != text
    half = budget // 2
    head = transcript.read(0, half).text
    tail = transcript.read(transcript.total - half, half).text
    left_out = transcript.total - 2 * half
    notice = (
        f"[... {left_out} of {transcript.total} characters left out; "
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
