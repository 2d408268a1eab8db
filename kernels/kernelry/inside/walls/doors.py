"""Unix sockets within a session: who connects, and to whom, is decided outside of its walls.

Which socket a path leads to can't be said by a filter, and what a process shows of its memory it
can change meanwhile. So ``connect`` of all that is within the walls comes here as a notification
(seccomp_unotify(2)), and nothing is ever let go on by itself: the address is copied once, the very
socket is duplicated, and the connection is made on the duplicate, from here.

A session connects to its own: to a socket that lies below a folder which it may write, and at
which a process of its family listens. Whose it is says the system (sock_diag(7), /proc), not the
path: a socket of somebody else could have been moved there. Abstract names and datagrams, which
name their target with each message, are refused. Internet sockets come by as well, since a filter
can't tell them apart; where the session has the network they are connected as they ask.

Taking a request up (`Door.next`) needs to be an ancestor of who asks, where Yama restricts
ptrace(2), and never waits; connecting may wait, so each has a thread, in a process that has
nothing else to do.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import select
import socket
import stat
import struct
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

from ..calls import checked, libc, open_beneath
from ..processes import family

NOTIF_RECV, NOTIF_SEND, NOTIF_ID_VALID = 0xC0502100, 0xC0182101, 0x40082102
NOTIFICATION = struct.Struct("QII iIQ 6Q")  # struct seccomp_notif
RESPONSE = struct.Struct("QqiI")  # struct seccomp_notif_resp
PIDFD_GETFD = 438  # the same on all machines
PIDFD_THREAD = os.O_EXCL
ADDRESS_BYTES = (2, 128)  # of any kind of socket
SO_DOMAIN, SO_TYPE = 39, 3
INTERNET = (socket.AF_INET, socket.AF_INET6)
STREAMS = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)
ABOUT_BYTES = 1 << 16  # of what is said of a door
AT_ONCE = 64  # connections of one session that may wait; more wait for these
NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY = 4, 20
REQUEST, DUMP, FAILED, DONE = 0x001, 0x300, 2, 3  # NLM_F_*, NLMSG_ERROR, NLMSG_DONE
LISTENING, SHOW_FILE, FILE = 1 << 10, 0x2, 1  # UDIAG_SHOW_VFS, UNIX_DIAG_VFS
DIAG_BYTES = 1 << 16
ID = struct.Struct("Q")


class Request(NamedTuple):
    """Somebody who wants to connect."""

    #: the notification
    id: int
    #: where to: an address as it was given, or a path below `folder`
    address: bytes
    #: duplicate of the socket
    fd: int
    #: a folder of the session's, as it sees it; -1: the address is no path
    folder: int = -1
    #: pid of the kernel to which who asks belongs
    kernel: int = 0


class Refused(Exception):
    """A request is answered with an error."""


class Reach(NamedTuple):
    """To what the processes of a kernel connect."""

    #: pid of the kernel; 0: there is none but one, and it is not asked for
    kernel: int
    #: folders below which its sockets may lie
    roots: tuple[bytes, ...]
    #: folders below these in which they may not: where its kernel's are
    closed: tuple[bytes, ...]
    #: whether it has the internet
    network: bool


class Door:
    """What the walls of a session, and of copies of its kernel, let through: connections.

    A copy has the filter of its origin and can't have a listener of its own, so who asks is
    looked up each time.

    Args:
        listener: Descriptor of the filter's notifications.
        reach_of: Says to what a thread that asks connects; raises `Refused`.
    """

    def __init__(self, listener: int, reach_of: Callable[[int], Reach]) -> None:
        self.listener = listener
        self._reach_of = reach_of

    def next(self) -> Request | None:
        """Return who asks next; None: nobody does, or the answer was plain and is given.

        Raises:
            OSError: The listener is closed.
        """
        data = bytearray(NOTIFICATION.size)
        try:
            fcntl.ioctl(self.listener, NOTIF_RECV, data)
        except (FileNotFoundError, InterruptedError):  # it does not ask any more
            return None
        asked, thread, *_, fd, address, size, _, _, _ = NOTIFICATION.unpack(data)
        try:
            return self._look(asked, thread, fd & 0xFFFFFFFF, address, size & 0xFFFFFFFF)
        except Refused as refused:
            self.answer(asked, refused.args[0])
        except OSError as error:
            self.answer(asked, error.errno or errno.EACCES)
        return None

    def answer(self, asked: int, error: int = 0) -> None:
        """Let somebody go on, who may be gone: connected, or with an error's number."""
        with contextlib.suppress(FileNotFoundError):
            fcntl.ioctl(self.listener, NOTIF_SEND, RESPONSE.pack(asked, 0, -error, 0))

    def connect(self, request: Request, members: list[int], diagnosis: "Diagnosis") -> None:
        """Connect a request as far as that is allowed, and answer it; may wait.

        Args:
            request: What was asked.
            members: Pids of the session's processes.
            diagnosis: Says who listens, in the session's network.
        """
        error = errno.EACCES
        try:
            if request.folder < 0:
                error = self._connect_to(request.fd, request.address)
            else:
                error = self._connect_below(request, members, diagnosis)
        except Refused as refused:
            error = refused.args[0]
        except OSError as failed:
            error = failed.errno or errno.EACCES
        finally:
            close(request)
            self.answer(request.id, error)

    def _look(self, asked: int, thread: int, fd: int, where: int, size: int) -> Request:
        """Copy what is asked for, once; raise `Refused` at what is plainly not allowed."""
        if not ADDRESS_BYTES[0] <= size <= ADDRESS_BYTES[1]:
            raise Refused(errno.EINVAL)
        with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
            try:
                address = os.pread(memory.fileno(), size, where)
            except (OSError, OverflowError):
                address = b""
        pidfd = os.pidfd_open(thread, PIDFD_THREAD)
        try:
            mine = checked(libc.syscall(PIDFD_GETFD, pidfd, ctypes.c_uint(fd), 0))
        finally:
            os.close(pidfd)
        request = Request(asked, address, mine)
        try:
            reach = self._reach_of(thread)
            request = request._replace(kernel=reach.kernel)
            if self._is_path(request, reach):
                request = self._below(request, thread, reach)
            # From here on it is known to have been the thread that asked, and no later one.
            fcntl.ioctl(self.listener, NOTIF_ID_VALID, ID.pack(asked))
            if len(address) != size:
                raise Refused(errno.EFAULT)
            return request
        except BaseException:
            close(request)
            raise

    def _is_path(self, request: Request, reach: Reach) -> bool:
        """Say whether a socket is connected to a path; raise `Refused` if to nothing."""
        domain, kind = (option(request.fd, name) for name in (SO_DOMAIN, SO_TYPE))
        if domain in INTERNET and reach.network:
            return False
        if domain != socket.AF_UNIX or kind not in STREAMS:
            raise Refused(errno.EACCES)
        if int.from_bytes(request.address[:2], sys.byteorder) != socket.AF_UNIX:
            raise Refused(errno.EINVAL)
        return True

    def _below(self, request: Request, thread: int, reach: Reach) -> Request:
        """Return a request with its folder; raise `Refused` if that is none of the session's."""
        path = request.address[2:].split(b"\0", 1)[0]
        if not path:  # an abstract name, or none
            raise Refused(errno.EACCES)
        if not path.startswith(b"/"):
            path = os.path.join(os.readlink(f"/proc/{thread}/cwd".encode()), path)
        path = os.path.normpath(path)
        roots = [root for root in reach.roots if path.startswith(root)]
        if not roots or path.startswith(reach.closed):
            raise Refused(errno.EACCES)
        root = max(roots, key=len)
        seen = f"/proc/{thread}/root".encode() + root
        folder = os.open(seen, os.O_PATH | os.O_CLOEXEC)
        return request._replace(folder=folder, address=path[len(root) :])

    def _connect_below(self, request: Request, members: list[int], diagnosis: "Diagnosis") -> int:
        file = self._open(request.folder, request.address)
        try:
            about = os.fstat(file)
            sockets = diagnosis.listeners(about) if stat.S_ISSOCK(about.st_mode) else set[int]()
            if not sockets:
                raise Refused(errno.ECONNREFUSED)
            if not sockets <= held_by(members, sockets):
                raise Refused(errno.EACCES)
            name = f"/proc/self/fd/{file}".encode()
            return self._connect_to(request.fd, struct.pack("=H", socket.AF_UNIX) + name + b"\0")
        finally:
            os.close(file)

    def _open(self, folder: int, beneath: bytes) -> int:
        """Open what lies below a folder, as what it is."""
        try:
            return open_beneath(folder, beneath, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            # Where a link leads is nothing that it could learn.
            raise Refused(errno.ENOENT if error.errno == errno.ENOENT else errno.EACCES) from None

    def _connect_to(self, fd: int, address: bytes) -> int:
        """Connect a socket; return the error's number, or 0."""
        return ctypes.get_errno() if libc.connect(fd, address, len(address)) else 0


class Diagnosis:
    """Says which Unix sockets listen at a file; see sock_diag(7).

    Args:
        asking: A netlink socket, made in the network that is asked about.
    """

    def __init__(self, asking: socket.socket) -> None:
        self._asking = asking
        self._one = threading.Lock()
        with contextlib.suppress(BlockingIOError):  # what one before us asked and did not hear
            while asking.recv(DIAG_BYTES, socket.MSG_DONTWAIT):
                pass

    def listeners(self, file: os.stat_result) -> set[int]:
        """Return the numbers of the sockets that listen at a file.

        The system says 32 bits of the file's number, and a device that some file systems (btrfs,
        overlays) show another number for; where none is on its device all of its number are meant.
        """
        device = os.major(file.st_dev) << 20 | os.minor(file.st_dev)
        with self._one:
            found = [
                (sock, of)
                for sock, inode, of in self._listening()
                if inode == file.st_ino & 0xFFFFFFFF
            ]
        return {sock for sock, of in found if of == device} or {sock for sock, _ in found}

    def _listening(self) -> Iterator[tuple[int, int, int]]:
        """Yield number, file's number and file's device of all that listen at one."""
        body = struct.pack("BBHIIIII", socket.AF_UNIX, 0, 0, LISTENING, 0, SHOW_FILE, 0, 0)
        head = struct.pack("IHHII", 16 + len(body), SOCK_DIAG_BY_FAMILY, REQUEST | DUMP, 0, 0)
        self._asking.send(head + body)
        while True:
            data = self._asking.recv(DIAG_BYTES)
            at = 0
            while at < len(data):
                size, kind = struct.unpack_from("IH", data, at)
                if kind == DONE:
                    return
                if kind == FAILED:
                    raise OSError(-struct.unpack_from("i", data, at + 16)[0], "sock_diag")
                (sock,) = struct.unpack_from("I", data, at + 20)
                part = at + 32
                while part < at + size:
                    length, name = struct.unpack_from("HH", data, part)
                    if name == FILE:
                        yield sock, *struct.unpack_from("II", data, part + 4)
                    part += (length + 3) & ~3
                at += (size + 3) & ~3


def diagnosis() -> socket.socket:
    """Return what `Diagnosis` asks with; made before the walls, which refuse it."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG)


def close(request: Request) -> None:
    """Close what a request has open here."""
    for fd in (request.fd, request.folder):
        if fd >= 0:
            os.close(fd)


def option(fd: int, name: int) -> int:
    """Return what a socket is; raises OSError if it is none."""
    with socket.socket(0, 0, 0, fileno=os.dup(fd)) as same:
        return same.getsockopt(socket.SOL_SOCKET, name)


def held_by(pids: list[int], sockets: set[int]) -> set[int]:
    """Return which sockets these processes have open."""
    names = {f"socket:[{number}]": number for number in sockets}
    held: set[int] = set()
    for pid in pids:
        try:
            with os.scandir(f"/proc/{pid}/fd") as entries:
                for entry in entries:
                    held.update([names[link]] if (link := target(entry.path)) in names else [])
        except OSError:  # it has ended, or hides
            continue
        if held == sockets:
            break
    return held


def target(path: str) -> str:
    """Return where a link leads; "" if it is gone."""
    try:
        return os.readlink(path)
    except OSError:
        return ""


class Keeper:
    """Connects what is asked for at a door, each in a thread.

    Args:
        door: The door.
        family_of: Pid of the process whose family is the session's.
        asking: See `Diagnosis`.
    """

    def __init__(self, door: Door, family_of: int, asking: socket.socket) -> None:
        self._door = door
        self._family_of = family_of
        self._diagnosis = Diagnosis(asking)
        self._slots = threading.BoundedSemaphore(AT_ONCE)

    def take(self, request: Request, others: Collection[int] = ()) -> None:
        """Connect a request in a thread; waits while there are too many.

        Args:
            request: What was asked.
            others: Pids of kernels that descend from this one, and are not of its session.
        """
        self._slots.acquire()
        threading.Thread(target=self._connect, args=(request, others), daemon=True).start()

    def _connect(self, request: Request, others: Collection[int]) -> None:
        try:
            self._door.connect(request, family(self._family_of, others), self._diagnosis)
        finally:
            self._slots.release()


def keep_door(keeper: socket.socket) -> None:
    """Keep the door of a child of this process, which comes on `keeper`, until it has ended."""
    if (found := receive(keeper)) is None:
        return
    listener, asking, about = found
    reach = reach_of(0, about)
    door = Door(listener, lambda thread: reach)
    connecting = Keeper(door, os.getpid(), asking)
    waiting = select.poll()
    waiting.register(door.listener, select.POLLIN)
    while waiting.poll()[0][1] & select.POLLIN:
        if (request := door.next()) is not None:
            connecting.take(request)


def hand_over(door: int, listener: int, asking: socket.socket, plan: dict[str, Any]) -> None:
    """Give a door to whoever keeps it, and keep nothing of it: who has it could answer itself."""
    about = {name: plan[name] for name in ("level", "write", "sockets", "network")}
    with socket.socket(fileno=door) as keeper, asking:
        try:
            socket.send_fds(keeper, [json.dumps(about).encode()], [listener, asking.fileno()])
        finally:
            os.close(listener)


def receive(keeper: socket.socket) -> tuple[int, socket.socket, dict[str, Any]] | None:
    """Return a door's listener, what `Diagnosis` asks with, and the plan; None: there is none."""
    data, fds, _, _ = socket.recv_fds(keeper, ABOUT_BYTES, 2)
    for fd in fds:
        os.set_inheritable(fd, False)
    if not data or len(fds) != 2:
        return None
    return fds[0], socket.socket(fileno=fds[1]), json.loads(data)


def reach_of(kernel: int, plan: dict[str, Any]) -> Reach:
    """Return to what the processes of a kernel connect that is in the walls of a plan."""
    own = ["/dev/shm", *(["/tmp"] if plan["level"] == "box" else [])]
    roots, closed = (
        tuple(os.fsencode(folder) + b"/" for folder in folders)
        for folders in ([*plan["write"], *own], plan["sockets"])
    )
    return Reach(kernel, roots, closed, plan["network"])
