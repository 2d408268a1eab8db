"""Logging that never waits: nobody may read the server's stderr, or only later.

Lines go into a queue with an end; a daemon thread writes them. What does not fit is
dropped and counted, and the count is told when lines flow again. While it is in force
`sys.stderr` is the same queue, so that no stray print or traceback can block either.
"""

import io
import logging
import os
import queue
import select
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
QUEUED_LINES = 2_000  # lines that wait to be written
LINE_CHARS = 16_000  # characters of a line that are kept
LAST_WORDS = 1.0  # seconds the last lines have at the end


class StderrQueue:
    """Lines on their way to stderr.

    Args:
        fd: Where they go.
        size: How many may wait.
    """

    def __init__(self, fd: int = 2, size: int = QUEUED_LINES) -> None:
        self._fd = fd
        self._size = size
        # Not queue.Queue: its lock is not reentrant, and a signal handler may log.
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="stderr", daemon=True)
        self._thread.start()

    def say(self, line: str) -> None:
        """Queue a line, or count it as dropped; never waits."""
        if self._lines.qsize() >= self._size:
            self._dropped += 1
        else:
            self._lines.put(line[:LINE_CHARS])

    def close(self) -> bool:
        """Write what is queued; say whether all of it went out within `LAST_WORDS`."""
        self._lines.put(None)
        self._thread.join(LAST_WORDS)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            self._write(line)
            if self._dropped and self._lines.qsize() < self._size // 2:
                dropped, self._dropped = self._dropped, 0
                self._write(f"{dropped} lines of the log were dropped: nobody read stderr")

    def _write(self, line: str) -> None:
        data = memoryview(f"{line}\n".encode("utf-8", "backslashreplace"))
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:  # it is one pipe with stdout, which does not block
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll()
            except OSError:  # closed: nobody wants to know
                return


class QueueHandler(logging.Handler):
    """Formats records into a queue."""

    def __init__(self, lines: StderrQueue) -> None:
        super().__init__()
        self._lines = lines
        self.setFormatter(logging.Formatter(FORMAT))

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record."""
        self._lines.say(self.format(record))


class QueueStream(io.TextIOBase):
    """What `sys.stderr` is meanwhile."""

    def __init__(self, lines: StderrQueue, fd: int) -> None:
        super().__init__()
        self._lines = lines
        self._fd = fd
        self._begun = ""

    def writable(self) -> bool:
        """Say that it can be written."""
        return True

    def fileno(self) -> int:
        """Return the descriptor, for those who hand it on."""
        return self._fd

    def write(self, text: str) -> int:
        """Queue the lines that are complete."""
        *lines, self._begun = (self._begun + text).split("\n")
        self._begun = self._begun[:LINE_CHARS]
        for line in lines:
            self._lines.say(line)
        return len(text)


@contextmanager
def logging_to_stderr(level: str) -> Iterator[None]:
    """Log, and print, to stderr without ever waiting for who reads it.

    At the end the last lines have a second. If they don't get out nobody reads, and then
    stderr becomes /dev/null, so that whatever is written after us does not wait either.
    """
    lines = StderrQueue()
    handler = QueueHandler(lines)
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(True)
    before, sys.stderr = sys.stderr, QueueStream(lines, 2)
    try:
        yield
    finally:
        sys.stderr = before
        logging.captureWarnings(False)
        root.removeHandler(handler)
        if not lines.close():
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 2)
            os.close(null)
