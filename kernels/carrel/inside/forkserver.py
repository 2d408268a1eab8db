"""The fork server: a warm process that kernels are forked from.

It imports ipykernel and the preloads, builds IPython's shell, and then only forks: a
kernel is ready in tens of milliseconds and shares what it does not change. One thread at
the fork, always. It listens on a Unix SEQPACKET socket for servers of its own user; it is
the parent of its kernels, so it reaps them, keeps their exit codes, and outlives the
server: when nobody is connected for ``orphan_timeout`` seconds it ends them and itself.

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
from typing import Any, NoReturn

PACKET_BYTES = 1 << 16
EXITS_KEPT = 1000  # exit codes remembered for servers that ask later
CREDENTIALS = struct.Struct("3i")  # pid, uid, gid of SO_PEERCRED


class BecomeKernel(BaseException):
    """Raised in a forked child, to leave the loop and run the kernel on a clean stack."""

    def __init__(self, launch: dict[str, Any], ready_fd: int) -> None:
        self.launch = launch
        self.ready_fd = ready_fd


def main(config_file: str) -> None:
    """Run a fork server until it is told to end, or nobody wants it any more."""
    with open(config_file, encoding="utf-8") as file:
        config = json.load(file)
    report = Report(config["report_fd"])
    become_daemon(config["log_file"])
    from . import launcher

    level = launcher.prepare(with_shell=config["level"] == "shell")
    preload(config["preloads"], report, optional=config["optional"])
    gc.collect()
    gc.freeze()
    server = ForkServer(config)
    report.say(ready=True, pid=os.getpid(), level=level, threads=thread_count())
    report.close()
    try:
        server.serve()
    except BecomeKernel as become:
        child = become
    # Outside of the handler: a cell's exception must not have ours as its context.
    launcher.run_forked(child.launch, child.ready_fd)


class Report:
    """Lines of JSON to whoever starts us, until we are ready."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def say(self, **what: Any) -> None:
        """Write one line."""
        with contextlib.suppress(OSError):  # whoever started us may be gone already
            os.write(self._fd, json.dumps(what).encode() + b"\n")

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
        self._kernels: dict[int, str] = {}  # pid -> launch file
        self._exits: dict[int, int] = {}  # pid -> exit code
        self._clients: dict[int, socket.socket] = {}
        self._orphaned_at: float | None = time.monotonic()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        self._listener.bind(self._path)
        os.chmod(self._path, 0o600)
        self._listener.listen(8)
        self._wake_in, self._wake_out = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_out, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._end_by_signal)

    def serve(self) -> NoReturn:
        """Serve requests until there is nobody to serve."""
        poller = select.poll()
        poller.register(self._listener, select.POLLIN)
        poller.register(self._wake_in, select.POLLIN)
        while True:
            for fd, _ in poller.poll(self._patience()):
                if fd == self._listener.fileno():
                    self._accept(poller)
                elif fd == self._wake_in:
                    self._reap()
                else:
                    self._answer(fd, poller)
            if self._is_abandoned():
                self._end()

    def _patience(self) -> float | None:
        """Return milliseconds until we are abandoned; None: somebody is there."""
        if self._orphaned_at is None:
            return None
        left = self._orphaned_at + self._orphan_timeout - time.monotonic()
        return max(left, 0.0) * 1000 + 1

    def _is_abandoned(self) -> bool:
        if self._orphaned_at is None:
            return False
        return time.monotonic() - self._orphaned_at >= self._orphan_timeout

    def _accept(self, poller: select.poll) -> None:
        client, _ = self._listener.accept()
        peer = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
        if CREDENTIALS.unpack(peer)[1] != os.getuid():
            client.close()
            return
        self._clients[client.fileno()] = client
        self._orphaned_at = None
        poller.register(client, select.POLLIN)

    def _answer(self, fd: int, poller: select.poll) -> None:
        client = self._clients[fd]
        fds: list[int] = []
        try:
            data, fds, _, _ = socket.recv_fds(client, PACKET_BYTES, 1)
        except OSError:
            data = b""
        if not data:
            poller.unregister(fd)
            del self._clients[fd]
            client.close()
            if not self._clients:
                self._orphaned_at = time.monotonic()
                if not self._kernels:
                    self._end()
            return
        request = json.loads(data)
        match request["op"]:
            case "fork":
                self._fork(client, request, fds[0])
            case "end":
                self._end()

    def _fork(self, client: socket.socket, request: dict[str, Any], ready_fd: int) -> None:
        """Answer "fork": {id, launch} and the ready pipe -> {id, pid} and a pidfd."""
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            raise BecomeKernel(self._read_launch_in_child(request["launch"]), ready_fd)
        os.close(ready_fd)
        self._kernels[pid] = request["launch"]
        pidfd = os.pidfd_open(pid)
        answer = {"id": request["id"], "pid": pid, "seconds": time.monotonic() - started}
        self._send(client, answer, [pidfd])
        os.close(pidfd)

    def _read_launch_in_child(self, path: str) -> dict[str, Any]:
        """Leave everything of the fork server behind; return what kernel to become."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        for client in self._clients.values():
            client.close()
        self._listener.close()
        os.close(self._wake_in)
        os.close(self._wake_out)
        with open(path, encoding="utf-8") as file:
            launch: dict[str, Any] = json.load(file)
        return launch

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake_in, 512):
                pass
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            self._kernels.pop(pid, None)
            self._exits[pid] = code
            while len(self._exits) > EXITS_KEPT:
                del self._exits[next(iter(self._exits))]
            for client in list(self._clients.values()):
                self._send(client, {"exited": pid, "code": code})

    def _send(self, client: socket.socket, packet: dict[str, Any], fds: list[int] = []) -> None:  # noqa: B006  # never changed
        with contextlib.suppress(OSError):  # gone: its end is noticed by the loop
            socket.send_fds(client, [json.dumps(packet).encode()], fds)

    def _end_by_signal(self, signum: int, frame: Any) -> None:
        self._end()

    def _end(self) -> NoReturn:
        """End all kernels and ourselves."""
        for pid in self._kernels:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        os._exit(0)


if sys.platform != "linux":
    raise ImportError("the fork server needs Linux: other systems can't fork such a process safely")
