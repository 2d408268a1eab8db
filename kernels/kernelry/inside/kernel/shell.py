"""IPython's shell and how it shows values, with our differences."""

# ipykernel's annotations are partial and differ between its versions 6 and 7.
# pyright: reportIncompatibleMethodOverride=false, reportAttributeAccessIssue=false
# pyright: reportIncompatibleVariableOverride=false, reportArgumentType=false
# pyright: reportOptionalMemberAccess=false
# pyright: reportOperatorIssue=false

import os
import shlex
import signal
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from types import TracebackType
from typing import Any

from ipykernel.zmqshell import ZMQInteractiveShell
from IPython.core.formatters import DisplayFormatter
from IPython.utils.text import LSString, SList
from traitlets import Type

from ..describing import type_name
from ..steering import Stopping
from ..walls import Memory
from . import streams
from .errors import cut_error, text_of

NO_EXIT = "exit() ends no session: its variables are still there. restart_kernel empties it."
#: what could not be shown of the value that is being shown; None: none is
format_failures: ContextVar[list[str] | None] = ContextVar("format_failures", default=None)
CONTEXTS = 100  # exceptions behind an exception that are looked at
OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


class Formatter(DisplayFormatter):  # type: ignore[misc]  # IPython's types are partial
    """How values are shown; one that can't be shown is no failure of the cell that made it.

    Stock prints the traceback of a ``__repr__`` that raises as if it were the cell's own, and
    answers the cell with an error that has neither name nor text. A kernel of our provisioner's
    does too.
    """

    def format(self, obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the forms of a value, with a line about those that could not be made."""
        if not streams.shared.journal.kept:
            return super().format(obj, *args, **kwargs)
        failures: list[str] = []
        before = format_failures.set(failures)
        try:
            data, metadata = super().format(obj, *args, **kwargs)
        finally:
            format_failures.reset(before)
        if failures:
            shown = data.get("text/plain") or f"<{type_name(type(obj))} object>"
            data["text/plain"] = "\n".join([shown, *failures])
        return data, metadata


class Shell(ZMQInteractiveShell):  # type: ignore[misc]  # ipykernel has no types
    """IPython's shell, which forgets what it printed and shows scripts/ on the path."""

    displayhook_class = Type(streams.DisplayHook)
    display_pub_class = Type(streams.DisplayPublisher)
    #: what the cell that ran last raised
    last_error: BaseException | None = None
    #: what a cell was handling that was left half-run
    half_handled: BaseException | None = None
    memory: Memory
    stopping: Stopping

    def init_display_formatter(self) -> None:
        """Show values our way."""
        self.display_formatter = Formatter(parent=self)
        self.configurables.append(self.display_formatter)

    def init_display_pub(self) -> None:
        """Keep in mind what shows results; `%%capture` puts something else there."""
        super().init_display_pub()
        self.own_display_pub: Any = self.display_pub

    def init_magics(self) -> None:
        """Have ``%pip`` import nothing of the working folder, whatever its files are called."""
        super().init_magics()
        self.register_magic_function(self.run_pip, "line", "pip")

    def run_pip(self, line: str) -> None:
        """Run pip for this session: ``%pip install NAME``."""
        self.system(f"{shlex.quote(sys.executable)} -P -m pip {line}")
        print("Note: what was imported before stays as it is until restart_kernel.")  # noqa: T201

    def showtraceback(self, exc_tuple: Any = None, *args: Any, **kwargs: Any) -> None:
        """Note what IPython tells of a value that it can't show; print anything else."""
        failures = format_failures.get()
        if failures is None:
            self.memory.open_reserve()  # the user's code is over
            kind, self.last_error, trace = exc_tuple or sys.exc_info()
            if self.last_error is not None:
                trace = without_ours(trace)
                self.last_error.__traceback__ = trace
                forget_context(self.last_error, self.half_handled)
                exc_tuple = (kind, self.last_error, trace)
            super().showtraceback(exc_tuple, *args, **kwargs)
            return
        error = exc_tuple[1] if exc_tuple else sys.exc_info()[1]
        kind = type(error).__name__
        failures.append(f"[showing it raised {kind}: {text_of(error)}]")

    def _showtraceback(self, etype: Any, evalue: Any, stb: Any) -> None:
        """Publish what a cell raised, within its budget; stock sends all there is of it."""
        sys.stdout.flush()
        sys.stderr.flush()
        if getattr(self.displayhook, "msg", None) is not None:
            self._last_traceback_during_displayhook = True  # as stock
        content = {"ename": etype.__name__, "evalue": text_of(evalue, None), "traceback": stb}
        streams.publish_error(self.displayhook, cut_error(content))
        self._last_traceback = stb

    def set_aside(self) -> None:
        """Have the cell that runs be over, in a copy in which it is never gone on with."""
        self.execution_count += 1
        self.display_pub = self.own_display_pub
        for trap in (self.builtin_trap, self.display_trap):  # they count who is within them
            while trap._nested_level:
                trap.__exit__(None, None, None)
        self.half_handled = sys.exc_info()[1]
        self.memory.open_reserve()
        streams.shared.forget_cells()

    async def run_code(self, code_obj: Any, result: Any = None, *, async_: bool = False) -> bool:
        """Run a statement of a cell, unless the cell was asked to stop before it."""
        if self.stopping.is_asked:
            try:
                self.stopping.stop_here()
            except KeyboardInterrupt as error:
                if result is not None:
                    result.error_in_exec = error
                self.showtraceback(running_compiled_code=True)
            return True
        return bool(await super().run_code(code_obj, result, async_=async_))

    def system_piped(self, cmd: str) -> None:
        """Run a ``!`` line on our own descriptors; an interrupt stops the cell with it.

        Stock makes a terminal for it. In walls there is none: they could not tell it from those
        that the user types into. And it goes on with the next line when it was interrupted.
        """
        command = self.expanded(cmd)
        sys.stdout.flush()
        sys.stderr.flush()
        code = subprocess.call(shell_of(command))
        self.user_ns["_exit_code"] = 128 - code if code > 128 else code
        self.check_stopped(code)
        if self.system_raise_on_error and code:
            raise subprocess.CalledProcessError(code, command)

    def getoutput(self, cmd: str, split: bool = True, depth: int = 0) -> Any:
        """Return what a program prints (``x = !program``); an interrupt stops the cell with it."""
        command = self.expanded(cmd, depth + 1)
        done = subprocess.run(
            shell_of(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        self.check_stopped(done.returncode)
        if self.system_raise_on_error:
            self.user_ns["_exit_code"] = done.returncode
            if done.returncode:
                raise subprocess.CalledProcessError(done.returncode, command)
        text = done.stdout.decode("utf-8", "replace").replace("\r\n", "\n")
        return SList(text.splitlines()) if split else LSString(text)

    def expanded(self, cmd: str, depth: int = 1) -> str:
        """Return a command with the values of its variables."""
        if cmd.rstrip().endswith("&"):
            raise OSError("Background processes not supported.")
        return str(self.var_expand(cmd, depth=depth + 1))

    def check_stopped(self, code: int) -> None:
        """Stop the cell if its program was ended by what was to stop the cell."""
        if code in (-signal.SIGINT, 128 + signal.SIGINT) or self.stopping.is_asked:
            raise KeyboardInterrupt

    system = system_piped

    def _tee(self, channel: str) -> AbstractContextManager[None]:
        """Stock keeps every character ever printed in memory, for the history database."""
        return nullcontext()

    def ask_exit(self) -> None:
        """Raise what exit() raises in a script; stock ends the kernel a moment later."""
        raise SystemExit(NO_EXIT)


def shell_of(command: str) -> list[str]:
    """Return how a command line is run."""
    return [os.environ.get("SHELL") or "/bin/sh", "-c", command]


def forget_context(error: BaseException | None, handled: BaseException | None) -> None:
    """Let an exception not have come while another one was handled, which is no news to anybody."""
    for _ in range(CONTEXTS):
        if error is None or handled is None:
            return
        if error.__context__ is handled:
            error.__context__ = None
        error = error.__context__


def without_ours(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback without the frames of our own code, which are no news to anybody."""
    kept: list[TracebackType] = []
    while trace is not None:
        if not trace.tb_frame.f_code.co_filename.startswith(OURS):
            kept.append(trace)
        trace = trace.tb_next
    found: TracebackType | None = None
    for part in reversed(kept):
        found = TracebackType(found, part.tb_frame, part.tb_lasti, part.tb_lineno)
    return found
