"""Ways to leave a session: each leaves a process that bears the test's mark, or tries to.

The text is run as it is, in a cell, a script or a build, with MARK defined before it.
"""

import contextlib
import ctypes
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import Any

MARK = globals().get("MARK", "0")
libc = ctypes.CDLL(None, use_errno=True)
MACHINE = os.uname().machine
CLONE = 220 if MACHINE == "aarch64" else 56
SIGCHLD, CLONE_PARENT, CLONE_VFORK, CLONE_UNTRACED = 17, 0x8000, 0x4000, 0x800000
PRCTL_NAME, SUBREAPER = 15, 36
Way = Callable[[], None]
WAYS: dict[str, Way] = {}
NULL = subprocess.DEVNULL
QUIET: Any = {"stdin": NULL, "stdout": NULL, "stderr": NULL}


def way(function: Way) -> Way:
    """Make a function a way."""
    WAYS[function.__name__] = function
    return function


def argument(name: str) -> str:
    """Return what `sleep` is told: how long, so that it tells which way it is."""
    return f"{7200 + sorted(WAYS).index(name)}.{MARK}"


def let_go() -> None:
    """Hold nothing open."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.closerange(3, 256)


def become(name: str, env: dict[str, str] | None = None) -> None:
    """Become the process that is left, holding nothing open."""
    let_go()
    os.execvpe("sleep", ["sleep", argument(name)], os.environ if env is None else env)


def forked(body: Way) -> None:
    """Do something in a child, and wait for that."""
    pid = os.fork()
    if pid == 0:
        try:
            body()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def left(body: Way) -> None:
    """Do something in a child that is not waited for."""
    if os.fork() == 0:
        try:
            body()
        finally:
            os._exit(0)


@way
def is_a_child() -> None:
    subprocess.Popen(["sleep", argument("is_a_child")], **QUIET)


@way
def has_a_session_of_its_own() -> None:
    subprocess.Popen(
        ["sleep", argument("has_a_session_of_its_own")], start_new_session=True, **QUIET
    )


@way
def is_an_orphan() -> None:
    forked(lambda: left(lambda: become("is_an_orphan")))


@way
def is_a_daemon() -> None:
    def daemon() -> None:
        os.setsid()
        os.umask(0)
        left(lambda: become("is_a_daemon"))

    forked(daemon)


@way
def has_no_environment() -> None:
    def daemon() -> None:
        os.setsid()
        left(lambda: become("has_no_environment", {}))

    forked(daemon)


@way
def is_started_by_setsid() -> None:
    subprocess.run(["setsid", "-f", "sleep", argument("is_started_by_setsid")], **QUIET)


@way
def is_started_by_nohup() -> None:
    command = f"nohup sleep {argument('is_started_by_nohup')} &"
    subprocess.run(["/bin/sh", "-c", command], **QUIET)


@way
def is_in_the_background_of_a_shell() -> None:
    os.system(f"sleep {argument('is_in_the_background_of_a_shell')} </dev/null >/dev/null 2>&1 &")


@way
def comes_from_a_thread() -> None:
    thread = threading.Thread(target=lambda: left(lambda: become("comes_from_a_thread")))
    thread.start()
    thread.join()


@way
def comes_from_a_thread_that_is_gone() -> None:
    def body() -> None:
        thread = threading.Thread(
            target=lambda: left(lambda: become("comes_from_a_thread_that_is_gone"))
        )
        thread.start()
        thread.join()

    forked(body)


@way
def is_a_sibling() -> None:
    if libc.syscall(CLONE, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0) == 0:
        become("is_a_sibling")


@way
def is_a_sibling_of_an_orphan() -> None:
    def body() -> None:
        if libc.syscall(CLONE, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0) == 0:
            become("is_a_sibling_of_an_orphan")

    forked(lambda: forked(body))


@way
def is_nobodys_orphan() -> None:
    libc.prctl(SUBREAPER, 0, 0, 0, 0)
    forked(lambda: left(lambda: become("is_nobodys_orphan", {})))


@way
def is_an_orphan_of_its_own() -> None:
    def body() -> None:
        libc.prctl(SUBREAPER, 1, 0, 0, 0)
        left(lambda: left(lambda: become("is_an_orphan_of_its_own")))

    left(body)


@way
def stops_for_its_parent() -> None:
    def body() -> None:
        os.setsid()
        libc.ptrace(0, 0, 0, 0)
        become("stops_for_its_parent")

    left(body)


@way
def is_halted() -> None:
    process = subprocess.Popen(["sleep", argument("is_halted")], start_new_session=True, **QUIET)
    process.send_signal(signal.SIGSTOP)


@way
def heeds_no_signal() -> None:
    def body() -> None:
        os.setsid()
        for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_IGN)
        become("heeds_no_signal")

    left(body)


@way
def is_in_another_group() -> None:
    def body() -> None:
        os.setpgid(0, 0)
        become("is_in_another_group")

    left(body)


@way
def is_the_last_of_many() -> None:
    def body(count: int) -> None:
        if count == 0:
            become("is_the_last_of_many", {})
        left(lambda: body(count - 1))

    left(lambda: body(20))


@way
def has_a_new_user_namespace() -> None:
    def body() -> None:
        libc.unshare(0x10000000)
        left(lambda: become("has_a_new_user_namespace"))

    forked(body)


@way
def has_new_namespaces() -> None:
    def body() -> None:
        libc.unshare(0x20000000)
        libc.unshare(0x10000000 | 0x20000000)
        os.setsid()
        left(lambda: become("has_new_namespaces", {}))

    forked(body)


@way
def is_cloned_anew() -> None:
    if libc.syscall(435, (ctypes.c_uint64 * 11)(CLONE_PARENT, 0, 0, 0, SIGCHLD), 88) == 0:
        become("is_cloned_anew")


@way
def is_called_otherwise() -> None:
    def body() -> None:
        os.setsid()
        libc.prctl(PRCTL_NAME, b"kworker/0:1", 0, 0, 0)
        os.execvpe("sleep", ["[kworker/0:1]", argument("is_called_otherwise")], {})

    left(lambda: left(body))


@way
def is_a_program_of_its_memory() -> None:
    def body() -> None:
        os.setsid()
        fd = os.memfd_create("x", 0)
        with open("/bin/sleep", "rb") as program:
            os.write(fd, program.read())
        path = f"/proc/self/fd/{fd}"
        os.execve(path, [path, argument("is_a_program_of_its_memory")], {})

    left(lambda: left(body))


def static_program() -> bytes:
    """Return a program that needs no library and obeys none: setsid, two forks, then it waits.

    Raises:
        OSError: There is none for this processor.
    """
    if MACHINE == "x86_64":
        kind = 62
        setsid, exits = b"\xb8\x70\0\0\0\x0f\x05", b"\x31\xff\xb8\x3c\0\0\0\x0f\x05"
        fork = b"\xb8\x39\0\0\0\x0f\x05\x85\xc0\x75"  # the parent jumps this far to its end:
        waits = b"\xb8\x22\0\0\0\x0f\x05\xeb\xf7"  # pause, and again
        code = fork + b"\x1b" + setsid + fork + b"\x09" + waits + exits
    elif MACHINE == "aarch64":
        kind = 183

        def call(number: int) -> tuple[int, int]:
            return 0xD2800008 | number << 5, 0xD4000001  # mov x8, number; svc 0

        clear = [0xD2800000 | register for register in range(5)]  # mov x0 to x4, 0
        split = [clear[0] | SIGCHLD << 5, *clear[1:], *call(CLONE)]
        words = [*split, 0xB5000000 | 19 << 5, *call(157), *split, 0xB5000000 | 9 << 5]  # cbnz x0
        words += [*clear, *call(73), 0x17FFFFF9, clear[0], *call(93)]  # ppoll of nothing, again
        code = struct.pack(f"<{len(words)}I", *words)
    else:
        raise OSError(f"no program for {MACHINE}")
    start, heads = 0x400000, 64 + 56
    size = heads + len(code)
    head = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        *(2, kind, 1, start + heads, 64, 0, 0, 64, 56, 1, 64, 0, 0),
    )
    return head + struct.pack("<IIQQQQQQ", 1, 5, 0, start, start, size, size, 4096) + code


@way
def is_a_program_without_libraries() -> None:
    fd, path = tempfile.mkstemp()
    with open(fd, "wb") as file:
        file.write(static_program())
    os.chmod(path, 0o700)

    def body() -> None:
        let_go()
        os.execve(path, [path, argument("is_a_program_without_libraries")], {})

    forked(body)
    os.unlink(path)


@way
def is_spawned() -> None:
    nothing = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    command = ["sleep", argument("is_spawned")]
    os.posix_spawnp("sleep", command, {}, file_actions=nothing, setsid=True)


@way
def has_its_parent_wait_until_it_is_another() -> None:
    def body() -> None:
        os.setsid()
        if libc.syscall(CLONE, CLONE_VFORK | SIGCHLD, 0, 0, 0, 0) == 0:
            become("has_its_parent_wait_until_it_is_another", {})

    forked(body)


@way
def tells_nobody_of_its_end() -> None:
    def body() -> None:
        os.setsid()
        if libc.syscall(CLONE, CLONE_UNTRACED, 0, 0, 0, 0) == 0:  # no signal: wait() misses it
            become("tells_nobody_of_its_end", {})

    left(body)


@way
def moves_on_and_on() -> None:
    """A process that is another one every few milliseconds."""
    code = (
        "import os, sys, time\n"
        "while True:\n"
        "    if os.fork():\n"
        "        os._exit(0)\n"
        "    time.sleep(0.002)\n"
    )
    command = [sys.executable, "-S", "-E", "-c", code, argument("moves_on_and_on")]
    subprocess.Popen(command, start_new_session=True, env={}, **QUIET)


def leave() -> int:
    """Go all ways; return how many worked as far as can be told."""
    done = 0
    for function in WAYS.values():
        with contextlib.suppress(OSError):
            function()
            done += 1
    return done


if MARK != "0":
    leave()
