"""Looks at an execution: a page of its text, its end, a line, what has words in it, what is new."""

from dataclasses import dataclass

from kernelry.errors import InvalidArgumentError
from kernelry.output import COUNTED, Page, Transcript
from kernelry_mcp.answers import cursors, pictures
from kernelry_mcp.answers.cursors import Cursor
from kernelry_mcp.answers.rendering import (
    Answered,
    Rendered,
    Size,
    drawn,
    holding,
    notices,
    run_result,
    size_of,
    status_line,
)
from kernelry_mcp.answers.results import ExecutionPage

MATCHES = 50  # lines shown of those that have the words
CODE_CHARS = 4_000  # shown of what was run
CODE_LINE = 100  # characters of its first line
NEWEST_LINES, NEWEST_CHARS = 10, 1_000  # shown of what was ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Which part of an execution's text is wanted; one of them, or none."""

    #: from this character on
    offset: int | None = None
    #: its last lines, so many
    tail: int | None = None
    #: from this line on, from 1
    line: int | None = None
    #: lines with this text in them
    search: str = ""
    #: what came since the answer that gave this
    since: str = ""
    #: characters of a page at most
    limit: int = 8_000

    def __post_init__(self) -> None:
        """Refuse what means two parts at once.

        Raises:
            InvalidArgumentError: It does.
        """
        if len(self.given) > 1 and self.given != ["line", "search"]:
            msg = f"{' and '.join(self.given)} are looks at different parts: pass one of them"
            raise InvalidArgumentError(msg)
        if "\n" in self.search:
            raise InvalidArgumentError("search: pass a part of one line")

    @property
    def given(self) -> list[str]:
        """Names of the parts that are wanted."""
        wanted = {"offset": self.offset, "tail": self.tail, "line": self.line}
        text = [name for name in ("search", "since") if getattr(self, name)]
        return [name for name, value in wanted.items() if value is not None] + text


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a text, and where it is in the whole."""

    #: what is shown
    page: Page
    #: number of its first line; 0: of none
    line: int
    #: what is said of it; empty: where it is
    said: str = ""


async def look_at(answered: Answered, look: Look) -> Rendered:
    """Return a part of an execution's text.

    Args:
        answered: The execution, and for whom.
        look: Which part.

    Raises:
        InvalidArgumentError: `since` is of no answer.
    """
    execution, sessions = answered.execution, answered.sessions
    before = cursors.read(look.since) if look.since else None
    spill_dir = sessions.spill_dir(execution)

    def find() -> tuple[Part, Size, Cursor, int]:
        transcript = Transcript(execution.outputs, spill_dir)
        if before is None:
            part, pictures_before = part_of(transcript, look), 0
        else:
            is_good = cursors.is_good(before, transcript, execution)
            part = since_then(transcript, before, look.limit, is_good=is_good)
            pictures_before = before.pictures if is_good else 0
        is_all = part.page.end == transcript.total
        end = None if is_all or before is None else part.page.end
        cursor = cursors.cursor_at(transcript, execution, end)
        return part, size_of(transcript), cursor, pictures_before

    part, size, cursor, pictures_before = await sessions.apart.run(execution.session_id, find)
    page = part.page
    is_new = before is not None
    shown = await drawn(answered, pictures_before) if is_new else pictures.Shown()
    more = page.end if page.end < page.total and not look.search else -1
    result = run_result(answered, size, cursor, truncated=more >= 0)
    answer = ExecutionPage(
        **{**result.model_dump(), "stdout": "", "stderr": "", "results": []},
        code=execution.code,
        text=page.text,
        offset=page.offset,
        line=part.line,
        next_offset=more,
    )
    held = holding(execution, sessions)
    lines = [
        status_line(execution, held),
        part.said or place(part, size.lines, more, is_new=is_new),
    ]
    lines += [text] if (text := page.text.rstrip("\n")) else []
    if is_new or not execution.status.is_final:
        lines += [*shown.notes, *await notices(answered, result, is_held=held is not None)]
    return Rendered(answer, "\n".join(lines), shown.blocks, part=page.text)


def since_then(transcript: Transcript, before: Cursor, limit: int, *, is_good: bool) -> Part:
    """Return what is new since a cursor; blocking, for a thread."""
    if is_good:
        return Part(transcript.read(before.chars, limit), 0)
    start = max(transcript.total - limit, 0)
    said = "[what was shown before has changed; this is the end of what there is now]"
    return Part(transcript.read(start, limit), 0, said)


def part_of(transcript: Transcript, look: Look) -> Part:
    """Return a part of a text; blocking, for a thread."""
    total, lines = transcript.total, transcript.lines
    if look.search:
        found, count = transcript.search(look.search, MATCHES, look.line or 1)
        text = "\n".join(f"{line.number}: {line.text}" for line in found)
        many = f"more than {count}" if count == COUNTED else count
        said = f"[{many} of {lines} lines have {look.search!r} in them"
        if count > len(found) > 0:
            start = f"from line {look.line} on, " if look.line else ""
            said += f"; {start}{len(found)} of them; line={found[-1].number + 1} goes on"
        said += "]"
        return Part(Page(text, 0, total, total), found[0].number if found else 0, said)
    if look.tail is not None:
        page = transcript.last(look.tail, look.limit)
        return Part(page, max(lines - page.text.removesuffix("\n").count("\n"), 1))
    if look.line is not None:
        page = transcript.read(transcript.offset_of(look.line), look.limit)
        said = f"[there are only {lines} lines]" if look.line > lines else ""
        return Part(page, min(look.line, lines), said)
    return Part(transcript.read(look.offset or 0, look.limit), 0)


def place(part: Part, lines: int, more: int, *, is_new: bool) -> str:
    """Say where a part is in the whole."""
    page = part.page
    if is_new and page.offset == page.total:
        return "[nothing new was printed]"
    where = f"[characters {page.offset} to {page.end} of {page.total}"
    if part.line:
        where += f", from line {part.line} of {lines}"
    else:
        where += f", {lines} lines"
    return where + (f"; next: offset={more}]" if more >= 0 else "; the end]")


def with_code(rendered: Rendered, code: str) -> str:
    """Return an execution's text with what was run, below the first line."""
    first, _, rest = rendered.text.partition("\n")
    shown = (
        code if len(code) <= CODE_CHARS else f"{code[:CODE_CHARS]}\n... ({len(code)} characters)"
    )
    prefixed = "\n".join(f"> {line}" for line in shown.split("\n"))
    return "\n".join(filter(None, (first, prefixed, rest)))


@dataclass(frozen=True, slots=True)
class Newest:
    """How an execution is, shortly."""

    #: its status, the first line of what was run, and its last lines
    text: str
    #: its last lines only
    output: str


async def newest(answered: Answered) -> Newest:
    """Return how an execution is, what was run, and the last lines that it put out."""
    execution, sessions = answered.execution, answered.sessions
    spill_dir = sessions.spill_dir(execution)

    def read() -> str:
        return Transcript(execution.outputs, spill_dir).last(NEWEST_LINES, NEWEST_CHARS).text

    last = (await sessions.apart.run(execution.session_id, read)).rstrip("\n")
    first = execution.code.strip().partition("\n")[0][:CODE_LINE]
    return Newest("\n".join(filter(None, (status_line(execution), f"> {first}", last))), last)
