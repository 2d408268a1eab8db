"""``kernelry_session``: what code in a kernel can know of its session and do in it.

There is nothing to install and nothing to import: the name is a builtin, which a user's own
name shadows, and importing it gives the same module. Which session it is comes with each
execution, since a kernel may have been made for whoever comes first.
"""

import builtins
import copy
import json
import sys
from collections.abc import Iterator, MutableMapping
from types import ModuleType
from typing import Any

from .notes import Notes
from .safepoints import ExecutionStopped, SafePoints

NAME = "kernelry_session"
DATA_BYTES = 65_536  # of one event's data, or one value of the context
TOPIC_CHARS = 200
KEY_CHARS = 200
#: how the topics of the server's own events begin (also in kernelry/events/log.py)
RESERVED = ("session.", "execution.", "kernel.", "server.", "context.", "checkpoint.", "artifact.")


class Context(MutableMapping[str, Any]):
    """The session's context: values of JSON by name, kept over restarts of the kernel.

    Tools of the server read and write the same. What a value is read as is a copy: assign it
    again to keep what was changed in it.
    """

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._values: dict[str, Any] = {}

    def load(self, values: dict[str, Any]) -> None:
        """Take what the server has."""
        self._values = dict(values)

    def change(self, values: dict[str, Any], removed: list[str]) -> None:
        """Take what a tool has changed."""
        self._values = {
            key: value for key, value in {**self._values, **values}.items() if key not in removed
        }

    def __getitem__(self, key: str) -> Any:
        return copy.deepcopy(self._values[key])

    def __setitem__(self, key: Any, value: Any) -> None:
        if not isinstance(key, str) or not 0 < len(key) <= KEY_CHARS:
            msg = f"a key of the context is a string of 1 to {KEY_CHARS} characters"
            raise TypeError(msg)
        kept = json.loads(as_json(value, "a value of the context"))
        self._notes.send("context", values={key: kept}, removed=[])
        self._values[key] = kept

    def __delitem__(self, key: str) -> None:
        if key not in self._values:
            raise KeyError(key)
        self._notes.send("context", values={}, removed=[key])
        del self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self._values))

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Context({self._values!r})"


def as_json(value: Any, what: str) -> str:
    """Return a value as JSON.

    Raises:
        TypeError: It is nothing that JSON knows.
        ValueError: It is too large, or not a number.
    """
    text = json.dumps(value, allow_nan=False)
    if len(text) > DATA_BYTES:
        msg = f"{what} may have {DATA_BYTES} bytes as JSON; this has {len(text)}"
        raise ValueError(msg)
    return text


#: what help() says first
ABOUT = """The kernelry session that this code runs in. The name is there without an import.

checkpoint(progress=None)    a safe point: here the execution may be paused or stopped
publish(topic, data=None)    write an event that other sessions and clients read
context                      values of JSON by name, kept over restarts; tools see them too
session_id, parent_session_id, execution_id    where this code runs
ExecutionStopped             what checkpoint() raises when somebody asked to stop
"""
#: what the module offers, as help() and dir() tell it
OFFERED = (
    "ExecutionStopped",
    "checkpoint",
    "context",
    "execution_id",
    "parent_session_id",
    "publish",
    "session_id",
)


#: the module of this process, once it is made
made: "list[SessionModule]" = []


class SessionModule(ModuleType):
    """The module that code uses."""

    def __init__(self, notes: Notes, safe_points: SafePoints) -> None:
        super().__init__(NAME, ABOUT)
        self._about: dict[str, Any] = {}
        self.context = Context(notes)
        self.attach(notes, safe_points)
        self.ExecutionStopped = ExecutionStopped
        self.__all__ = list(OFFERED)

    def attach(self, notes: Notes, safe_points: SafePoints) -> None:
        """Speak through a kernel: this process's first, or what a copy of it has become."""
        self._notes = self.context._notes = notes
        self._safe_points = safe_points

    def __dir__(self) -> list[str]:
        """Name what the class has too; a module's own names are those of its dictionary."""
        return sorted({*super().__dir__(), *OFFERED})

    def checkpoint(self, progress: Any = None) -> None:
        """Mark a safe point; see `SafePoints.checkpoint`, of the kernel that runs this now."""
        self._safe_points.checkpoint(progress)

    def enter(self, about: dict[str, Any]) -> None:
        """Take what came with an execution: which session this is, and perhaps its context."""
        self._about = about
        if "context" in about:
            self.context.load(about["context"])

    @property
    def session_id(self) -> str:
        """Id of this session."""
        return str(self._about.get("session_id", ""))

    @property
    def parent_session_id(self) -> str:
        """Id of the session that this one was created for; empty: none."""
        return str(self._about.get("parent_session_id", ""))

    @property
    def execution_id(self) -> str:
        """Id of the execution that runs, or ran last."""
        return str(self._about.get("execution_id", ""))

    def publish(self, topic: Any, data: Any = None) -> None:
        """Write an event into the server's log, which other sessions and clients read.

        Args:
            topic: What it is about, like "training.epoch"; up to 200 characters.
            data: Anything that JSON knows, up to 64 KiB.
        """
        if not isinstance(topic, str) or not 0 < len(topic) <= TOPIC_CHARS:
            msg = f"a topic is a string of 1 to {TOPIC_CHARS} characters"
            raise ValueError(msg)
        if topic.startswith(RESERVED):
            msg = f"topics that begin with {', '.join(RESERVED)} are the server's own"
            raise ValueError(msg)
        kept = json.loads(as_json(data, "an event's data"))
        self._notes.send("published", topic=topic, data=kept)


def install_module(notes: Notes, safe_points: SafePoints) -> SessionModule:
    """Make the module importable, and a builtin name; return it.

    A copy of a kernel has the module already, and its code may know it by other names.
    """
    for known in made:
        known.attach(notes, safe_points)
        return known
    module = SessionModule(notes, safe_points)
    made.append(module)
    sys.modules[NAME] = module
    setattr(builtins, NAME, module)
    return module
