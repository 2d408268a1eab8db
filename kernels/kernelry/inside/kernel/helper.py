"""Answers about the kernel while a cell runs, on the control channel.

One message type, ``kernelry_request``, with an ``op`` in its content; the reply is
``kernelry_reply`` with ``status`` "ok" or "error". It runs in the control thread, so it
needs the interpreter lock but never waits for the user's cell. Nothing here calls code
of the user's objects: a repr is made only of exact built-in types, bounded in size.
"""

import asyncio
import contextlib
import importlib
import importlib.metadata
import inspect
import os
import sys
import time
from collections.abc import Awaitable, Callable
from importlib.machinery import all_suffixes
from types import ModuleType
from typing import Any

from .. import environment
from ..describing import describe


class Helper:
    """The handler of ``kernelry_request``; one per kernel."""

    def __init__(self, kernel: Any, journal: Any) -> None:
        self.kernel = kernel
        self.journal = journal
        self.running: tuple[str, float] | None = None  # msg_id, monotonic start
        self._ops: dict[str, Callable[..., Any]] = {
            "status": self.status,
            "replay": self.replay,
            "variables": self.variables,
            "adopt_environment": self.adopt_environment,
            "loaded": self.loaded,
            "module": self.module,
            "ask": self.ask,
            "stop": kernel.stopping.ask,
            "answer": self.answer,
            "change_context": self.change_context,
            "set_variables": self.set_variables,
            "reap": self.reap,
            "saved": kernel.checkpoints.saved,
            "abandon": kernel.checkpoints.abandon,
        }
        self._late: set[asyncio.Task[None]] = set()
        kernel.control_handlers["kernelry_request"] = self.handle

    async def handle(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """Answer one request."""
        content = parent["content"]
        try:
            answer = self._ops[content["op"]](**content.get("args", {}))
            if inspect.isawaitable(answer):  # the next request is not to wait for this one
                task = asyncio.ensure_future(self._answer_late(answer, stream, ident, parent))
                self._late.add(task)
                task.add_done_callback(self._late.discard)
                return
            reply = {"status": "ok", "answer": answer}
        except Exception as error:  # whatever it is, the asker must hear of it
            reply = {"status": "error", "error": f"{type(error).__name__}: {error}"}
        self.kernel.session.send(stream, "kernelry_reply", reply, parent, ident)

    async def _answer_late(
        self, answer: Awaitable[Any], stream: Any, ident: Any, parent: dict[str, Any]
    ) -> None:
        reply = {"status": "ok", "answer": await answer}
        self.kernel.session.send(stream, "kernelry_reply", reply, parent, ident)

    def status(self) -> dict[str, Any]:
        """Say what the kernel is doing."""
        running = self.running
        return {
            "pid": os.getpid(),
            "busy": running is not None,
            "msg_id": running[0] if running else "",
            "running_for": time.monotonic() - running[1] if running else 0.0,
            "execution_count": self.kernel.execution_count,
            "newest": self.journal.newest,
            "held": self.kernel.safe_points.is_held,
            "pending": self.kernel.safe_points.pending,
        }

    def ask(self, msg_id: str, action: str, by: str, at: float) -> dict[str, Any]:
        """Pause, resume or stop the execution `msg_id` at a safe point; see safepoints.py."""
        answer: dict[str, Any] = self.kernel.safe_points.ask(msg_id, action, by, at)
        return answer

    def answer(self, question: str, text: str) -> dict[str, Any]:
        """Answer what the user's code asked; see questions.py."""
        return {"done": self.kernel.questions.answer(question, text)}

    def change_context(self, values: dict[str, Any], removed: list[str]) -> dict[str, Any]:
        """Change the session's context."""
        self.kernel.user_session.context.change(values, removed)
        return {}

    def set_variables(self, values: dict[str, Any]) -> dict[str, Any]:
        """Set variables of the namespace, unless code runs that is not held at a safe point."""
        if self.running is not None and not self.kernel.safe_points.is_held:
            return {"set": False}
        self.kernel.shell.user_ns.update(values)
        return {"set": True}

    def reap(self, pid: int) -> dict[str, Any]:
        """Wait for a copy of this kernel that has ended."""
        with contextlib.suppress(ChildProcessError):  # the user's code has
            os.waitpid(pid, os.WNOHANG)
        return {}

    def replay(self, since: int) -> dict[str, Any]:
        """Return what the journal in memory holds after number `since`; see journal.py."""
        answer: dict[str, Any] = self.journal.since(since)
        return answer

    def variables(self, limit: int) -> dict[str, Any]:
        """Describe the user's variables, in name order."""
        shell = self.kernel.shell
        hidden = shell.user_ns_hidden
        names = sorted(
            name
            for name, value in list(shell.user_ns.items())
            if not name.startswith("_") and (name not in hidden or hidden[name] is not value)
        )
        described = []
        for name in names[:limit]:
            try:
                described.append(describe(name, shell.user_ns[name]))
            except KeyError:  # deleted by the running cell meanwhile
                continue
        return {"variables": described, "total": len(names)}

    def adopt_environment(self, prefix: str, site: str) -> dict[str, Any]:
        """Make the virtual environment at `prefix` this kernel's own, first on the path."""
        environment.adopt(prefix)
        return {"executable": sys.executable}

    def loaded(self, distributions: list[str], site: str) -> dict[str, Any]:
        """Name the modules of `distributions` that this kernel has imported already."""
        importlib.invalidate_caches()
        found = sorted({name for item in distributions for name in loaded_modules(item, site)})
        return {"modules": found}

    def module(self, name: str, path: str) -> dict[str, Any]:
        """Say whether this kernel has imported a file as a module, and what its name means else."""
        importlib.invalidate_caches()  # the file may have changed just now
        loaded = sys.modules.get(name)
        file = loaded.__dict__.get("__file__") if type(loaded) is ModuleType else None
        holds = type(file) is str and os.path.realpath(file) == os.path.realpath(path)
        own = {os.path.dirname(path), self.kernel.parent.launch["workspace"], ""}
        folders = [folder for folder in sys.path if type(folder) is str and folder not in own]
        return {"holds": holds, "instead": "" if holds else place_of(name, folders)}


def place_of(name: str, folders: list[str]) -> str:
    """Return where a module of a name is in some folders; "" if it is in none."""
    for folder in folders:
        for file in (name, *(name + suffix for suffix in all_suffixes())):
            if os.path.exists(found := os.path.join(folder, file)):
                return found
    return ""


def loaded_modules(distribution: str, site: str) -> list[str]:
    """Return top-level modules of `distribution` (installed in `site`) in sys.modules."""
    for found in importlib.metadata.distributions(name=distribution, path=[site]):
        tops = {str(file).split("/")[0] for file in found.files or []}
        names = {top.removesuffix(".py") for top in tops if not top.endswith((".dist-info", ".."))}
        return [n for n in names if getattr(sys.modules.get(n), "__file__", None)]
    return []
