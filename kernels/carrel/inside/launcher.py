"""Become one Jupyter kernel, as carrel wants it.

Reads a launch file (JSON, written by carrel.engines.spawn), becomes an ipykernel over
ipc channels and says so on the ready descriptor once its sockets are bound. It differs
from stock ipykernel in what it leaves out (history, debugger, heartbeat, the TCP port
for forks, inherited stdio) and in what it bounds (output, see budget.py). It imports
carrel's code through ``carrel_inside`` only, and ipykernel.
"""

import ctypes
import faulthandler
import json
import logging
import logging.handlers
import os
import signal
import sys
import traceback
from types import ModuleType
from typing import Any

from . import streams
from .budget import Budgets, Limits

LOG_BYTES = 1 << 20  # size of a kernel's own log, which is turned over once
PR_SET_PDEATHSIG = 1


def main(launch_file: str) -> None:
    """Run one kernel until it is told to stop."""
    with open(launch_file, encoding="utf-8") as file:
        launch = json.load(file)
    die_with(launch["parent_pid"])
    sys.argv = [""]
    os.chdir(launch["cwd"])
    enable_stack_dumps(launch["stack_file"])
    streams.shared.budgets = Budgets(Limits(launch["output"]))
    if environment := launch.get("environment"):
        from .helper import adopt_environment

        adopt_environment(environment["prefix"], environment["site"])
    try:
        app = make_app(launch)
    except BaseException:
        # stderr may be a stream to nobody by now; the server quotes this file.
        with open(launch["log_file"], "a", encoding="utf-8") as log:
            traceback.print_exc(file=log)
        raise
    report_ready(launch["ready_fd"])
    app.start()


def die_with(parent_pid: int) -> None:
    """Ask Linux to kill this kernel when the server that started it is gone."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # it went before we asked
        os._exit(0)


def enable_stack_dumps(path: str) -> None:
    """Let SIGUSR1 dump all stacks to `path`, even while native code holds the lock."""
    file = open(path, "a+", encoding="utf-8")  # noqa: SIM115  # lives as long as we do
    faulthandler.enable(file=file)
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR1, file=file, all_threads=True)


def make_app(launch: dict[str, Any]) -> Any:
    """Return the initialised kernel application."""
    without = ModuleType("ipykernel.debugger")
    without._is_debugpy_available = False  # type: ignore[attr-defined]
    sys.modules["ipykernel.debugger"] = without  # debugpy costs 250 ms and 30 MB
    from .kernel import KernelApp

    app = KernelApp.instance()
    app.launch = launch
    app.initialize(["-f", launch["connection_file"], "--HistoryManager.enabled=False"])
    del sys.modules["ipykernel.debugger"]
    log_to(app, launch["log_file"])
    return app


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


def report_ready(fd: int) -> None:
    """Tell whoever started us that the sockets are bound."""
    os.write(fd, b"1")
    os.close(fd)
