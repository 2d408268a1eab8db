"""The kernel's stdout and stderr, displays and results, within an output budget.

Subclasses of ipykernel's own stream and display classes: what they publish is unchanged
until the budget of the execution is used up (see budget.py). Also here: a flush that
waits only when something is there to flush (stock ipykernel spends 41 % of a short
execution waiting for empty streams, measured in reference/kernels.md section 11), a file
descriptor reader that decodes UTF-8 across reads, and writes of forked children that
come back through the parent's descriptor instead of a TCP port.
"""

# ipykernel's annotations are partial and differ between its versions 6 and 7.
# pyright: reportIncompatibleMethodOverride=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false, reportIncompatibleVariableOverride=false

import codecs
import json
import os
import sys
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

from ipykernel.displayhook import ZMQShellDisplayHook
from ipykernel.iostream import IOPubThread, OutStream
from ipykernel.jsonutil import json_clean
from ipykernel.zmqshell import ZMQDisplayPublisher
from tornado.ioloop import IOLoop

from .budget import Budget, Budgets, encodable
from .exporting import with_picture
from .journal import Journal

READ_SIZE = 1 << 16  # bytes read at once from what wrote to the descriptor
READS_AT_ONCE = 16  # such reads before the IOPub thread turns to something else
OVERFLOW = "kernelry_overflow"  # IOPub message type: from here on, look in the spill file
TEXT_LIMIT = 1 << 20  # characters of one non-plain text form (HTML, JSON, SVG, ...)
ITEM_BYTES = 16  # what an item of JSON costs at least, since a reader of it has to keep it
METADATA_BYTES = 1000  # of a display's metadata that are not counted
DRAWN = 20  # pictures of what is none, of one execution: each takes a process
MESSAGE_BYTES = 48 << 20  # of one message; the server takes no larger ones


class Kernelwide:
    """What all streams of this kernel share."""

    #: set by the launcher before any stream exists
    budgets: Budgets

    def __init__(self) -> None:
        #: what was published, for a server that comes later; the launcher sets it
        self.journal = Journal("")
        self._lock = threading.Lock()
        self._cells = 0

    @property
    def in_user_code(self) -> bool:
        """Say whether a cell runs: a flush that it asks for waits; ipykernel's own need not."""
        return self._cells > 0

    def begin_cell(self) -> None:
        """A cell begins to run; more than one does where there are subshells."""
        with self._lock:
            self._cells += 1

    def forget_cells(self) -> None:
        """No cell runs, in a copy of a kernel in which one did."""
        self._lock, self._cells = threading.Lock(), 0

    def end_cell(self) -> None:
        """A cell runs no more."""
        with self._lock:
            self._cells -= 1


shared = Kernelwide()


class Stream(OutStream):  # type: ignore[misc]  # ipykernel has no types
    """stdout or stderr of the kernel."""

    pub_thread: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._pending: deque[tuple[dict[str, Any], str | None]] = deque()
        self._in_flight = False
        self._child_text = ""
        # "force": stock does without the descriptor when it finds itself in a test.
        super().__init__(*args, **{**kwargs, "watchfd": "force"})

    def write(self, string: str) -> int | None:
        """Queue `string` for publication under the execution that is current here."""
        if not isinstance(string, str):
            msg = f"write() argument must be str, not {type(string)}"
            raise TypeError(msg)
        if self.pub_thread is None:
            msg = "I/O operation on closed file"
            raise ValueError(msg)
        text = encodable(string)
        if not self._is_master_process():
            self._child_text += text
            if "\n" in text:  # whole lines, so that they don't mix with the parent's
                self._write_child_text()
            return len(string)
        parent = self.parent_header
        budget = shared.budgets.of(parent)
        self._pending.append((parent, budget.take(self.name, text)))
        if budget.overflowed and budget.claim_announcement():
            self._pending.append((parent, None))
        self._schedule_flush()
        return len(string)

    def flush(self) -> None:
        """Publish what was written; wait for it if a cell asked."""
        if not self._is_master_process():
            self._write_child_text()
            return
        if shared.in_user_code:
            self.read_descriptor()  # it was written before what comes now
        if not self._pending and not self._in_flight:
            return
        publisher = self.pub_thread
        if publisher is None or not publisher.thread.is_alive():
            self._flush()
            return
        # Everything on IOPub goes through the same thread in order, so what follows
        # (the reply's idle, a result) can't overtake this.
        publisher.schedule(self._flush)
        if shared.in_user_code and threading.current_thread() is not publisher.thread:
            sent = threading.Event()
            publisher.schedule(sent.set)
            sent.wait(self.flush_timeout)

    def _write_child_text(self) -> None:
        data, self._child_text = self._child_text.encode("utf-8"), ""
        write_all(self._original_stdstream_fd, data)

    def _flush(self) -> None:
        self._in_flight = True
        try:
            super()._flush()
        finally:
            self._in_flight = False

    def _flush_buffers(self) -> Iterator[tuple[dict[str, Any], str]]:
        # Never replaced, only emptied: a writer in another thread may hold it right now.
        pending = self._pending
        while pending:
            parent, text = pending.popleft()
            if text is None:
                announce(self.session, self.pub_thread, shared.budgets.of(parent), parent)
                continue
            parts = [text]
            while pending and pending[0][0] is parent and (more := pending[0][1]) is not None:
                parts.append(more)
                pending.popleft()
            yield parent, "".join(parts)
            shared.budgets.of(parent).flush()

    def _setup_stream_redirects(self, name: str) -> None:
        """Read what is written to the descriptor on the IOPub thread; stock starts another."""
        readable, writable = os.pipe()
        os.set_blocking(readable, False)
        original = getattr(sys, name).fileno()
        self._original_stdstream_fd = original
        self._original_stdstream_copy = os.dup(original)
        os.dup2(writable, original)
        os.close(writable)
        self._fid = readable
        self._fid_lock = threading.Lock()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        watch = self.pub_thread.io_loop.add_handler
        self.pub_thread.schedule(lambda: watch(readable, self._on_readable, IOLoop.READ))

    def _on_readable(self, fd: int, events: int) -> None:
        self.read_descriptor(READS_AT_ONCE)

    def read_descriptor(self, most: int = -1) -> None:
        """Publish what subprocesses and C code have written to the descriptor by now.

        The kernel calls it at the end of a cell, so that nothing comes after the reply.
        """
        with self._fid_lock:
            while most:
                most -= 1
                try:
                    data = os.read(self._fid, READ_SIZE)
                except BlockingIOError:
                    return
                if not data:
                    return
                self.write(self._decoder.decode(data))

    def close(self) -> None:
        """Give the descriptor back; a cell can't close what the next one needs."""
        if shared.in_user_code:
            self.flush()
        elif self.pub_thread is not None:
            os.dup2(self._original_stdstream_copy, self._original_stdstream_fd)
            os.close(self._original_stdstream_copy)
            self.pub_thread = None


#: stdout and stderr of this process, once they are made
made: dict[str, Stream] = {}


def stream_of(session: Any, publisher: Any, name: str, **more: Any) -> Stream:
    """Return stdout or stderr of a kernel; a copy of one has them already, and others know them."""
    if name in made:
        made[name].__init__(session, publisher, name, **more)  # type: ignore[misc]
    else:
        made[name] = Stream(session, publisher, name, **more)
    return made[name]


def announce(session: Any, socket: Any, budget: Budget, parent: dict[str, Any]) -> None:
    """Say, at its place in the output, that the rest is in the spill file."""
    session.send(socket, OVERFLOW, {"file": os.path.basename(budget.path)}, parent=parent)


def write_all(fd: int, data: bytes) -> None:
    """Write `data` to `fd` to the end."""
    while data:
        data = data[os.write(fd, data) :]


class Publisher(IOPubThread):  # type: ignore[misc]
    """The thread that owns IOPub; without the TCP port that stock opens for forks."""

    def __init__(self, socket: Any, pipe: bool = False, **more: Any) -> None:
        super().__init__(socket, pipe=False, **more)  # ipykernel 7 has a session, 6 has not

    def send_multipart(self, *args: Any, **kwargs: Any) -> None:
        """Send at once from the thread itself, which is where a flush runs.

        Stock queues it again, behind what was queued meanwhile: an idle could overtake it.
        """
        if threading.current_thread() is self.thread:
            self._really_send(*args, **kwargs)
        else:
            super().send_multipart(*args, **kwargs)

    def _really_send(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        if os.getpid() == self._master_pid:
            size = sum(map(len, msg))
            if size > MESSAGE_BYTES:  # of a widget: what is shown has its budget
                sys.stderr.write(f"[a message of {size} bytes was not sent: over the limit]\n")
                return
            shared.journal.note(msg)
            super()._really_send(msg, *args, **kwargs)
        elif text := display_text(msg):
            write_all(1, (text + "\n").encode("utf-8"))  # 1 is the watched descriptor


def display_text(frames: list[bytes]) -> str:
    """Return the plain text of a display or an error that a forked child sends."""
    content = json.loads(frames[-1])
    if not isinstance(content, dict):
        return ""
    data = content.get("data")
    text = data.get("text/plain", "") if isinstance(data, dict) else ""
    if traceback := content.get("traceback"):
        text = "\n".join(traceback)
    return text if isinstance(text, str) else ""


def pictured(data: Any, budget: Budget) -> dict[str, Any]:
    """Return the forms of a display, and for a session's answers a picture of it."""
    forms = dict(data)
    if not shared.journal.kept or budget.drawn >= DRAWN:
        return forms
    made = with_picture(forms)
    budget.drawn += made is not forms
    return made


def cap_bundle(data: dict[str, Any], budget: Budget) -> dict[str, Any]:
    """Return the forms of `data` that fit; empty when even the text went to the file."""
    if not budget.take_display():
        budget.spill_display(encodable(str(data.get("text/plain", "[display without text]"))))
        return {}
    kept: dict[str, Any] = {}
    left_out: list[str] = []
    for mime, value in data.items():
        if mime == "text/plain":
            continue
        try:
            plain = value if isinstance(value, (str, bytes)) else json.dumps(json_clean(value))
        except (TypeError, ValueError) as error:
            left_out.append(f"[{mime} left out: {error}]")
            continue
        size = size_of(plain, is_json=not isinstance(value, (str, bytes)))
        textual = not mime.startswith("image/") or mime == "image/svg+xml"
        if (textual and len(plain) > TEXT_LIMIT) or not budget.take_rich(size):
            left_out.append(f"[{mime} of {size} bytes left out: over the limit]")
        else:
            kept[mime] = encodable(value) if isinstance(value, str) else value
    text = data.get("text/plain")
    if text is not None:
        text = text if isinstance(text, str) else repr(text)
        kept["text/plain"] = budget.take("display", encodable(text))
    if left_out:
        kept["text/plain"] = "\n".join([str(kept.get("text/plain", "")), *left_out]).strip()
    return kept


def size_of(plain: str | bytes, *, is_json: bool) -> int:
    """Return the bytes that a form takes in a message."""
    if isinstance(plain, bytes):
        return len(plain) * 4 // 3  # base64
    size = len(plain) if plain.isascii() else len(encodable(plain).encode("utf-8"))
    return max(size, ITEM_BYTES * sum(map(plain.count, ",[{"))) if is_json else size


def cap_metadata(metadata: dict[str, Any] | None, budget: Budget) -> dict[str, Any]:
    """Return a display's metadata, or nothing if there is too much of it."""
    if not metadata:
        return {}
    try:
        plain = json.dumps(json_clean(metadata))
    except (TypeError, ValueError):
        return metadata  # as stock: it says what is wrong with it
    size = size_of(plain, is_json=True)
    return metadata if size <= METADATA_BYTES or budget.take_rich(size) else {}


def publish_error(hook: Any, content: dict[str, Any]) -> None:
    """Publish an error as a display hook would a result, within the budget."""
    parent = hook.parent_header
    budget = shared.budgets.of(parent)
    if budget.take_display():
        topic = hook.topic.replace(b"execute_result", b"error") if hook.topic else None
        hook.session.send(hook.pub_socket, "error", json_clean(content), parent, ident=topic)
    else:
        budget.spill_display(encodable("\n".join(content["traceback"])))
    if budget.claim_announcement():
        announce(hook.session, hook.pub_socket, budget, parent)


class DisplayHook(ZMQShellDisplayHook):  # type: ignore[misc]
    """The result of a cell's last expression, within the budget."""

    def write_format_data(self, format_dict: Any, md_dict: Any = None) -> None:
        """Put the capped forms into the message."""
        budget = shared.budgets.of(self.parent_header)
        super().write_format_data(
            cap_bundle(pictured(format_dict, budget), budget), cap_metadata(md_dict, budget)
        )
        if budget.claim_announcement():
            announce(self.session, self.pub_socket, budget, self.parent_header)


class DisplayPublisher(ZMQDisplayPublisher):  # type: ignore[misc]
    """``display(...)`` and everything that uses it, within the budget."""

    def publish(self, data: Any, metadata: Any = None, **kwargs: Any) -> None:
        """Publish the capped forms; nothing at all when they went to the spill file."""
        self._flush_streams()
        budget = shared.budgets.of(self.parent_header)
        kept = cap_bundle(pictured(data, budget), budget)
        if kept:
            super().publish(kept, cap_metadata(metadata, budget), **kwargs)
        if budget.claim_announcement():
            announce(self.session, self.pub_socket, budget, self.parent_header)
