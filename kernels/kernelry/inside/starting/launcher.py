"""Become one Jupyter kernel, as kernelry wants it: from a fresh process or from a fork.

`prepare` does what does not depend on the session (imports, configuration, IPython's
shell), `resume` the rest. A spawned kernel does both; the fork server prepares once and
its children resume. It differs from stock ipykernel in what it leaves out (history,
debugger until it is asked for, heartbeat, the TCP port for forks, inherited stdio) and in
what it bounds (output, see budget.py).
"""

import atexit
import contextlib
import faulthandler
import json
import logging
import logging.handlers
import os
import signal
import sys
import threading
import traceback
from types import ModuleType
from typing import Any, NoReturn, TextIO

from ..calls import open_strictly
from ..processes import OWN_FILE, descriptors, lower_rank
from ..walls import guard
from .entering import BRANCHES, end_without, enter, keep_lifeline
from .own import Own, forget_secrets
from .sockets import make_room, own_room

LOG_BYTES = 1 << 20  # size of a kernel's own log, which is turned over once
DEBUGGER = "ipykernel.debugger"
INLINE_BACKEND = "module://matplotlib_inline.backend_inline"


def main(launch_file: str, listeners: str = "") -> None:
    """Run one spawned kernel until it is told to stop.

    Args:
        launch_file: What is launched.
        listeners: Descriptors of its sockets, by port, as JSON, if it is in its walls already
            (entering.py); empty: they are still to be entered.
    """
    with open(launch_file, encoding="utf-8") as file:
        launch = json.load(file)
    adopt(launch, make=False)  # before anything of it could be imported in another version
    known = {int(port): fd for port, fd in json.loads(listeners).items()} if listeners else None
    run(launch, launch["ready_fd"], known)


def run_forked(
    launch: dict[str, Any], ready_fd: int, added: dict[str, str], own: Own, door: int
) -> None:
    """Run a kernel in a process that was just forked from the fork server.

    Args:
        launch: What kernel it shall be.
        ready_fd: A pipe.
        added: Environment variables that the preparation has set.
        own: What the fork server has found out about itself.
        door: Descriptor of a socket to who keeps its door.
    """
    redirect_stdio(launch)
    os.environ.clear()
    os.environ.update(launch["env"] | added)
    forget_secrets()
    run(launch, ready_fd, own=own, door=door)


def run(
    launch: dict[str, Any],
    ready_fd: int,
    listeners: dict[int, int] | None = None,
    own: Own | None = None,
    door: int = -1,
) -> None:
    """Become the kernel of `launch`, say so on `ready_fd`, and run until told to stop.

    Args:
        launch: What kernel it shall be.
        ready_fd: A pipe.
        listeners: Descriptors of its sockets, by port, if this process is in its walls; None:
            they are to be entered.
        own: What a fork server has found out about itself; None: this is no fork.
        door: Descriptor of a socket to who keeps its door; -1: it has none, or has it already.
    """
    sys.argv = [""]
    before = descriptors() - {ready_fd, door, *(listeners or {}).values()}
    try:
        if listeners is None:
            walls, listeners = enter(launch, door)
        else:
            walls = guard.Walls(launch["walls"])
        if own is not None:
            own.become(launch["directory"])
        make_room()
        enable_stack_dumps(launch)
        prepare(with_shell=True)
        app = resume(launch, listeners)
        sys.orig_argv[:] = [sys.executable]
        walls.check()
    except BaseException:
        give_up(launch)
    say_ready(ready_fd)
    live(app, launch, before)


def live(app: Any, launch: dict[str, Any], before: frozenset[int]) -> None:
    """Run a kernel until it is told to stop, and each copy of it, which becomes another one.

    Args:
        app: Its application.
        launch: What kernel it is.
        before: The descriptors that were there before it opened any for itself.
    """
    if not launch["branches"]:
        app.start()
        return
    from tornado.ioloop import IOLoop

    from ..branching import Branched, Branching, Opened

    def go_on(copy: Branched, opened: Opened) -> NoReturn:
        """Nothing leaves this: below are frames that are not to be gone on with."""
        now, theirs = take_over(app, copy, opened, launch)
        try:
            live(app, now, theirs)
            end_in_order()
        except BaseException:
            give_up(now)

    while True:
        IOLoop.current()  # the loop of cells, which has descriptors too
        opened = Opened(descriptors() - before, connection_prefix(launch))
        Branching(app, launch, app.listeners[BRANCHES], opened, go_on)
        try:
            app.start()
            return
        except Branched as branched:
            copy = branched
        # Outside of the handler: a cell's exception must not have ours as its context.
        launch, before = take_over(app, copy, opened, launch)


def take_over(
    app: Any, copy: Any, opened: Any, old: dict[str, Any]
) -> tuple[dict[str, Any], frozenset[int]]:
    """Become the kernel that a copy of one shall be, and say so.

    Args:
        app: The origin's application.
        copy: What was handed in.
        opened: What the origin has opened for itself.
        old: What the origin was launched with.

    Returns:
        What this was launched with, and the descriptors of its code.
    """
    from ..branching import become, leave
    from ..saving import set_generators

    launch, kept = copy.launch(), copy.generators
    try:
        before = leave(app, opened, copy.given)
        if copy.is_frozen:
            copy = freeze(app, copy, old, launch, before)
            old, launch = launch, copy.launch()
        if launch["directory"] != old["directory"]:
            enter_another(old["walls"], launch["walls"])
        become(app, old, launch)
        make_room()
        redirect_stdio(launch)
        keep_lifeline(copy.lifeline_fd)
        forget_secrets()
        enable_stack_dumps(launch)
        resume(launch, copy.listeners)
        guard.Walls(launch["walls"]).check()
        if not copy.is_branch:
            set_generators(kept)
    except BaseException:
        give_up(launch)
    say_ready(copy.ready_fd)
    return launch, before


def end_in_order() -> NoReturn:
    """End this process as an interpreter does, but for code that is half-run: that stays so."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(0)


def enter_another(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Leave the walls of a session for those of another one, which are within them."""
    lower_rank()
    if new["level"] != "process":
        new["write"] += own_room()
        guard.narrow(old, new)


def freeze(
    app: Any, copy: Any, old: dict[str, Any], launch: dict[str, Any], theirs: frozenset[int]
) -> Any:
    """Wait as a copy of a kernel that has left it; return in each copy that is made of this.

    Args:
        app: The kernel's application.
        copy: What was handed in.
        old: What the kernel was launched with.
        launch: What this is, by the same words.
        theirs: Descriptors of the kernel's code.

    Returns:
        What was handed in for the copy, which is to become a kernel.
    """
    from ..branching import carry_over, wait_frozen

    carry_over(app.profile_dir, old, launch)
    redirect_stdio({**launch, "log_file": os.devnull})
    end_without(copy.lifeline_fd)
    say_ready(copy.ready_fd)
    files = {fd: position for fd, position in copy.positions.items() if fd in theirs}
    wanted = wait_frozen(copy.listeners[BRANCHES], launch, files)
    os.close(copy.lifeline_fd)
    return wanted


def connection_prefix(launch: dict[str, Any]) -> str:
    """Return with what the paths of a kernel's sockets begin."""
    path: str = launch["connection_file"]
    return path.removesuffix(".json")


def say_ready(ready_fd: int) -> None:
    """Tell whoever started this kernel that it can be reached."""
    os.write(ready_fd, b"1")
    os.close(ready_fd)


def give_up(launch: dict[str, Any]) -> NoReturn:
    """End a kernel that could not start, after its last words.

    stderr may be a stream to nobody by now; the server quotes this file.
    """
    with open_own(launch, "log_file", os.O_WRONLY | os.O_APPEND) as log:
        traceback.print_exc(file=log)
    os._exit(1)  # half-made sockets and threads could keep an orderly end waiting


def prepare(*, with_shell: bool) -> str:
    """Do what all kernels have in common; once, and again without effect.

    Args:
        with_shell: Whether to build IPython's shell too.

    Returns:
        How far this went: "shell" or "imports".
    """
    if DEBUGGER not in sys.modules:
        # debugpy costs 250 ms and 30 MB; Kernel.do_debug_request gets it when it is wanted.
        without = ModuleType(DEBUGGER)
        without.__dict__.update(_is_debugpy_available=False, Debugger=None)
        sys.modules[DEBUGGER] = without
    os.environ["MPLBACKEND"] = INLINE_BACKEND
    from ..kernel import KernelApp

    if with_shell:
        KernelApp.prepare()
    return "shell" if with_shell else "imports"


def resume(launch: dict[str, Any], listeners: dict[int, int] | None = None) -> Any:
    """Return the kernel application, its sockets bound and its kernel made.

    Args:
        launch: What kernel it shall be.
        listeners: Descriptors of sockets that listen already, by port.
    """
    from ..kernel import Budgets, Journal, KernelApp, Limits, streams

    streams.shared.budgets = Budgets(Limits(launch["output"]))
    streams.shared.journal = Journal(launch["journal_file"])
    adopt(launch, make=True)
    app = KernelApp.prepare()
    app.listeners = listeners or {}
    app.resume(launch)
    log_to(app, launch["log_file"])
    return app


def adopt(launch: dict[str, Any], *, make: bool) -> None:
    """Put the session's virtual environment first, and what its variables name before that.

    Args:
        launch: What is launched.
        make: Whether to make it if there is none; only within the walls: links may be there.
    """
    from .. import environment

    # A fork server was started without what sessions can write of it; its kernels are in walls.
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [path for path in given if path and path not in sys.path]
    if wanted := launch["environment"]:
        with contextlib.suppress(OSError):  # a full disk: the kernel does without it
            if make:
                environment.make(wanted["prefix"], wanted["uv"])
            environment.adopt(wanted["prefix"])


def enable_stack_dumps(launch: dict[str, Any]) -> None:
    """Let SIGUSR1 dump all stacks to a file, even while native code holds the lock."""
    file = open_own(launch, "stack_file", os.O_RDWR | os.O_APPEND | os.O_TRUNC)  # lives with us
    faulthandler.enable(file=file)
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR1, file=file, all_threads=True)


def redirect_stdio(launch: dict[str, Any]) -> None:
    """Give a forked kernel the stdio that a spawned one is started with."""
    with open_own(launch, "log_file", os.O_WRONLY | os.O_TRUNC) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)


def open_own(launch: dict[str, Any], name: str, flags: int) -> TextIO:
    """Open a file of the session's directory from outside of its walls, to write.

    What the session's own processes put there instead is not followed and not waited for.

    Args:
        launch: What is launched.
        name: Under which name of it the file's path is.
        flags: As for `os.open`.
    """
    flags |= os.O_CREAT | os.O_CLOEXEC | OWN_FILE
    fd = open_strictly(launch[name], launch["walls"]["unfollowed"], flags, 0o600)
    return open(fd, "r+" if flags & os.O_RDWR else "w", encoding="utf-8", closefd=True)


def log_to(app: Any, path: str) -> None:
    """Send ipykernel's own log to a file of bounded size, and nothing to our stdio."""
    handler = logging.handlers.RotatingFileHandler(
        path, maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8"
    )
    app.log.handlers[:] = [handler]
    app.log.setLevel(logging.WARNING)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(null, stream._original_stdstream_copy)  # type: ignore[union-attr]
    os.close(null)
