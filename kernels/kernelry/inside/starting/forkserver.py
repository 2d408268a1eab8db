"""The fork server: a warm process that kernels are forked from, and their guardian.

It imports ipykernel and the preloads, builds IPython's shell, and then only forks: a
kernel is ready in tens of milliseconds and shares what it does not change. One thread at
the fork, always. It listens on a Unix SEQPACKET socket for servers of its own user.

As the guardian (at level "none" it is only that, and imports nothing) it is the parent of
its kernels and inherits what they leave behind, so it keeps their exit codes, ends their
stray children, and outlives the server: when nobody is connected for ``orphan_timeout``
seconds it ends all of them and itself.

Requests are JSON packets with an ``op``; see the methods of `ForkServer` for each.
"""

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from typing import Any, NoReturn

from ..processes import (
    children,
    end_children,
    family,
    inherit_orphans,
    is_shelter,
    is_still,
    kill,
    next_end,
    spawn,
    start_time,
)
from .doorkeeping import Doors
from .own import Own

PACKET_BYTES = 1 << 16
EXITS_KEPT = 1000  # exit codes remembered for servers that ask later
LISTED_AT_ONCE = 100  # kernels or exit codes in one packet of a list
END_DEADLINE = 5.0  # seconds to end everything in; what is stuck in the system stays
STRAYS_DEADLINE = 0.2  # seconds in which nothing else is done but to end strays
RETRY = 20.0  # milliseconds until they are looked for again
CREDENTIALS = struct.Struct("3i")  # pid, uid, gid of SO_PEERCRED


class BecomeKernel(BaseException):
    """Raised in a forked child, to leave the loop and run the kernel on a clean stack."""

    def __init__(self, launch: dict[str, Any], ready_fd: int, door: int) -> None:
        self.launch = launch
        self.ready_fd = ready_fd
        self.door = door


def main(config_text: str) -> None:
    """Run a fork server until it is told to end, or nobody wants it any more.

    Args:
        config_text: What it is told, as JSON; no secret.
    """
    config = json.loads(config_text)
    report = Report(config["report_fd"])
    become_daemon(config["log_file"])
    inherit_orphans()
    level = config["level"]
    own = Own(config["root"])
    if level != "none":
        own.adopt()
    given = dict(os.environ)
    if level != "none":
        from . import launcher

        level = launcher.prepare(with_shell=level == "shell")
        preload(config["preloads"], report, optional=config["optional"])
        own.find()
    added = {name: value for name, value in os.environ.items() if given.get(name) != value}
    gc.collect()
    gc.freeze()
    server = ForkServer(config)
    is_heard = report.say(ready=True, pid=os.getpid(), level=level, threads=thread_count())
    report.close()
    try:
        server.serve(is_expected=is_heard)
    except BecomeKernel as become:
        child = become
    # Outside of the handler: a cell's exception must not have ours as its context.
    from . import launcher

    launcher.run_forked(child.launch, child.ready_fd, added, own, child.door)


class Report:
    """Lines of JSON to whoever starts us, until we are ready."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def say(self, **what: Any) -> bool:
        """Write one line; say whether there is somebody who can read it."""
        try:
            os.write(self._fd, json.dumps(what).encode() + b"\n")
        except OSError:  # whoever started us is gone
            return False
        return True

    def close(self) -> None:
        """End the report."""
        os.close(self._fd)


def become_daemon(log_file: str) -> None:
    """Keep nothing of the server's: no terminal, no stdio."""
    null = os.open(os.devnull, os.O_RDONLY)
    log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(null)
    os.close(log)


def preload(modules: list[str], report: Report, *, optional: bool) -> None:
    """Import modules that every kernel shall have ready.

    Each is announced first, so that a crash can be laid at its door. One that leaves a
    thread alive ends us (it can't be unloaded): we are started again without it.
    """
    for name in modules:
        report.say(preloading=name)
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if optional:
                report.say(absent=name)
            else:
                report.say(failed=name, why=str(error))
        except Exception as error:  # whatever it is, the kernels do without this module
            report.say(failed=name, why=f"{type(error).__name__}: {error}")
        if not is_single_threaded():
            report.say(failed=name, why="it leaves a thread running, which a fork would lose")
            os._exit(1)


def is_single_threaded() -> bool:
    """Say whether a fork would copy the only thread.

    A native thread that its library joins before a fork (OpenBLAS does) is none, so a fork
    is tried and the threads are counted after it.
    """
    if threading.active_count() > 1:
        return False
    if thread_count() == 1:
        return True
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return thread_count() == 1


def thread_count() -> int:
    """Return how many threads the operating system sees."""
    return len(os.listdir("/proc/self/task"))


class ForkServer:
    """The loop: one thread, no asyncio, so that a fork copies nothing half-done."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._path: str = config["socket"]
        self._orphan_timeout: float = config["orphan_timeout"]
        self._profile: str = config["profile"]
        self._level: str = config["level"]
        self._kernels: dict[int, str] = {}  # pid -> launch file, of our children
        self._watched: dict[int, tuple[int, int, str]] = {}  # pidfd -> pid, start, launch file
        self._exits: dict[str, tuple[int, int]] = {}  # launch file -> pid, exit code
        self._clients: dict[int, socket.socket] = {}
        self._orphaned_at: float | None = time.monotonic()
        self._has_strays = False
        self._was_wanted = False
        # While we hold it, kernels live; see launcher.hold_on_to.
        self._lifeline = os.open(config["lifeline"], os.O_RDWR) if config["lifeline"] else -1
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        self._listener.bind(self._path)
        os.chmod(self._path, 0o600)
        self._listener.listen(8)
        self._poller = select.poll()
        self._doors = Doors(self._poller)
        self._wake_in, self._wake_out = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_out, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._end_by_signal)

    def serve(self, *, is_expected: bool) -> NoReturn:
        """Serve requests until there is nobody to serve.

        Args:
            is_expected: Whether somebody knows that we are there: else who has not come by now
                looked for us before we listened, and will not come.
        """
        self._poller.register(self._listener, select.POLLIN)
        if not is_expected and not self._poller.poll(0):
            self._end()
        self._poller.register(self._wake_in, select.POLLIN)
        while True:
            for fd, _ in self._poller.poll(self._patience()):
                try:
                    self._serve(fd)
                except Exception:  # whatever one kernel or request brings, the others live on
                    traceback.print_exc()
                    self._drop(fd)
            if self._has_strays:
                self._end_strays()
            if self._is_abandoned():
                self._end()

    def _serve(self, fd: int) -> None:
        if fd == self._listener.fileno():
            self._accept()
        elif fd == self._wake_in:
            self._reap()
        elif fd in self._doors:
            self._doors.serve(fd)
        elif fd in self._watched:
            self._unwatch(fd)
        elif fd in self._clients:
            self._answer(fd)

    def _drop(self, fd: int) -> None:
        """Have nothing to do with a client any more; any other descriptor stays."""
        if (client := self._clients.pop(fd, None)) is None:
            return
        self._poller.unregister(fd)
        client.close()
        if not self._clients:
            self._orphaned_at = time.monotonic()

    def _patience(self) -> float | None:
        """Return milliseconds until there is something to do anyway; None: never."""
        if self._has_strays:
            return RETRY
        if self._orphaned_at is None:
            return None
        left = self._orphaned_at + self._orphan_timeout - time.monotonic()
        return max(left, 0.0) * 1000 + 1

    def _is_abandoned(self) -> bool:
        if self._orphaned_at is None:
            return False
        if self._was_wanted and not self._kernels and not self._watched:
            return True  # nothing to keep for anybody
        return time.monotonic() - self._orphaned_at >= self._orphan_timeout

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        peer = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
        if CREDENTIALS.unpack(peer)[1] != os.getuid():
            client.close()
            return
        self._clients[client.fileno()] = client
        self._orphaned_at = None
        self._was_wanted = True
        self._poller.register(client, select.POLLIN)

    def _answer(self, fd: int) -> None:
        client = self._clients[fd]
        fds: list[int] = []
        try:
            data, fds, _, _ = socket.recv_fds(client, PACKET_BYTES, 1)
            for given in fds:  # a kernel that is spawned gets it at another number, and only there
                os.set_inheritable(given, False)
        except OSError:
            data = b""
        if not data:
            self._drop(fd)
            return
        request = json.loads(data)
        match request["op"]:
            case "fork":
                self._fork(client, request, fds[0])
            case "spawn":
                self._spawn(client, request, fds[0])
            case "watch":
                self._watch(request)
                self._send(client, {"watching": request["pid"]})
            case "list":
                self._list(client)
            case "patience":
                self._orphan_timeout = request["seconds"]
            case "end":
                self._end(spare=request.get("spare", False))

    def _fork(self, client: socket.socket, request: dict[str, Any], ready_fd: int) -> None:
        """Answer "fork": {id, launch} and the ready pipe -> {id, pid} and a pidfd."""
        keeper, door = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with door:
            try:
                pid = os.fork()
            except OSError as error:
                keeper.close()
                self._refuse(client, request, ready_fd, error)
                return
            if pid == 0:
                try:
                    keeper.close()
                    launch = self._read_launch_in_child(request["launch"])
                except BaseException:  # nobody but a kernel may go on from here
                    traceback.print_exc()
                    os._exit(1)
                raise BecomeKernel(launch, ready_fd, door.detach())
        self._introduce(client, request, pid, ready_fd, keeper)

    def _spawn(self, client: socket.socket, request: dict[str, Any], ready_fd: int) -> None:
        """Answer "spawn", which is "fork" for a kernel that shall be a fresh process."""
        keeper, door = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with door, open(request["launch"], encoding="utf-8") as file:
                launch = json.load(file)
                pid = spawn(launch, ready_fd, door.fileno())
        except OSError as error:
            keeper.close()
            self._refuse(client, request, ready_fd, error)
            return
        self._introduce(client, request, pid, ready_fd, keeper)

    def _introduce(
        self,
        client: socket.socket,
        request: dict[str, Any],
        pid: int,
        ready_fd: int,
        keeper: socket.socket,
    ) -> None:
        os.close(ready_fd)
        self._kernels[pid] = request["launch"]
        self._doors.expect(pid, keeper)
        pidfd = os.pidfd_open(pid)
        if not self._send(client, {"id": request["id"], "pid": pid}, [pidfd]):
            kill(pid)  # nobody will ever know of it
        os.close(pidfd)

    def _refuse(
        self, client: socket.socket, request: dict[str, Any], ready_fd: int, error: OSError
    ) -> None:
        os.close(ready_fd)
        self._send(client, {"id": request["id"], "error": error.strerror or str(error)})

    def _watch(self, request: dict[str, Any]) -> None:
        """Take "watch": {pid, started, launch, origin}, a kernel that is not our child.

        It is one of the server's, or a copy of another kernel, its origin.
        """
        pid = request["pid"]
        try:
            self._doors.share(request.get("origin", 0), pid, request["launch"])
        except (OSError, LookupError, ValueError, TypeError):  # it connects to nothing then
            traceback.print_exc()
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:  # it has ended already, or this process has no descriptor left
            return
        started = request["started"]
        if not is_still(pid, started):
            os.close(pidfd)
            self._doors.close(pid)
            return
        self._watched[pidfd] = (pid, started, request["launch"])
        self._poller.register(pidfd, select.POLLIN)

    def _unwatch(self, pidfd: int) -> None:
        self._note_ends()  # of one that became our child while we know what it was
        self._poller.unregister(pidfd)
        os.close(pidfd)
        self._doors.close(self._watched.pop(pidfd)[0])

    def _list(self, client: socket.socket) -> None:
        """Answer "list": packets with {kernels}, {exits}, and at last who we are."""
        # None of our children is reaped before it is taken out: the number is still its own.
        kernels = [(pid, launch, True, start_time(pid)) for pid, launch in self._kernels.items()]
        kernels += [(pid, launch, False, start) for pid, start, launch in self._watched.values()]
        exits = [(launch, *end) for launch, end in self._exits.items()]  # + pid, code
        for start in range(0, len(kernels), LISTED_AT_ONCE):
            self._send(client, {"kernels": kernels[start : start + LISTED_AT_ONCE]})
        for start in range(0, len(exits), LISTED_AT_ONCE):
            self._send(client, {"exits": exits[start : start + LISTED_AT_ONCE]})
        self._send(client, {"listed": True, "profile": self._profile, "level": self._level})

    def _read_launch_in_child(self, path: str) -> dict[str, Any]:
        """Leave everything of the fork server behind; return what kernel to become."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        for client in self._clients.values():
            client.close()
        self._doors.forget()
        for fd in (*self._watched, self._wake_in, self._wake_out, self._lifeline):
            if fd >= 0:
                os.close(fd)
        self._listener.close()
        with open(path, encoding="utf-8") as file:
            launch: dict[str, Any] = json.load(file)
        return launch

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake_in, 512):
                pass
        self._note_ends()
        self._end_strays()

    def _note_ends(self) -> None:
        while (end := next_end()) is not None:
            self._doors.note_end(end[0])
            if launch := self._kernels.pop(end[0], "") or self._launch_of_watched(end[0]):
                self._note_exit(*end, launch)

    def _launch_of_watched(self, pid: int) -> str:
        """Return the launch file of a kernel that became our child when its parent ended."""
        found = (launch for other, _, launch in self._watched.values() if other == pid)
        return next(found, "")

    def _note_exit(self, pid: int, code: int, launch: str) -> None:
        self._doors.close(pid)
        self._exits[launch] = (pid, code)
        while len(self._exits) > EXITS_KEPT:
            del self._exits[next(iter(self._exits))]
        for client in list(self._clients.values()):
            self._send(client, {"exited": pid, "code": code})

    def _end_strays(self) -> None:
        """Kill children that are no kernels: those of a kernel that died become ours.

        What starts others faster than that is gone at once, or is looked for again soon.
        """
        deadline = time.monotonic() + STRAYS_DEADLINE
        while strays := [pid for pid in children(os.getpid()) if not self._is_expected(pid)]:
            for pid in strays:
                kill(pid)
            self._note_ends()
            if time.monotonic() > deadline:
                break
        self._has_strays = bool(strays)

    def _is_expected(self, pid: int) -> bool:
        is_ours = pid in self._kernels or self._doors.is_doorkeeper(pid)
        return is_ours or bool(self._launch_of_watched(pid)) or self._is_shelter(pid)

    def _is_shelter(self, pid: int) -> bool:
        """Say whether kernels that are no children of ours end with this one, in their box."""
        return is_shelter(pid, [watched for watched, _, _ in self._watched.values()])

    def _send(self, client: socket.socket, packet: dict[str, Any], fds: list[int] = []) -> bool:  # noqa: B006  # never changed
        try:
            socket.send_fds(client, [json.dumps(packet).encode()], fds)
        except OSError:  # gone: its end is noticed by the loop
            return False
        return True

    def _end_by_signal(self, signum: int, frame: Any) -> None:
        self._end()

    def _end(self, *, spare: bool = False) -> NoReturn:
        """End all kernels, what they have started, and ourselves.

        Args:
            spare: Leave the kernels that are not our children to the server, which asks for it.
        """
        for pid, started, _ in () if spare else self._watched.values():
            for member in family(pid) if is_still(pid, started) else ():
                kill(member)
        for pid in self._kernels:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        spared = {pid for pid, _, _ in self._watched.values()} if spare else set()
        spared.update(pid for pid in children(os.getpid()) if spare and self._is_shelter(pid))
        # Whoever dies leaves us its children, until there are none.
        end_children(END_DEADLINE, spared)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        os._exit(0)


if sys.platform != "linux":
    raise ImportError("the fork server needs Linux: other systems can't fork such a process safely")
