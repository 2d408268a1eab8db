"""The kernel application, kernel and shell: ipykernel's, with our differences.

Each override says what stock does and why we don't. Interrupts reach the user's code and
nothing else: SIGINT is ignored outside of it, so a late one can't lose a reply.
"""

# ipykernel's annotations are partial and differ between its versions 6 and 7.
# pyright: reportIncompatibleMethodOverride=false, reportPrivateImportUsage=false
# pyright: reportOptionalMemberAccess=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false, reportIncompatibleVariableOverride=false, reportIndexIssue=false

import asyncio
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from types import SimpleNamespace
from typing import Any, TypeVar

from ipykernel import ipkernel
from ipykernel.compiler import XCachingCompiler
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from ipykernel.kernelbase import StdinNotImplementedError
from IPython.core.application import BaseIPythonApplication
from traitlets import Any as AnyTrait
from traitlets import Bool, Dict, Type
from traitlets.config import Config
from zmq import PUB, SNDHWM, USE_FD, XPUB

from ..saving import Checkpoints
from ..steering import (
    Notes,
    Questions,
    SafePoints,
    Stopping,
    Touched,
    install_module,
    resident_memory,
)
from ..walls import Memory, Walls
from . import packing, streams
from .errors import cut_reply
from .helper import Helper
from .history import remembered
from .looking import Looking
from .shell import Shell

T = TypeVar("T")

#: what stock imports only while a kernel starts
USED_BY_EVERY_KERNEL = ("tornado.platform.asyncio", "IPython.extensions.storemagic")
WAITING = 200_000  # messages on IOPub that wait to be read; more than an execution may send
DIGESTS = 1000  # message signatures remembered against replay; stock keeps 65,536
NO_INPUT = (
    "input() can't be answered in this session: nobody is at its keyboard. "
    "Put the value into a variable and run the code again."
)
#: history is what the kernel remembers; a database would be a thread, and a file that all share
NO_FILE = {"enabled": False, "hist_file": ":memory:"}
PORTS = ("shell", "iopub", "stdin", "control", "hb")
#: whether this code runs for another client, in another thread than the main one
is_aside = ContextVar("is_aside", default=False)
BESIDE = "beside a cell"  # what runs when code of the user's does outside of one
#: what IPython says below each SystemExit, and when it forgets the oldest results
NO_USE_HERE = ("To exit: use", "Output cache limit")


def end_child(reply: dict[str, Any]) -> None:
    """End a process that the cell forked and that came to the cell's end, too.

    Stock goes on in it as a second kernel on the same sockets.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if reply.get("status") == "ok" else 1)


class Kernel(IPythonKernel):  # type: ignore[misc]
    """ipykernel's kernel; see the module's text."""

    shell_class = Type(Shell)
    debugger_class = Type(object)  # made when it is asked for
    debugpy_stream: Any
    standard_streams: tuple[Any, Any]

    def __init__(self, **kwargs: Any) -> None:
        # Stock looks at every loaded module here, for the debugger. In a fork that copies
        # 4 MB of pages (measured with numpy, pandas and pyplot preloaded).
        ipkernel.sys = SimpleNamespace(modules={})
        try:
            super().__init__(**kwargs)
        finally:
            ipkernel.sys = sys
        self.kept_debugpy_stream, self.debugpy_stream = self.debugpy_stream, None
        self.stopping = self.shell.stopping = Stopping(self.call_later)
        self.journal = streams.shared.journal
        self.notes = Notes(self)
        self.safe_points = SafePoints(self.notes, self.call_later)
        self.questions = Questions(self.notes)
        self.user_session = install_module(self.notes, self.safe_points)
        self.checkpoints = Checkpoints(self, self.parent.launch["cloudpickle"])
        self.helper = Helper(self, self.journal)
        self.looking = Looking(self)
        self.may_ask = False
        self.session.digest_history_size = DIGESTS
        self.session.check_pid = False  # what a forked child shows, our publisher takes care of
        self.standard_streams = (sys.stdout, sys.stderr)
        launch = self.parent.launch
        self.walls = Walls(launch["walls"])
        if not self.parent.is_copy:  # else it counts what its origin had, too
            self.shell.memory = Memory(launch["walls"]["limits"]["memory"])
        self.memory = self.shell.memory
        self.touched = Touched(launch["workspace"], launch["touched_file"])

    def pre_handler_hook(self) -> None:
        """Stock lets SIGINT raise in the whole handler, where it can lose the reply."""

    def post_handler_hook(self) -> None:
        """See pre_handler_hook."""

    async def do_execute(self, code: str, silent: bool, *args: Any, **kwargs: Any) -> Any:
        """Run a cell, with streams and signals as they should be, and report on it."""
        if threading.current_thread() is not threading.main_thread():
            return await self.execute_aside(code, silent, *args, **kwargs)
        request = self.get_parent("shell")
        parent = request["header"]
        self.helper.running = (parent["msg_id"], time.monotonic())
        about = request["content"].get("kernelry") or {}
        self.may_ask = bool(about.get("may_ask"))
        self.user_session.enter({**about, "execution_id": parent["msg_id"]})
        self.notes.begin(request)
        self.safe_points.begin(parent["msg_id"])
        memory_before = resident_memory()
        sys.stdout, sys.stderr = self.standard_streams
        self.journal.begin(parent["msg_id"])
        self.touched.begin()
        self.shell.last_error = None
        self.memory.keep_reserve()
        streams.shared.begin_cell()
        pid, reply = os.getpid(), {}
        try:
            self.stopping.begin(parent["msg_id"])
            try:
                reply = await super().do_execute(code, silent, *args, **kwargs)
            finally:
                self.stopping.end()
        except (KeyboardInterrupt, asyncio.CancelledError) as error:  # as the cell ended
            reply = self.interrupted(error)
        finally:
            self.stopping.end()
            self.memory.open_reserve()
            if os.getpid() != pid:
                end_child(reply)
            streams.shared.end_cell()
            sys.stdout, sys.stderr = self.standard_streams
            self.helper.running = None
            history = self.shell.history_manager
            history.outputs.clear()
            history.output_hist_reprs.clear()
        reply = cut_reply(reply)
        reply["kernelry"] = {
            **self.report(parent),
            **self.safe_points.end(),
            "memory": [memory_before, resident_memory()],
            "interrupted": self.stopping.was_felt,
        }
        self.journal.note_reply(parent["msg_id"], reply)
        if self.safe_points.is_awaited:
            self.io_loop.add_callback(self.safe_points.attend)
        return reply

    async def execute_aside(self, code: str, silent: bool, *args: Any, **kwargs: Any) -> Any:
        """Run a cell in another thread than the main one: in a subshell, or the control thread.

        Another Jupyter client asked for it. It is no execution of the session: nothing of ours
        steers it or reports on it, and no signal reaches it.
        """
        is_aside.set(True)
        self.memory.keep_reserve()
        streams.shared.begin_cell()
        pid, reply = os.getpid(), {}
        try:
            reply = await super().do_execute(code, silent, *args, **kwargs)
        finally:
            if os.getpid() != pid:
                end_child(reply)
            streams.shared.end_cell()
            if not streams.shared.in_user_code:
                self.memory.open_reserve()
        return cut_reply(reply)

    def call_later(self, seconds: float, function: Callable[[], None]) -> None:
        """Call a function after some seconds, in the control thread."""
        loop = self.control_thread.io_loop
        loop.add_callback(loop.call_later, seconds, function)

    def as_user_code(self, work: Callable[[], T]) -> T:
        """Do what runs code of the user's outside of a cell; an interrupt stops it."""
        self.memory.keep_reserve()
        try:
            self.stopping.begin(BESIDE)
            return work()
        finally:
            self.stopping.end()
            self.memory.open_reserve()

    async def do_history(
        self,
        hist_access_type: str,
        output: bool,
        raw: bool,
        *args: Any,
        **asked: Any,
    ) -> dict[str, Any]:
        """Answer from what this kernel has run; see history.py."""
        named = ("session", "start", "stop", "n", "pattern", "unique")
        asked = {**dict(zip(named, args, strict=False)), **asked}
        manager = self.shell.history_manager
        cells = manager.input_hist_raw if raw else manager.input_hist_parsed
        wanted = {name: asked[name] for name in named if name in asked}
        found = remembered(cells, hist_access_type, **wanted)
        # What came of them is not kept: with the output, each is said to have had none.
        entries = [(s, n, (code, None)) for s, n, code in found] if output else found
        return {"status": "ok", "history": entries}

    async def connect_request(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """Say by which ports the kernel is reached; stock's are those that it has bound itself."""
        self.record_ports({f"{name}_port": getattr(self.parent, f"{name}_port") for name in PORTS})
        await super().connect_request(stream, ident, parent)

    @property
    def kernel_info(self) -> Any:
        """Stock's, and the debugger that stock would have loaded by now."""
        info = super().kernel_info
        if "supported_features" in info and find_spec("debugpy"):  # ipykernel 6 has none
            info["supported_features"].append("debugger")
        return info

    async def do_debug_request(self, msg: Any) -> Any:
        """Load the debugger with the first request; stock loads it with each kernel."""
        if getattr(self, "debugger", None) is None:
            self.load_debugger()
        return await super().do_debug_request(msg)

    def load_debugger(self) -> None:
        """Do what stock does in its constructor and in `start`."""
        del sys.modules["ipykernel.debugger"]
        from ipykernel.debugger import Debugger

        files = (getattr(module, "__file__", None) for module in [*sys.modules.values()])
        self._kernel_modules = [file for file in files if file]
        self.debugpy_stream = self.kept_debugpy_stream
        known = {
            "log": self.log,
            "debugpy_stream": self.debugpy_stream,
            "event_callback": self._publish_debug_event,
            "shell_socket": self.debug_shell_socket,
            "session": self.session,
            "kernel_modules": self._kernel_modules,
            "just_my_code": self.debug_just_my_code,
            "filter_internal_frames": getattr(self, "filter_internal_frames", True),
        }
        # ipykernel 6 knows fewer of them.
        wanted = signature(Debugger).parameters
        self.debugger = Debugger(**{name: known[name] for name in wanted})
        self.debugpy_stream.on_recv(self.dispatch_debugpy, copy=False)
        loop = self.control_thread.io_loop.asyncio_loop
        asyncio.run_coroutine_threadsafe(self.poll_stopped_queue(), loop)

    def _cancel_on_sigint(self, future: Any) -> AbstractContextManager[None]:
        """Stop an awaiting cell on SIGINT; see stopping.py."""
        if threading.current_thread() is not threading.main_thread():  # ipykernel 6 asks there too
            return nullcontext()
        return self.stopping.awaiting(self.io_loop.asyncio_loop, future)

    def interrupted(self, error: BaseException) -> dict[str, Any]:
        """Return the reply of a cell that was interrupted as it ended."""
        return {
            "status": "error",
            "ename": "KeyboardInterrupt",
            "evalue": str(error),
            "traceback": [],
            "execution_count": self.shell.execution_count - 1,
            "user_expressions": {},
            "payload": [],
        }

    def report(self, parent: dict[str, Any]) -> dict[str, Any]:
        """Return what the server wants to know of an execution besides its outputs."""
        files, total = self.touched.end()
        report: dict[str, Any] = {"files": files, "files_total": total}
        for stream in self.standard_streams:
            stream.read_descriptor()
            stream.flush()
        budget = streams.shared.budgets.of(parent)
        if budget.overflowed:
            report["overflow"] = budget.summary()
        error = self.shell.last_error
        short = isinstance(error, MemoryError)
        if hint := self.memory.explain(error) if short else self.walls.explain(error):
            report["hint"] = hint
        return report

    def raw_input(self, prompt: str = "") -> str:
        """Ask through our server; in a session the refusal says what to do, stock's does not."""
        if self.may_ask and not is_aside.get():
            return self.questions.ask(prompt, hidden=False)
        if not self._allow_stdin and self.journal.kept:
            raise StdinNotImplementedError(NO_INPUT)
        return str(super().raw_input(prompt))

    def getpass(self, prompt: str = "", stream: Any = None, **kwargs: Any) -> str:
        """See raw_input."""
        if self.may_ask and not is_aside.get():
            return self.questions.ask(prompt, hidden=True)
        if not self._allow_stdin and self.journal.kept:
            raise StdinNotImplementedError(NO_INPUT)
        return str(super().getpass(prompt, stream, **kwargs))


class KernelApp(IPKernelApp):  # type: ignore[misc]
    """The application: no parent poller, no heartbeat thread, no port for forks."""

    kernel_class = Type(Kernel)
    launch = Dict()
    session: Any
    prebuilt = AnyTrait()  # the shell, made before there is a kernel
    is_copy = Bool(False)  # whether its shell was another kernel's
    listeners = AnyTrait({})  # port -> descriptor of a socket that listens there already

    @classmethod
    def prepare(cls) -> "KernelApp":
        """Return the application, configured and with its shell; made once."""
        made = cls.initialized()
        app: KernelApp = cls.instance()
        if made:
            return app
        app.update_config(Config(HistoryManager=NO_FILE))
        BaseIPythonApplication.initialize(app, [])
        app.init_pdb()
        app.prebuilt = Shell.instance(
            parent=app,
            profile_dir=app.profile_dir,
            user_ns={},
            kernel=None,
            compiler_class=XCachingCompiler,
        )
        # Each request for the kernel's info would draw one from the code's own random numbers.
        app.prebuilt.enable_tip = False
        for name in USED_BY_EVERY_KERNEL:
            import_module(name)
        for message in NO_USE_HERE:
            warnings.filterwarnings("ignore", message, UserWarning)
        # The first cell is slow: it fills caches that every kernel then has.
        app.prebuilt.run_cell("1 + 1", silent=True, store_history=False)
        app.prebuilt._sys_modules_keys = set(sys.modules)
        return app

    def resume(self, launch: dict[str, Any]) -> None:
        """Do the rest of stock's `initialize`, which needs the session."""
        self.launch = launch
        self.connection_file = launch["connection_file"]
        self.parent_handle = 1  # truthy: no banner; 1: nobody is polled
        self.init_blackhole()
        self.init_connection_file()
        self.session.pack = packing.escaping(self.session.pack)
        self.init_sockets()
        self.init_heartbeat()
        self.init_io()
        self.init_signal()
        self.init_kernel()
        self.prebuilt.parent = self.prebuilt.kernel = self.kernel
        self.init_path()
        self.init_shell()
        self.init_gui_pylab()
        if not self.is_copy:
            self.init_extensions()
        self.init_code()
        sys.stdout.flush()
        sys.stderr.flush()

    def renew(self) -> None:
        """Be without sockets, threads and kernel, in a copy of a process that had these."""
        self.is_copy = True
        self.context = self.iopub_thread = self.iopub_socket = None
        self.control_thread = self.shell_channel_thread = None
        self.session = type(self.session)(parent=self)
        self.shell.configurables.remove(self)
        type(self.kernel).clear_instance()
        logging.getLogger("tornado").handlers.clear()  # it gets another one
        self.reset_io()

    def init_heartbeat(self) -> None:
        """Start the heartbeat for a Jupyter that asks for it; we have the pidfd."""
        if self.launch["heartbeat"]:
            super().init_heartbeat()

    def init_connection_file(self) -> None:
        """Take what the launch says: a copy's file lies outside of its origin's walls."""
        self.load_connection_info(self.launch["connection"])

    def init_code(self) -> None:
        """Run nothing: a kernel of ours has no startup files and no command line.

        Stock also notes all module names here, which in a fork copies 2 MB of pages;
        `prepare` has done it.
        """
        if not self.is_copy:  # then these are its variables
            self.shell.user_ns_hidden.update(self.shell.user_ns)

    def _try_bind_socket(self, socket: Any, port: int) -> Any:
        """Bind to a port, by the socket that was made before the walls closed."""
        if socket.socket_type in (PUB, XPUB):
            # The server reads no faster than it can; stock would drop what it has not read.
            socket.setsockopt(SNDHWM, WAITING)
        if port in self.listeners:
            socket.setsockopt(USE_FD, self.listeners[port])
        return super()._try_bind_socket(socket, port)

    def init_iopub(self, context: Any) -> None:
        """Bind IOPub as stock does, with our publisher thread."""
        from ipykernel import kernelapp

        kernelapp.IOPubThread = streams.Publisher
        super().init_iopub(context)

    def init_io(self) -> None:
        """Make our streams sys.stdout and sys.stderr."""
        self.outstream_class = f"{streams.__name__}.stream_of"
        super().init_io()

    def init_path(self) -> None:
        """Put the workspace and its scripts folder on the path, as a script would have it."""
        if self.is_copy:  # as its code has left it
            return
        super().init_path()
        scripts = os.path.join(self.launch["workspace"], "scripts")
        if os.path.isdir(scripts) and scripts not in sys.path:
            sys.path.append(scripts)
        # As beside a notebook, but last: a file there shadows no library, and stops no kernel.
        sys.path[:] = [path for path in sys.path if path]
        sys.path.append("")
