"""Fold IOPub messages into outputs, and outputs into text. Pure: no I/O, no clock.

The kinds are nbformat's: a stream, a display (with or without an execution count), an
error; and one of ours, `Spill`, which stands where an execution's text went past what
the kernel sends (kernelry/inside/kernel/budget.py) and its rest is in a file.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kernelry import bounds
from kernelry.output import taking
from kernelry.output.forms import text_in
from kernelry.output.terminal import plain, readable

OVERFLOW = "kernelry_overflow"
LAST_CHARS = 4000  # of an output, in which its last line is looked for
SPILLED = ("stdout", "stderr", "display")  # what a kernel counts


@dataclass(frozen=True, slots=True)
class Stream:
    """Text written to stdout or stderr."""

    #: "stdout" or "stderr"
    name: str
    #: what was written, as it was written
    text: str


@dataclass(frozen=True, slots=True)
class Display:
    """Something shown, in several forms."""

    #: MIME type -> form; binary forms are base64
    data: dict[str, Any]
    #: MIME type -> its metadata
    metadata: dict[str, Any] = field(default_factory=dict)
    #: the Out[n] of a result; None: a display
    execution_count: int | None = None
    #: the handle it can be updated by; empty: none
    display_id: str = ""
    #: how many displays and updates its execution had by then, with it; 0: not known
    number: int = field(default=0, compare=False)

    @property
    def text(self) -> str:
        """Its text, from the best form that has one."""
        return text_in(self.data, self.metadata)


@dataclass(frozen=True, slots=True)
class Error:
    """An exception of the user's code."""

    #: class of the exception
    ename: str
    #: what it said
    evalue: str
    #: the traceback's lines as IPython made them
    traceback: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The traceback without ANSI escapes."""
        return plain("\n".join(self.traceback)) or f"{self.ename}: {self.evalue}"


@dataclass(frozen=True, slots=True)
class Spill:
    """Text that the kernel wrote to a file instead of sending it."""

    #: name of the file in the session's spill directory
    file: str
    #: characters in the file; -1: not known yet
    chars: int = -1
    #: characters that were beyond the file's limit
    dropped: int = 0
    #: displays among what was spilled
    displays: int = 0
    #: stream name -> characters that were not sent
    totals: dict[str, int] = field(default_factory=dict)
    #: stream name -> its last characters
    tails: dict[str, str] = field(default_factory=dict)


Output = Stream | Display | Error | Spill


class OutputFold:
    """The outputs of one execution as they grow, one IOPub message at a time.

    Each message costs the same, however many there were before.

    Args:
        allowance: How much is taken.
    """

    def __init__(self, allowance: bounds.Allowance = bounds.DEFAULT) -> None:
        self._allowance = allowance
        self._outputs: list[Output] = []
        self._parts: list[str] = []  # text of the last stream, not joined yet
        self._clear_pending = False
        self._spill_at = -1  # where the spill is
        self._ids: set[str] = set()  # of displays among the outputs
        #: display id -> (displays before this place are updated, to what)
        self._updates: dict[str, tuple[int, Display]] = {}
        self._chars = self._displays = self._size = self._items = 0

    @property
    def outputs(self) -> tuple[Output, ...]:
        """What has been folded so far."""
        self._join()
        self._update_all()
        return tuple(self._outputs)

    @property
    def size(self) -> int:
        """Bytes of the messages that were folded in."""
        return self._size

    def add(self, message: Mapping[str, Any]) -> None:
        """Fold one message in; kinds that are not output are passed over.

        Raises:
            PassedError: It is more than is taken; it was not folded in.
        """
        kind = message["header"]["msg_type"]
        content = message["content"]
        if kind == "clear_output":
            if content.get("wait"):
                self._clear_pending = True
            else:
                self._clear()
        elif kind == "stream":
            self._add_stream(message)
        elif kind in ("display_data", "execute_result"):
            self._show(message, display_of(content))
        elif kind == "update_display_data":
            display = display_of(content)
            if display.display_id in self._ids:
                self._count(message, taking.weight(display.data, display.metadata))
                display = replace(display, number=self._displays)
                self._updates[display.display_id] = (len(self._outputs), display)
            else:  # it belongs to an earlier execution; the newest reader sees it here
                self._show(message, display, room=False)
        elif kind == "error":
            self._show(message, error_of(content))
        elif kind == OVERFLOW and self._spill_at < 0:
            self._append(Spill(taking.words(content["file"], bounds.FILE_NAME_CHARS)))
            self._spill_at = len(self._outputs) - 1

    def settle(self, overflow: Mapping[str, Any]) -> None:
        """Put the kernel's final counts into the spill that was announced."""
        self._join()
        if self._spill_at < 0:
            self._outputs.append(spill_from(overflow))
            self._spill_at = len(self._outputs) - 1
        else:
            self._outputs[self._spill_at] = spill_from(overflow)

    def last_line(self) -> str:
        """Return the newest non-empty line of text."""
        for output in reversed(self.outputs):
            if isinstance(output, (Stream, Display)):
                lines = readable(output.text[-LAST_CHARS:]).strip().splitlines()
                if lines:
                    return lines[-1]
        return ""

    def _add_stream(self, message: Mapping[str, Any]) -> None:
        content = message["content"]
        if not isinstance(content["text"], str):
            raise TypeError("a stream of something else than text")
        name = "stderr" if content["name"] == "stderr" else "stdout"
        text: str = content["text"]
        if self._chars + len(text) > self._allowance.chars:
            raise bounds.PassedError(f"more than {self._allowance.chars} characters of text")
        self._chars += len(text)
        self._make_room()
        self._size += int(message.get("size", len(text)))
        last = self._outputs[-1] if self._outputs else None
        if isinstance(last, Stream) and last.name == name:
            self._parts.append(text)
        elif text:
            self._append(Stream(name, text))

    def _show(self, message: Mapping[str, Any], output: Display | Error, room: bool = True) -> None:
        if isinstance(output, Display):
            self._count(message, taking.weight(output.data, output.metadata))
            output = replace(output, number=self._displays)
        else:
            self._count(message, 0)
        if room:
            self._make_room()
        self._append(output)
        if isinstance(output, Display) and output.display_id:
            self._ids.add(output.display_id)

    def _count(self, message: Mapping[str, Any], items: int) -> None:
        """Account for something that is shown.

        Raises:
            PassedError: It is too much.
        """
        allowed = self._allowance
        if self._displays >= allowed.displays:
            raise bounds.PassedError(f"more than {allowed.displays} displays and updates")
        size = self._size + int(message.get("size", 0))
        if size > allowed.size:
            raise bounds.PassedError(f"more than {allowed.size} bytes of output")
        if self._items + items > bounds.DISPLAY_ITEMS:
            raise bounds.PassedError(f"more than {bounds.DISPLAY_ITEMS} values in its displays")
        self._displays += 1
        self._size = size
        self._items += items

    def _append(self, output: Output) -> None:
        if len(self._outputs) >= self._allowance.outputs:
            raise bounds.PassedError(f"more than {self._allowance.outputs} outputs")
        self._join()
        self._outputs.append(output)

    def _join(self) -> None:
        if self._parts:
            last = self._outputs[-1]
            assert isinstance(last, Stream)
            self._outputs[-1] = Stream(last.name, last.text + "".join(self._parts))
            self._parts = []

    def _make_room(self) -> None:
        if self._clear_pending:
            self._clear()

    def _clear(self) -> None:
        self._clear_pending = False
        self._parts = []
        self._outputs = [self._outputs[self._spill_at]] if self._spill_at >= 0 else []
        self._spill_at = min(self._spill_at, 0)
        self._ids = set()
        self._updates = {}

    def _update_all(self) -> None:
        """Show what displays were updated to."""
        if not self._updates:
            return
        for i, output in enumerate(self._outputs):
            if isinstance(output, Display) and output.display_id in self._updates:
                before, new = self._updates[output.display_id]
                if i < before:
                    self._outputs[i] = replace(
                        output, data=new.data, metadata=new.metadata, number=new.number
                    )
        self._updates = {}


def fold(messages: Iterable[Mapping[str, Any]]) -> tuple[Output, ...]:
    """Return the outputs that IOPub messages of one execution amount to."""
    folding = OutputFold()
    for message in messages:
        folding.add(message)
    return folding.outputs


def display_of(content: Mapping[str, Any]) -> Display:
    """Return the display in a message's content.

    Raises:
        TypeError, ValueError: It is none.
    """
    count = content.get("execution_count")
    shown = taking.table(content.get("transient")).get("display_id") or ""
    if not isinstance(shown, str | int) or len(str(shown)) > bounds.DISPLAY_ID_CHARS:
        raise ValueError("no id of a display")
    return Display(
        data=taking.bundle(content.get("data")),
        metadata=taking.finite(dict(taking.table(content.get("metadata")))),
        execution_count=count if isinstance(count, int) and count < bounds.COUNT else None,
        display_id=str(shown),
    )


def error_of(content: Mapping[str, Any]) -> Error:
    """Return the error in a message's content."""
    return Error(
        taking.words(content["ename"], bounds.ENAME_CHARS),
        taking.words(content["evalue"], bounds.EVALUE_CHARS),
        taking.lines(content.get("traceback")),
    )


def spill_from(content: Mapping[str, Any]) -> Spill:
    """Return the spill with the counts of a reply, or as it was written down.

    Raises:
        KeyError, TypeError, ValueError: They are none.
    """
    totals = taking.table(content.get("totals"))
    tails = taking.table(content.get("tails"))
    return Spill(
        taking.words(content["file"], bounds.FILE_NAME_CHARS),
        chars=taking.number(content.get("chars", -1), least=-1),
        dropped=taking.number(content.get("dropped", 0)),
        displays=taking.number(content.get("displays", 0)),
        totals={name: taking.number(totals[name]) for name in SPILLED if name in totals},
        tails={
            name: taking.words(tails[name], bounds.TAIL_CHARS) for name in SPILLED if name in tails
        },
    )


def text_of(output: Output) -> str:
    """Return the text that an output contributes to its execution's transcript."""
    if isinstance(output, Stream):
        return readable(output.text)
    if isinstance(output, Display):
        return readable(output.text) + "\n"
    if isinstance(output, Error):
        return output.text + "\n"
    return ""


def stream_text(outputs: Iterable[Output], name: str) -> str:
    """Return all that was sent of one stream."""
    return readable("".join(o.text for o in outputs if isinstance(o, Stream) and o.name == name))


def spill_of(outputs: Iterable[Output]) -> Spill | None:
    """Return the spill among the outputs, if there is one."""
    return next((output for output in outputs if isinstance(output, Spill)), None)


@dataclass(frozen=True, slots=True)
class Clip:
    """Text cut to a budget: its beginning, its end, and how much is missing between."""

    #: the beginning
    head: str
    #: the end; empty when nothing is missing
    tail: str = ""
    #: characters left out between the two
    omitted: int = 0

    def joined(self, notice: str) -> str:
        """Return head and tail with `notice` between them where text is missing."""
        return f"{self.head}\n{notice}\n{self.tail}" if self.omitted else self.head


def clip(text: str, budget: int, *, more: int = 0, tail: str = "") -> Clip:
    """Cut a text to `budget` characters.

    Args:
        text: The text, or its beginning.
        budget: Characters that head and tail may have together.
        more: Characters that follow `text` and are not in it.
        tail: The last characters of the whole text, if `more` is not 0.
    """
    total = len(text) + more
    if total <= budget and not more:
        return Clip(text)
    end = tail if more else text
    keep_tail = min(len(end), budget // 2)
    head = text[: budget - keep_tail]
    if not more:
        return Clip(head, text[len(text) - keep_tail :], len(text) - len(head) - keep_tail)
    return Clip(head, end[len(end) - keep_tail :], total - len(head) - keep_tail)


def to_json(output: Output) -> dict[str, Any]:
    """Return an output as nbformat writes it (a spill as ours)."""
    match output:
        case Stream(name, text):
            return {"output_type": "stream", "name": name, "text": text}
        case Error(ename, evalue, traceback):
            return {
                "output_type": "error",
                "ename": ename,
                "evalue": evalue,
                "traceback": list(traceback),
            }
        case Display(data, metadata, None, display_id):
            return {
                "output_type": "display_data",
                "number": output.number,
                "data": data,
                "metadata": metadata,
                "transient": {"display_id": display_id},
            }
        case Display(data, metadata, count, _):
            return {
                "output_type": "execute_result",
                "number": output.number,
                "data": data,
                "metadata": metadata,
                "execution_count": count,
            }
        case Spill():
            return {
                "output_type": "spill",
                "file": output.file,
                "chars": output.chars,
                "dropped": output.dropped,
                "displays": output.displays,
                "totals": output.totals,
                "tails": output.tails,
            }


def from_json(item: Mapping[str, Any]) -> Output:
    """Return the output that `to_json` wrote."""
    match item["output_type"]:
        case "stream":
            return Stream(str(item["name"]), str(item["text"]))
        case "error":
            return error_of(item)
        case "spill":
            return spill_from(item)
        case _:
            return replace(display_of(item), number=taking.number(item.get("number", 0)))
