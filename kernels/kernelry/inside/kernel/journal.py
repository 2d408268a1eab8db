"""What this kernel has published since its newest execution began, kept for the next server.

IOPub drops what nobody listens to, and a reply to a server that is gone reaches nobody. So
each output and each reply gets a sequence number, and goes to a ring in memory and to an
append-only file of lines of JSON. A server that adopts this kernel reads the file, then asks
for what came after it (``replay`` of helper.py); of a kernel that died the file is the last
word. Both begin anew with each execution: the server sends the next one only when it has
written the last one down. A file always begins with a line that says what ran last, so that
an empty one can't be taken for "nothing ran".
"""

import contextlib
import json
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

RING_BYTES = 8 << 20  # kept in memory; what falls out is still in the file
FILE_BYTES = 48 << 20  # more than the budget lets an execution publish
PAGE_BYTES = 1 << 20  # of one answer to `replay`
LINE_BYTES = 12 << 20  # of one line in it; longer ones are only in the file
DELIMITER = b"<IDS|MSG>"
STATUS = b".status"  # how the topic of busy and idle ends


class Journal:
    """The journal of one kernel; safe to use from any thread.

    Args:
        path: Its file, which is begun anew; empty: nothing is kept at all.
    """

    def __init__(self, path: str) -> None:
        self._lock = threading.Lock()
        self._ring: deque[tuple[int, bytes]] = deque()
        self._ring_bytes = 0
        self._file_bytes = 0
        self._seq = 0
        self._path = path
        self._fd = -1
        self._file = (0, 0)  # device and inode of our file
        #: msg_id of the newest execution, empty before the first
        self.newest = ""
        #: whether anything is kept
        self.kept = bool(path)
        if path:
            self._open()
            self._append(b'"channel":"open"')

    def begin(self, msg_id: str) -> None:
        """Forget all, and note that the execution `msg_id` was taken up."""
        with self._lock:
            self.newest = msg_id
            self._ring.clear()
            self._ring_bytes = self._file_bytes = 0
            if self.kept:
                self._begin_file()
            self._append(b'"channel":"begin","msg_id":' + _json(msg_id))

    def note(self, frames: Sequence[bytes]) -> None:
        """Keep a message that is about to be published."""
        if not self.kept or DELIMITER not in frames:
            return
        start = frames.index(DELIMITER) + 2  # behind the signature
        header, parent, metadata, content = frames[start : start + 4]
        with self._lock:
            # Busy and idle of questions about our health are no part of any execution.
            if frames[0].endswith(STATUS) and self.newest.encode() not in parent:
                return
            self._append(
                b'"channel":"iopub","header":%b,"parent_header":%b,"metadata":%b,"content":%b'
                % (header, parent, metadata, content)
            )

    def note_reply(self, msg_id: str, content: dict[str, Any]) -> None:
        """Keep the reply to an execution, before it is sent."""
        if self.kept:
            with self._lock:
                line = b'"channel":"shell","msg_id":%b,"at":%b,"content":%b'
                self._append(line % (_json(msg_id), _json(time.time()), _json(content)))

    def since(self, seq: int) -> dict[str, Any]:
        """Return the lines after number `seq`, as far as they fit into one answer."""
        lines: list[str] = []
        size = 0
        with self._lock:
            for number, line in self._ring:
                if number <= seq or len(line) > LINE_BYTES:
                    continue
                if lines and size + len(line) > PAGE_BYTES:
                    return {"lines": lines, "more": True}
                lines.append(line.decode("utf-8", "replace"))
                size += len(line)
        return {"lines": lines, "more": False}

    def _append(self, fields: bytes) -> None:
        self._seq += 1
        line = b'{"seq":%d,%b}\n' % (self._seq, fields)
        self._ring.append((self._seq, line))
        self._ring_bytes += len(line)
        while self._ring_bytes > RING_BYTES and len(self._ring) > 1:
            self._ring_bytes -= len(self._ring.popleft()[1])
        if self._is_ours and self._file_bytes + len(line) <= FILE_BYTES:
            self._write(line)

    @property
    def _is_ours(self) -> bool:
        """Say whether the descriptor is still our file's: a cell may close it and open its own."""
        if self._fd < 0:
            return False
        with contextlib.suppress(OSError):
            status = os.fstat(self._fd)
            return (status.st_dev, status.st_ino) == self._file
        return False

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
        with contextlib.suppress(OSError):  # a full disk: then there is only the ring
            self._fd = os.open(self._path, flags | os.O_NOFOLLOW, 0o600)
            status = os.fstat(self._fd)
            self._file = (status.st_dev, status.st_ino)

    def _begin_file(self) -> None:
        """Empty the file; make it again if a cell has closed or removed it."""
        with contextlib.suppress(OSError):
            status = os.stat(self._path, follow_symlinks=False)
            if self._is_ours and (status.st_dev, status.st_ino) == self._file:
                os.ftruncate(self._fd, 0)
                return
        if self._is_ours:
            os.close(self._fd)
        self._fd = -1
        # What can't be emptied tells of another execution than the one that begins.
        with contextlib.suppress(OSError):
            os.unlink(self._path)
        self._open()

    def _write(self, line: bytes) -> None:
        try:
            written = os.write(self._fd, line)
            if written < len(line):  # a full disk; half a line must not spoil the next one
                os.ftruncate(self._fd, self._file_bytes)
                written = 0
        except OSError:  # it stays in the ring
            written = 0
        self._file_bytes += written


def _json(value: Any) -> bytes:
    return json.dumps(value, default=str).encode("ascii")
