"""Read what `snapshot.py` has written, and put it back: all of it, or all but what can't be.

The stream is read as a whole, since variables share what they refer to. If anything in it
fails (a package that is not here, a class that refuses its state), it is read once more by
Python's own unpickler, which here goes on behind a failure: the variables that hold what
failed are reported, the others are as they were.
"""

import gc
import json
import os
import pickle
import platform
import sys
from collections import deque
from collections.abc import Callable, Iterator
from types import FunctionType, ModuleType
from typing import Any, BinaryIO, ClassVar

from .snapshot import (
    CLOUDPICKLE,
    FORMAT,
    LENGTH,
    MAGIC,
    SnapshotError,
    reason_of,
    version_of,
)
from .surroundings import put_back

Index = dict[str, Any]


class Input:
    """The file, for an unpickler that must not read ahead, and the buffers of a variable."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.read = file.read
        self.readline = file.readline
        self.readinto = file.readinto  # type: ignore[attr-defined]
        #: places of the buffers that come next
        self.places: deque[tuple[int, int]] = deque()

    def go_to(self, entry: dict[str, Any]) -> None:
        """Go to where a variable is."""
        self._file.seek(entry["at"])
        self.places = deque(entry["buffers"])

    def __iter__(self) -> Iterator[bytearray]:
        return self

    def __next__(self) -> bytearray:
        if not self.places:
            raise StopIteration
        at, size = self.places.popleft()
        here = self._file.tell()
        self._file.seek(at)
        buffer = bytearray(size)
        if self.readinto(buffer) != size:
            raise EOFError("the file ends in a buffer")
        self._file.seek(here)
        return buffer


class Lost:
    """Stands for what could not be made again."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


class Reading:
    """What both unpicklers have in common.

    Attributes:
        namespace: What functions of cells get as their globals.
        runs_code: Whether bytecode of the file can run here.
        python: The version that wrote it.
    """

    namespace: dict[str, Any]
    runs_code: bool
    python: str

    def persistent_load(self, pid: Any) -> Any:
        """Return the namespace: nothing else is asked for."""
        return self.namespace

    def find_class(self, module: str, name: str) -> Any:
        """Import something; code of another Python version is not to be run."""
        found = super().find_class(module, name)  # type: ignore[misc]
        if self.runs_code or name != "_builtin_type" or not module.startswith(CLOUDPICKLE):
            return found

        def builtin_type(wanted: str) -> Any:
            if wanted == "CodeType":
                here = platform.python_version()
                msg = f"code of Python {self.python} can't run in Python {here}"
                raise pickle.UnpicklingError(msg)
            return found(wanted)

        return builtin_type


class Fast(Reading, pickle.Unpickler):
    """Stops at the first failure."""


class Careful(Reading, pickle._Unpickler):
    """Goes on behind failures; slower by an order of magnitude."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: id -> what is not as it was though it is there, and why
        self.broken: dict[int, tuple[Any, str]] = {}


def go_on(load: Callable[[Any], None], taken: int) -> Callable[[Any], None]:
    """Return an operation that puts a stand-in where its result would be.

    Args:
        load: The operation.
        taken: Items that it takes from the stack for its result; 0: it changes the top one.
    """

    def careful(self: Any) -> None:
        depth, items = len(self.stack), self.stack[-taken:] if taken else []
        try:
            load(self)
        except Exception as error:
            if taken:
                del self.stack[depth - taken :]
                self.stack.append(Lost(cause_of(error, items)))
                if len(items) > 1 and type(items[1]) is tuple:
                    mark_setter(self, items[0], items[1], self.stack[-1].reason)
            else:
                self.broken[id(self.stack[-1])] = (self.stack[-1], reason_of(error))

    return careful


def cause_of(error: Exception, items: list[Any]) -> str:
    """Return why something failed: what it was to be made of may have failed before."""
    for item in items:
        for part in item if type(item) is tuple else (item,):
            if isinstance(part, Lost):
                return part.reason
    return reason_of(error)


def mark_setter(unpickler: Careful, function: Any, args: tuple[Any, ...], reason: str) -> None:
    """If what failed was to give an object its state, note that it has not got it."""
    if args and getattr(function, "__name__", "").endswith("_setstate"):
        unpickler.broken[id(args[0])] = (args[0], reason)


for operations, taken in (
    ((pickle.REDUCE, pickle.NEWOBJ, pickle.STACK_GLOBAL), 2),
    ((pickle.NEWOBJ_EX,), 3),
    ((pickle.BUILD, pickle.APPEND, pickle.APPENDS, pickle.ADDITEMS), 0),
    ((pickle.SETITEM, pickle.SETITEMS), 0),
):
    for operation in operations:
        Careful.dispatch[operation[0]] = go_on(Careful.dispatch[operation[0]], taken)


def lost_in(value: Any, broken: dict[int, tuple[Any, str]]) -> str:
    """Return why something that a value holds could not be made again; empty: all is there."""
    seen: dict[int, Any] = {}
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen[id(item)] = item
        if isinstance(item, Lost):
            return item.reason
        if id(item) in broken:
            return broken[id(item)][1]
        waiting += parts_of(item)
    return ""


def parts_of(value: Any) -> list[Any]:
    """Return what a value holds, without what belongs to the program."""
    if isinstance(value, FunctionType):
        return [value.__closure__, value.__defaults__, value.__kwdefaults__, value.__dict__]
    if isinstance(value, ModuleType):
        return []
    if isinstance(value, type) and value.__module__ != "__main__":
        return []
    if isinstance(value, dict) and value.get("__name__") == "__main__":
        return []  # the namespace
    return gc.get_referents(value)


def read_index(file: BinaryIO) -> Index:
    """Return the index of a file.

    Raises:
        SnapshotError: It is none of ours, or a newer kernelry wrote it.
    """
    end = LENGTH.size + len(MAGIC)
    try:
        whole = file.seek(0, os.SEEK_END)
        file.seek(whole - end)
        tail = file.read(end)
        (length,) = LENGTH.unpack(tail[: LENGTH.size])
        file.seek(whole - end - length)
        index: Index = json.loads(file.read(length))
        file.seek(0)
        if file.read(len(MAGIC)) != MAGIC or tail[LENGTH.size :] != MAGIC:
            raise ValueError
    except (OSError, ValueError) as error:
        raise SnapshotError("the file is no checkpoint") from error
    if index["format"] != FORMAT:
        msg = f"the checkpoint has format {index['format']}, this kernelry reads {FORMAT}"
        raise SnapshotError(msg)
    return index


def load(
    kind: type[Fast | Careful], file: BinaryIO, index: Index, namespace: dict[str, Any]
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Return the variables by name, and those that could not be made again."""
    source = Input(file)
    unpickler = kind(source, buffers=source)
    unpickler.namespace = namespace
    unpickler.python = index["python"]
    unpickler.runs_code = index["python"].split(".")[:2] == [*map(str, sys.version_info[:2])]
    file.seek(len(MAGIC))
    unpickler.load()  # NAMESPACE
    values: dict[str, Any] = {}
    for entry in index["variables"]:
        source.go_to(entry)
        unpickler.load()  # the marker
        values[entry["name"]] = unpickler.load()
    failed = []
    if isinstance(unpickler, Careful):
        for entry in index["variables"]:
            if reason := lost_in(values[entry["name"]], unpickler.broken):
                failed.append({"name": entry["name"], "type": entry["type"], "reason": reason})
                del values[entry["name"]]
    return values, failed


def read_snapshot(file: BinaryIO, namespace: dict[str, Any]) -> tuple[dict[str, Any], Index]:
    """Read a file; the namespace is not changed.

    Returns:
        The variables by name; and what is to be said: failed, warnings.

    Raises:
        SnapshotError: It can't be read at all.
        MemoryError: There is not enough of it.
    """
    index = read_index(file)
    builtins = namespace.get("__builtins__")
    try:
        try:
            values, failed = load(Fast, file, index, namespace)
        except MemoryError:
            raise
        except Exception:
            values, failed = load(Careful, file, index, namespace)
    finally:  # cloudpickle sets it in the globals of each function
        if builtins is not None:
            namespace["__builtins__"] = builtins
    return values, {"failed": failed, "warnings": [*differences(index), *put_back(index)]}


def differences(index: Index) -> Iterator[str]:
    """Say in which versions this interpreter is not the one that saved."""
    here = {"Python": platform.python_version(), **{p: version_of(p) for p in index["packages"]}}
    for name, then in {"Python": index["python"], **index["packages"]}.items():
        if here[name] and here[name] != then:
            yield f"saved with {name} {then}, restored with {here[name]}"
