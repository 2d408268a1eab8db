"""Answers about the kernel while a cell runs, on the control channel.

One message type, ``kernelry_request``, with an ``op`` in its content; the reply is
``kernelry_reply`` with ``status`` "ok" or "error". It runs in the control thread, so it
needs the interpreter lock but never waits for the user's cell. Nothing here calls code
of the user's objects: a repr is made only of exact built-in types, bounded in size.
"""

import asyncio
import importlib
import importlib.metadata
import inspect
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from . import environment

REPR_CHARS = 120  # longest repr of a variable
REPR_ITEMS = 6  # items shown of a container
REPR_DEPTH = 3
ARRAY_PACKAGES = frozenset(
    {"numpy", "pandas", "polars", "torch", "jax", "jaxlib", "tensorflow", "scipy", "xarray"}
)


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
            "ask": self.ask,
            "answer": self.answer,
            "change_context": self.change_context,
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
        running = self.running
        if running is None or running[0] != msg_id:
            return {"done": False, "pending": None, "held": False, "over": True}
        answer: dict[str, Any] = self.kernel.safe_points.ask(action, by, at)
        return answer

    def answer(self, question: str, text: str) -> dict[str, Any]:
        """Answer what the user's code asked; see questions.py."""
        return {"done": self.kernel.questions.answer(question, text)}

    def change_context(self, values: dict[str, Any], removed: list[str]) -> dict[str, Any]:
        """Change the session's context."""
        self.kernel.user_session.context.change(values, removed)
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


def loaded_modules(distribution: str, site: str) -> list[str]:
    """Return top-level modules of `distribution` (installed in `site`) in sys.modules."""
    for found in importlib.metadata.distributions(name=distribution, path=[site]):
        tops = {str(file).split("/")[0] for file in found.files or []}
        names = {top.removesuffix(".py") for top in tops if not top.endswith((".dist-info", ".."))}
        return [n for n in names if getattr(sys.modules.get(n), "__file__", None)]
    return []


def describe(name: str, value: Any) -> dict[str, Any]:
    """Describe one variable without running code of its class."""
    kind = type(value)
    entry: dict[str, Any] = {"name": name, "type": type_name(kind), "repr": safe_repr(value)}
    if kind.__module__.split(".")[0] in ARRAY_PACKAGES and isinstance(
        shape := getattr(value, "shape", None), tuple
    ):
        entry["shape"] = [int(n) for n in shape if isinstance(n, int)]
        dtype = getattr(value, "dtype", None)
        entry["repr"] = f"<{kind.__name__} {'x'.join(map(str, entry['shape']))}" + (
            f" {dtype}>" if dtype is not None else ">"
        )
    elif kind in (str, bytes, bytearray, list, tuple, dict, set, frozenset):
        entry["size"] = len(value)
    return entry


def type_name(kind: type) -> str:
    """Return the name of a class as a reader knows it."""
    module = type.__getattribute__(kind, "__module__")
    name = type.__getattribute__(kind, "__qualname__")
    return name if module in ("builtins", "__main__") else f"{module}.{name}"


def safe_repr(value: Any, depth: int = REPR_DEPTH) -> str:
    """Return a repr of at most REPR_CHARS characters that runs no code of the user's."""
    text: str = bounded(value, depth)
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= REPR_CHARS else text[: REPR_CHARS - 1] + "…"


def bounded(value: Any, depth: int) -> str:
    """Return the repr of exact built-in types, cut short; a type name for the rest."""
    kind = type(value)
    if kind in (bool, type(None), float, complex, range):
        return repr(value)
    if kind is int:
        bits = value.bit_length()
        return repr(value) if bits < 512 else f"<int of {bits} bits>"
    if kind in (str, bytes, bytearray):
        return repr(value[:REPR_CHARS]) + ("…" if len(value) > REPR_CHARS else "")
    if kind in (list, tuple, set, frozenset, dict):
        return bounded_container(value, kind, depth)
    if isinstance(value, type):
        return f"<class {type_name(value)}>"
    if kind.__name__ in ("function", "builtin_function_or_method"):
        return f"<function {value.__name__}>"
    if kind.__name__ == "module":
        return f"<module {value.__name__}>"
    return f"<{type_name(kind)} object>"


def bounded_container(value: Any, kind: type, depth: int) -> str:
    """Return the first items of a built-in container."""
    opening, closing = "[]" if kind is list else "()" if kind is tuple else "{}"
    if depth == 0:
        return f"{opening}…{closing}"
    shown: list[str] = []
    try:
        for item in value:
            if len(shown) == REPR_ITEMS:
                shown.append("…")
                break
            text = bounded(item, depth - 1)
            shown.append(f"{text}: {bounded(value[item], depth - 1)}" if kind is dict else text)
    except (RuntimeError, KeyError):  # changed by the running cell meanwhile
        shown.append("…")
    return opening + ", ".join(shown) + closing
