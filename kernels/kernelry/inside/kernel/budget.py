"""How much of an execution's output leaves the kernel.

The first ``head_chars`` characters of an execution go out on IOPub as usual. From then on
its text goes to one spill file of the session, in order, up to ``spill_bytes``; what is
beyond that is counted and dropped, and the last ``tail_chars`` characters of each stream
are kept for the reply. So a flood costs the server nothing, and the counts stay exact.
Of a session's spill files the newest are kept, up to SPILL_FILES times ``spill_bytes``.
"""

import contextlib
import os
import threading
from collections import OrderedDict
from typing import Any

REMEMBERED_EXECUTIONS = 16  # budgets kept for output that threads print after their cell
SPILL_FILES = 8  # largest spill files that fit into what a session may keep of them
BUFFERED_CHARS = 1 << 16  # characters gathered before they are written to the spill file


def encodable(text: str) -> str:
    """Return `text` with lone surrogates escaped, so that it can become UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text


class Budget:
    """The output allowance of one execution; safe to use from any thread."""

    def __init__(self, msg_id: str, limits: "Limits") -> None:
        self.msg_id = msg_id
        self.limits = limits
        self._announced = False
        self.path = os.path.join(limits.directory, f"{msg_id or 'background'}.txt")
        self._lock = threading.Lock()
        # What is shown has a head of its own: a result after a flood is still to be seen.
        self._head_left = {"stream": limits.head_chars, "display": limits.head_chars}
        self._displays_left = limits.displays
        #: pictures that were drawn of what is no picture
        self.drawn = 0
        self._rich_left = limits.rich_bytes
        self._bytes_left = limits.spill_bytes
        self._buffer: list[str] = []
        self._buffered = 0
        self._fd: int | None = None
        self._spilled_chars = 0
        self._dropped_chars = 0
        self._spilled_displays = 0
        self._totals: dict[str, int] = {}
        self._tails: dict[str, str] = {}

    @property
    def overflowed(self) -> bool:
        """Say whether any text of this execution went past the head."""
        return bool(self._totals)

    def take(self, name: str, text: str) -> str:
        """Account for `text` of stream `name`; return the part that may be sent."""
        head = "display" if name == "display" else "stream"
        with self._lock:
            left = self._head_left[head]
            if len(text) <= left:
                self._head_left[head] = left - len(text)
                return text
            # Nothing of this kind is sent any more, so that the order stays.
            self._head_left[head] = 0
            self._spill(name, text, left)
            return text[:left]

    def take_display(self) -> bool:
        """Count one display; say whether it may still be sent."""
        with self._lock:
            self._displays_left -= 1
            return self._displays_left >= 0

    def take_rich(self, size: int) -> bool:
        """Account for `size` bytes of non-text data; say whether they may be sent."""
        with self._lock:
            if size > self._rich_left:
                return False
            self._rich_left -= size
            return True

    def spill_display(self, text: str) -> None:
        """Put a display that may not be sent into the spill file as a line of text."""
        with self._lock:
            self._spilled_displays += 1
            self._spill("display", text + "\n", 0)

    def claim_announcement(self) -> bool:
        """Say once, to one caller, that the overflow is to be announced."""
        with self._lock:
            due = bool(self._totals) and not self._announced
            self._announced = self._announced or due
            return due

    def flush(self) -> None:
        """Write what is buffered to the spill file."""
        with self._lock:
            self._write()

    def close(self) -> None:
        """Write what is buffered and give the file back."""
        with self._lock:
            self._write()
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None

    def summary(self) -> dict[str, Any]:
        """Return the exact counts, for the reply."""
        with self._lock:
            self._write()
            return {
                "file": os.path.basename(self.path),
                "chars": self._spilled_chars,
                "dropped": self._dropped_chars,
                "displays": self._spilled_displays,
                "totals": dict(self._totals),
                "tails": dict(self._tails),
            }

    def _spill(self, name: str, text: str, start: int) -> None:
        """Keep `text[start:]` as far as the file may grow; count all of it."""
        length = len(text) - start
        self._totals[name] = self._totals.get(name, 0) + length
        keep = self.limits.tail_chars
        tail = text[max(start, len(text) - keep) :]
        self._tails[name] = (self._tails.get(name, "") + tail)[-keep:]
        # At most `_bytes_left` characters can fit, so no larger slice is ever copied.
        part = text[start : start + max(self._bytes_left - self._buffered, 0)]
        if part:
            self._buffer.append(part)
            self._buffered += len(part)
        self._dropped_chars += length - len(part)
        if self._buffered >= BUFFERED_CHARS:
            self._write()

    def _write(self) -> None:
        if not self._buffer:
            return
        text = "".join(self._buffer)
        self._buffer.clear()
        self._buffered = 0
        data = text.encode("utf-8")
        if len(data) > self._bytes_left:
            data = data[: self._bytes_left].decode("utf-8", "ignore").encode("utf-8")
            kept = len(data.decode("utf-8"))
            self._bytes_left = 0
        else:
            kept = len(text)
            self._bytes_left -= len(data)
        written = self._append(data) if data else 0
        if written < len(data):  # disk full or file-size limit: what is lost is counted
            kept = len(data[:written].decode("utf-8", "ignore"))
            self._bytes_left = 0
        self._spilled_chars += kept
        self._dropped_chars += len(text) - kept

    def _append(self, data: bytes) -> int:
        written = 0
        try:
            if self._fd is None:
                os.makedirs(self.limits.directory, mode=0o700, exist_ok=True)
                make_room(self.limits.directory, SPILL_FILES * self.limits.spill_bytes)
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                self._fd = os.open(self.path, flags, 0o600)
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except OSError:
            return written
        return written


def make_room(directory: str, most: int) -> None:
    """Remove the oldest files of a directory until the others have at most `most` bytes."""
    with os.scandir(directory) as entries:
        found = [(entry.stat().st_mtime_ns, entry.stat().st_size, entry.path) for entry in entries]
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= most:
            break
        with contextlib.suppress(OSError):  # another kernel of this session was quicker
            os.unlink(path)
        total -= size


class Limits:
    """The sizes that every execution of this kernel gets; see the module's text."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.directory: str = config["spill_dir"]
        self.head_chars: int = config["head_chars"]
        self.tail_chars: int = config["tail_chars"]
        self.spill_bytes: int = config["spill_bytes"]
        self.displays: int = config["displays"]
        self.rich_bytes: int = config["rich_bytes"]


class Budgets:
    """The budgets of the newest executions, by the msg_id of their request."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._budgets: OrderedDict[str, Budget] = OrderedDict()

    def of(self, parent: dict[str, Any]) -> Budget:
        """Return the budget of the execution that `parent` (a header) began."""
        msg_id = str(parent.get("msg_id", ""))
        budget = self._budgets.get(msg_id)
        if budget is None:
            with self._lock:
                budget = self._budgets.setdefault(msg_id, Budget(msg_id, self._limits))
                while len(self._budgets) > REMEMBERED_EXECUTIONS:
                    self._budgets.popitem(last=False)[1].close()
        return budget
