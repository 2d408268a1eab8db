"""Who keeps the doors of kernels: the fork server takes requests up, a process of each connects.

The fork server is an ancestor of all that can ask, and never waits; what may wait, a connection to
somebody slow, waits in a doorkeeper: a fork of it, made when a session connects for the first time
and ended with its kernel. See walls/doors.py.
"""

import contextlib
import errno
import os
import select
import signal
import socket
import struct
import traceback
from collections import deque
from typing import NoReturn

from ..processes import kill
from ..walls import doors, guard

PREFIX = struct.Struct("Q?")  # a request's number, whether its address is a path
REQUEST_BYTES = 8192
REMEMBERED = 1000  # requests; more than a doorkeeper's socket and hands can hold
TAKEN_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Kept:
    """What there is of one kernel's door.

    Args:
        pid: The kernel.
        keeper: Our end of the socket on which the door comes.
    """

    def __init__(self, pid: int, keeper: socket.socket) -> None:
        self.pid = pid
        self.keeper = keeper
        self.door: doors.Door | None = None
        self.asking: socket.socket | None = None
        #: to its doorkeeper; None: nobody has connected yet
        self.requests: socket.socket | None = None
        self.doorkeeper = 0
        #: what it was passed last, and may not have answered
        self.passed = deque[int](maxlen=REMEMBERED)

    @property
    def fd(self) -> int:
        """What is to be looked at for this door."""
        return self.keeper.fileno() if self.door is None else self.door.listener

    def close(self) -> None:
        """Close all that is open of it here."""
        self.keeper.close()
        if self.door is not None:
            os.close(self.door.listener)
        for one in (self.asking, self.requests):
            if one is not None:
                one.close()


class Doors:
    """The doors of all kernels of a fork server.

    Args:
        poller: What its loop waits with.
    """

    def __init__(self, poller: select.poll) -> None:
        self._poller = poller
        self._by_fd: dict[int, Kept] = {}
        self._by_pid: dict[int, Kept] = {}
        self._doorkeepers: set[int] = set()

    def expect(self, pid: int, keeper: socket.socket) -> None:
        """Wait for the door of a kernel that has just been started."""
        kept = Kept(pid, keeper)
        self._by_pid[pid] = kept
        self._look_at(kept)

    def __contains__(self, fd: int) -> bool:
        """Say whether a descriptor is one of a door."""
        return fd in self._by_fd

    def serve(self, fd: int) -> None:
        """Do what there is to be done at a door; never waits."""
        kept = self._by_fd[fd]
        try:
            if kept.door is None:
                self._receive(kept)
            elif (request := kept.door.next()) is not None:
                self._pass_on(kept, request)
        except Exception:  # what it brings is this kernel's own harm: nobody in it connects then
            traceback.print_exc()
            self.close(kept.pid)

    def close(self, pid: int) -> None:
        """Have nothing to do with a kernel's door any more: connecting fails there."""
        if (kept := self._by_pid.pop(pid, None)) is None:
            return
        del self._by_fd[kept.fd]
        self._poller.unregister(kept.fd)
        if kept.doorkeeper:
            kill(kept.doorkeeper)
        kept.close()

    def is_doorkeeper(self, pid: int) -> bool:
        """Say whether a child of ours is a doorkeeper."""
        return pid in self._doorkeepers

    def note_end(self, pid: int) -> None:
        """Take note of a child's end, which may be a doorkeeper's: the next connect hires anew.

        What it was about to connect would wait for ever: that is answered here.
        """
        self._doorkeepers.discard(pid)
        for kept in self._by_pid.values():
            if kept.doorkeeper == pid:
                self._dismiss(kept)

    def _dismiss(self, kept: Kept) -> None:
        """Have no doorkeeper at a door; who waits for the one that was is told."""
        assert kept.door is not None and kept.requests is not None
        kept.requests.close()
        kept.requests, kept.doorkeeper = None, 0
        while kept.passed:
            kept.door.answer(kept.passed.popleft(), errno.ECONNABORTED)

    def forget(self) -> None:
        """Close everything here, in a child that is to become something else."""
        for kept in self._by_pid.values():
            kept.close()

    def _look_at(self, kept: Kept) -> None:
        self._by_fd[kept.fd] = kept
        self._poller.register(kept.fd, select.POLLIN)

    def _receive(self, kept: Kept) -> None:
        found = doors.receive(kept.keeper)
        if found is None:  # it has no walls
            self.close(kept.pid)
            return
        self._poller.unregister(kept.fd)
        del self._by_fd[kept.fd]
        kept.door, kept.asking = found
        kept.keeper.close()
        self._look_at(kept)

    def _pass_on(self, kept: Kept, request: doors.Request) -> None:
        assert kept.door is not None
        try:
            try:
                self._send(kept, request)
            except (BrokenPipeError, ConnectionResetError):  # its end is still to be noted
                self._dismiss(kept)
                self._send(kept, request)
        except OSError as error:  # it has more than enough to do, or there is none to be had
            is_full = isinstance(error, BlockingIOError)
            kept.door.answer(request.id, errno.EAGAIN if is_full else errno.ECONNABORTED)
        finally:
            doors.close(request)

    def _send(self, kept: Kept, request: doors.Request) -> None:
        """Give a request to the doorkeeper of a door; raises OSError."""
        if kept.requests is None:
            self._hire(kept)
        assert kept.requests is not None
        has_folder = request.folder >= 0
        fds = [request.fd, request.folder] if has_folder else [request.fd]
        packet = PREFIX.pack(request.id, has_folder) + request.address
        socket.send_fds(kept.requests, [packet], fds, socket.MSG_DONTWAIT)
        kept.passed.append(request.id)

    def _hire(self, kept: Kept) -> None:
        """Fork the doorkeeper of a door."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            attend(kept, theirs)
        theirs.close()
        kept.requests, kept.doorkeeper = ours, pid
        self._doorkeepers.add(pid)


def attend(kept: Kept, requests: socket.socket) -> NoReturn:
    """Connect what is passed on, until nobody passes on; the whole life of a doorkeeper."""
    try:
        signal.set_wakeup_fd(-1)
        for number in TAKEN_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        assert kept.door is not None and kept.asking is not None
        needed = {0, 1, 2, requests.fileno(), kept.door.listener, kept.asking.fileno()}
        for fd in map(int, os.listdir("/proc/self/fd")):
            if fd not in needed:
                with contextlib.suppress(OSError):  # what listed them
                    os.close(fd)
        guard.drop_capabilities()
        keeper = doors.Keeper(kept.door, kept.pid, kept.asking)
        while True:
            data, fds, _, _ = socket.recv_fds(requests, REQUEST_BYTES, 2)
            if not data:
                os._exit(0)
            asked, has_folder = PREFIX.unpack_from(data)
            address = data[PREFIX.size :]
            keeper.take(doors.Request(asked, address, fds[0], fds[1] if has_folder else -1))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)
