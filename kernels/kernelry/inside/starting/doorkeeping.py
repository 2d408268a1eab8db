"""Who keeps the doors of kernels: the fork server takes requests up, a process of each connects.

The fork server is an ancestor of all that can ask, and never waits; what may wait, a connection to
somebody slow, waits in a doorkeeper: a fork of it, made when a session connects for the first time
and ended with its kernel. See walls/doors.py.
"""

import contextlib
import errno
import json
import os
import select
import signal
import socket
import struct
import traceback
from collections import deque
from typing import NoReturn

from ..processes import kill, nearest, rank
from ..walls import doors, guard

PREFIX = struct.Struct("Q?H")  # a request's number, whether its address is a path, how many others
REQUEST_BYTES = 8192
OTHERS = 1000  # kernels that are told with a request
REMEMBERED = 1000  # requests; more than a doorkeeper's socket and hands can hold
TAKEN_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Member:
    """A kernel that a door is of: the first one, or a copy.

    Args:
        reach: To what its processes connect.
    """

    def __init__(self, reach: doors.Reach) -> None:
        self.reach = reach
        #: to its doorkeeper; None: nobody has connected yet
        self.requests: socket.socket | None = None
        self.doorkeeper = 0
        #: what it was passed last, and may not have answered
        self.passed = deque[int](maxlen=REMEMBERED)


class Kept:
    """What there is of the door of a kernel, and of all copies of it.

    Args:
        pid: The kernel.
        keeper: Our end of the socket on which the door comes.
    """

    def __init__(self, pid: int, keeper: socket.socket) -> None:
        self.pid = pid
        self.keeper = keeper
        self.door: doors.Door | None = None
        self.asking: socket.socket | None = None
        #: by pid
        self.members: dict[int, Member] = {}
        #: whether there was ever a copy
        self.is_shared = False

    @property
    def fd(self) -> int:
        """What is to be looked at for this door."""
        return self.keeper.fileno() if self.door is None else self.door.listener

    def reach_of(self, thread: int) -> doors.Reach:
        """Return to what a thread connects that asks: as the kernel does that it descends from.

        Raises:
            Refused: It descends from none, or is what a copy has left, which is its origin's now.
        """
        pid = nearest(thread, self.members)
        if pid == 0 or (self.is_shared and rank(thread) != rank(pid)):
            raise doors.Refused(errno.EACCES)
        return self.members[pid].reach

    def close(self) -> None:
        """Close all that is open of it here."""
        self.keeper.close()
        if self.door is not None:
            os.close(self.door.listener)
        for one in (self.asking, *(member.requests for member in self.members.values())):
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

    def share(self, origin: int, pid: int, launch_file: str) -> None:
        """Let a copy of a kernel use the door of its origin, as its own walls say."""
        kept = self._by_pid.get(origin)
        if kept is None or kept.door is None:
            return
        # Should its plan not be readable it connects to nothing, and not as its origin does.
        kept.members[pid] = Member(doors.Reach(pid, (), (), network=False))
        kept.is_shared = True
        self._by_pid[pid] = kept
        with open(launch_file, encoding="utf-8") as file:
            plan = json.load(file)["walls"]
        kept.members[pid] = Member(doors.reach_of(pid, plan))

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
            for pid in [kept.pid, *kept.members]:
                if self._by_pid.get(pid) is kept:  # the first may be gone, and its number another's
                    self.close(pid)

    def close(self, pid: int) -> None:
        """Have nothing to do with a kernel's door any more: connecting fails there."""
        if (kept := self._by_pid.pop(pid, None)) is None:
            return
        if (member := kept.members.pop(pid, None)) is not None:
            if member.doorkeeper:
                kill(member.doorkeeper)
            if member.requests is not None:
                member.requests.close()
        if kept.members:
            return
        del self._by_fd[kept.fd]
        self._poller.unregister(kept.fd)
        kept.close()

    def is_doorkeeper(self, pid: int) -> bool:
        """Say whether a child of ours is a doorkeeper."""
        return pid in self._doorkeepers

    def note_end(self, pid: int) -> None:
        """Take note of a child's end, which may be a doorkeeper's: the next connect hires anew.

        What it was about to connect would wait for ever: that is answered here.
        """
        if pid not in self._doorkeepers:
            return
        self._doorkeepers.discard(pid)
        for number, kept in self._by_pid.items():
            member = kept.members.get(number)
            if member is not None and member.doorkeeper == pid:
                self._dismiss(kept, member)

    def _dismiss(self, kept: Kept, member: Member) -> None:
        """Have no doorkeeper for a kernel; who waits for the one that was is told."""
        assert kept.door is not None and member.requests is not None
        member.requests.close()
        member.requests, member.doorkeeper = None, 0
        while member.passed:
            kept.door.answer(member.passed.popleft(), errno.ECONNABORTED)

    def forget(self) -> None:
        """Close everything here, in a child that is to become something else."""
        for kept in set(self._by_pid.values()):
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
        listener, kept.asking, plan = found
        kept.members[kept.pid] = Member(doors.reach_of(kept.pid, plan))
        kept.door = doors.Door(listener, kept.reach_of)
        kept.keeper.close()
        self._look_at(kept)

    def _pass_on(self, kept: Kept, request: doors.Request) -> None:
        assert kept.door is not None
        member = kept.members[request.kernel]
        try:
            try:
                self._send(kept, member, request)
            except (BrokenPipeError, ConnectionResetError):  # its end is still to be noted
                self._dismiss(kept, member)
                self._send(kept, member, request)
        except OSError as error:  # it has more than enough to do, or there is none to be had
            is_full = isinstance(error, BlockingIOError)
            kept.door.answer(request.id, errno.EAGAIN if is_full else errno.ECONNABORTED)
        finally:
            doors.close(request)

    def _send(self, kept: Kept, member: Member, request: doors.Request) -> None:
        """Give a request to the doorkeeper of a kernel; raises OSError."""
        if member.requests is None:
            self._hire(kept, member)
        assert member.requests is not None
        has_folder = request.folder >= 0
        fds = [request.fd, request.folder] if has_folder else [request.fd]
        others = [pid for pid in kept.members if pid != request.kernel]
        if len(others) > OTHERS:  # who is whose could not be told
            raise OSError(errno.EAGAIN, "too many copies")
        told = struct.pack(f"{len(others)}I", *others)
        packet = PREFIX.pack(request.id, has_folder, len(others)) + told + request.address
        socket.send_fds(member.requests, [packet], fds, socket.MSG_DONTWAIT)
        member.passed.append(request.id)

    def _hire(self, kept: Kept, member: Member) -> None:
        """Fork the doorkeeper of a kernel."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            attend(kept, member.reach.kernel, theirs)
        theirs.close()
        member.requests, member.doorkeeper = ours, pid
        self._doorkeepers.add(pid)


def attend(kept: Kept, kernel: int, requests: socket.socket) -> NoReturn:
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
        keeper = doors.Keeper(kept.door, kernel, kept.asking)
        while True:
            data, fds, _, _ = socket.recv_fds(requests, REQUEST_BYTES, 2)
            if not data:
                os._exit(0)
            asked, has_folder, count = PREFIX.unpack_from(data)
            others = struct.unpack_from(f"{count}I", data, PREFIX.size)
            address = data[PREFIX.size + struct.calcsize(f"{count}I") :]
            folder = fds[1] if has_folder else -1
            keeper.take(doors.Request(asked, address, fds[0], folder), others)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)
