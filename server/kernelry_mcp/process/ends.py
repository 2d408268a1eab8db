"""What ends a server besides the end of its input: signals, and a host that is gone.

The first signal ends it in order; a second one kills everything that is ours at once. A
thread hears of them, not the event loop, which may be what is blocked; nor a handler: one
only runs when the main thread comes back from what it does, and Linux gives a second signal
to another thread than the first.
"""

import asyncio
import logging
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

log = logging.getLogger(__name__)

END_SIGNALS = tuple(
    signal.Signals[name] for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)
)
SWITCH_NEVER = 3600.0  # seconds between switches of threads
HALT_ROUNDS = 20  # looks for what was started before its parent was halted


def exit_on_signals() -> None:
    """Let signals end the process at once, and well: nothing of a server is there yet."""
    for number in END_SIGNALS:
        signal.signal(number, lambda *_: os._exit(0))


@contextmanager
def ending_on_signals(end: Callable[[], object]) -> Iterator[None]:
    """Have the running loop call `end` at the first signal; the second kills.

    What was done at signals before is done again afterwards.
    """
    loop = asyncio.get_running_loop()
    heard, wakeup = socket.socketpair()
    wakeup.setblocking(False)

    def hear() -> None:
        count = 0
        with heard:
            while numbers := heard.recv(16):
                count += len(numbers)
                if count > 1:
                    kill_everything()
                with suppress(RuntimeError):  # closed: it has ended
                    loop.call_soon_threadsafe(end)

    threading.Thread(target=hear, name="signals", daemon=True).start()
    before_wakeup = signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
    before = {number: signal.signal(number, lambda *_: None) for number in END_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before_wakeup)
        wakeup.close()  # the thread reads the end


def kill_everything() -> NoReturn:
    """Kill all that descends from this process, and end it; takes no care of anything.

    All are halted first: what one of them starts between being listed and being killed
    would be nobody's child then, and live on.
    """
    try:
        import psutil  # the start does without

        halted: set[psutil.Process] = set()
        for _ in range(HALT_ROUNDS):
            found = set(psutil.Process().children(recursive=True)) - halted
            for child in found:
                with suppress(psutil.Error):
                    child.suspend()
            halted |= found
            if not found:
                break
        # Without a pause in which the event loop could start a new kernel for one that has
        # died: os.kill keeps the interpreter lock.
        sys.setswitchinterval(SWITCH_NEVER)
        for child in halted:
            with suppress(OSError):
                os.kill(child.pid, signal.SIGKILL)
    finally:  # whatever happens
        os._exit(1)


@contextmanager
def watching_parent(end: Callable[[], object]) -> Iterator[None]:
    """Call `end` when the process that started us is gone.

    Its end need not close our stdin: a child of its own may have inherited the other end.
    Where it can't be watched (it is pid 1 or in another pid namespace; the system has no
    pidfd) nothing happens.
    """
    parent = os.getppid()
    try:
        pidfd = os.pidfd_open(parent) if parent > 1 else -1
    except (AttributeError, OSError):
        pidfd = -1
    if pidfd < 0:
        yield
        return
    loop = asyncio.get_running_loop()

    def on_gone() -> None:
        loop.remove_reader(pidfd)
        log.warning("process %d, which started this server, is gone", parent)
        end()

    loop.add_reader(pidfd, on_gone)
    if os.getppid() != parent:  # gone before we had it, and its number may be another's
        loop.call_soon(end)
    try:
        yield
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


@contextmanager
def watching_reader(fd: int, end: Callable[[], object]) -> Iterator[None]:
    """Call `end` when nobody can read any more what we write into `fd`.

    Asked for no events, epoll tells errors and hang-ups only; it is itself a descriptor
    that a loop can wait for. Files, and systems without it, are not watched.
    """
    if not hasattr(select, "epoll"):
        yield
        return
    loop = asyncio.get_running_loop()
    with select.epoll() as epoll:

        def on_closed() -> None:
            loop.remove_reader(epoll.fileno())
            log.warning("nobody reads stdout any more")
            end()

        try:
            epoll.register(fd, 0)
        except PermissionError:  # a file or a device: always there
            yield
            return
        loop.add_reader(epoll.fileno(), on_closed)
        try:
            yield
        finally:
            loop.remove_reader(epoll.fileno())
