"""A namespace as a file: all variables in one pickle stream, so that what they share stays shared.

cloudpickle does what plain pickle can't (functions, classes of cells); we add that a function
of the namespace keeps the live one, that what can't be pickled leaves no trace in the stream,
and that large buffers go to the file as they are. The file:

    MAGIC, [pickle of a marker, pickle of a value, its buffers]..., index, length, MAGIC

The index is JSON: version, packages, variables with their places, and what was left out and
why. `restoring.py` reads it. The server never does: a pickle is code.
"""

import contextlib
import importlib.util
import io
import json
import os
import pickle
import platform
import re
import struct
import sys
from collections import ChainMap
from collections.abc import Callable, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any, BinaryIO

from ..describing import ARRAY_PACKAGES, type_name
from ..steering import NAME
from .surroundings import surroundings

FORMAT = 1
MAGIC = b"KERNELRY-NAMESPACE"
LENGTH = struct.Struct("<Q")
PROTOCOL = 5
CLOUDPICKLE = "kernelry_cloudpickle"  # our copy; a session may have one of its own
#: a pickle that has the namespace from its reader, and keeps it as number 0
NAMESPACE = pickle.PROTO + b"\x05" + pickle.NONE + pickle.BINPERSID + pickle.MEMOIZE + pickle.STOP
ANY_CELL = "<dynamic-code>"  # what cloudpickle calls the file of code of cells
BUFFER_BYTES = 1 << 16  # smaller ones stay in the stream
REASON_CHARS = 300
#: names that IPython keeps in the namespace
IPYTHONS = re.compile(r"__.*__|_+|_i+|_i?\d+|_[iod]h|_exit_code")
CONTAINERS = (str, bytes, bytearray, list, tuple, dict, set, frozenset)


class SnapshotError(Exception):
    """Nothing could be saved, or nothing restored; says why."""


def load_cloudpickle(path: str) -> Any:
    """Return cloudpickle, loaded from a folder under a name of our own.

    The interpreter need not have it, and a session that has it may have another version.
    """
    if loaded := sys.modules.get(CLOUDPICKLE):
        return loaded
    spec = importlib.util.spec_from_file_location(
        CLOUDPICKLE, f"{path}/__init__.py", submodule_search_locations=[path]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[CLOUDPICKLE] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[CLOUDPICKLE]
        raise
    return module


def user_names(namespace: Mapping[str, Any], hidden: Mapping[str, Any]) -> list[str]:
    """Return the names of the user's variables, those that begin with an underscore too."""
    return [
        name
        for name, value in list(namespace.items())
        if not IPYTHONS.fullmatch(name) and (name not in hidden or hidden[name] is not value)
    ]


def reason_of(error: BaseException) -> str:
    """Say what an exception says, which may be code of the user's."""
    try:
        text = str(error)
    except Exception:
        text = ""
    kind = type(error).__name__
    return (f"{kind}: {text}" if text else kind)[:REASON_CHARS]


def cost(value: Any) -> int:
    """Estimate how much there is to pickle, without code of the user's."""
    kind = type(value)
    if kind in CONTAINERS:
        return len(value)
    if kind.__module__.split(".")[0] in ARRAY_PACKAGES:
        with contextlib.suppress(Exception):
            return int(value.size)
    return 0


class Output:
    """A file that is written from its beginning, and remembers if that failed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        #: why it can't be written; None: it can
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Write."""
        try:
            return self._file.write(data)
        except OSError as error:
            self.failure = error
            raise

    @property
    def position(self) -> int:
        """How many bytes were written."""
        return self._file.tell()

    def go_back(self, position: int) -> None:
        """Forget what was written behind a position."""
        try:
            self._file.seek(position)
            self._file.truncate()
        except OSError as error:
            self.failure = error
            raise


class Reducing:
    """What our pickler does in another way than cloudpickle's, which it inherits from."""

    namespace: dict[str, Any]
    #: ids of what belongs to this kernel -> the module and the name by which it is had
    named: dict[int, tuple[ModuleType, str]]

    def reducer_override(self, obj: Any) -> Any:
        """Let functions of the namespace keep the namespace, not a copy of what they use.

        Modules, of whatever class, and what is of the kernel itself are had by name.
        """
        if isinstance(obj, ModuleType) and sys.modules.get(obj.__name__) is obj:
            return importlib.import_module, (obj.__name__,)
        if id(obj) in self.named:
            return getattr, self.named[id(obj)]
        reduced = super().reducer_override(obj)  # type: ignore[misc]
        if (
            type(obj) is not FunctionType
            or reduced is NotImplemented
            or obj.__globals__ is not self.namespace
        ):
            return reduced
        make, (code, _, *more), (state, slots), *rest = reduced
        return make, (code, self.namespace, *more), (state, slots | {"__globals__": {}}), *rest


def kernels_own() -> dict[int, tuple[ModuleType, str]]:
    """Return what `import kernelry_session` has that belongs to this kernel, by id."""
    module = sys.modules.get(NAME)
    names = set(getattr(module, "__all__", ())) & set(vars(module)) if module else set()
    return {id(vars(module)[name]): (module, name) for name in names if module is not None}


def refuse_file(file: Any) -> Any:
    """Refuse to save an open file; cloudpickle would make it a text in memory."""
    raise pickle.PicklingError("an open file can't be saved")


def with_its_file(reduce: Callable[[CodeType], Any]) -> Callable[[CodeType], Any]:
    """Return a way to reduce code that keeps the name of its cell, by which its source is found.

    cloudpickle puts the same name into all code of cells, so that the same code has one hash.
    """

    def reduced(code: CodeType) -> Any:
        make, parts, *rest = reduce(code)
        named = (code.co_filename if part == ANY_CELL else part for part in parts)
        return make, tuple(named), *rest

    return reduced


class Snapshot:
    """One saving of a namespace.

    Args:
        namespace: What functions of cells have as their globals.
        cloudpickle: The module.
        file: Where to; empty.
        generators: States of global generators, as JSON knows them.
    """

    def __init__(
        self,
        namespace: dict[str, Any],
        cloudpickle: Any,
        file: BinaryIO,
        generators: dict[str, Any] | None = None,
    ) -> None:
        self._namespace = namespace
        self._generators = generators or {}
        self._output = Output(file)
        self._buffers: list[memoryview] = []
        self._cloudpickle = cloudpickle
        base = cloudpickle.Pickler
        own = {"namespace": namespace, "named": kernels_own()}
        saver: Any = type("Saver", (Reducing, base), own)
        own_ways: dict[type, Callable[[Any], Any]] = {io.TextIOWrapper: refuse_file}
        if (reduce := base.dispatch_table.get(CodeType)) is not None:
            own_ways[CodeType] = with_its_file(reduce)
        saver.dispatch_table = ChainMap(own_ways, base.dispatch_table)
        self._pickler = saver(self._output, PROTOCOL, buffer_callback=self._take_buffer)
        #: what could be saved: name, type, and where in the file it is
        self.variables: list[dict[str, Any]] = []
        #: what could not: name, type and reason
        self.skipped: list[dict[str, str]] = []

    def save(self, names: list[str]) -> None:
        """Write the variables of these names, the small ones first, and the index.

        Raises:
            OSError: The file can't be written.
            MemoryError: There is not enough of it.
        """
        self._output.write(MAGIC + NAMESPACE)
        self._pickler.memo = {id(self._namespace): (0, self._namespace)}
        for name in sorted(names, key=lambda name: cost(self._namespace[name])):
            self._save_variable(name, self._namespace[name])
        index = json.dumps(self._index()).encode()
        self._output.write(index + LENGTH.pack(len(index)) + MAGIC)

    def _save_variable(self, name: str, value: Any) -> None:
        at = self._output.position
        entry = {"name": name, "type": type_name(type(value))}
        marker = [name]
        self._buffers.clear()
        try:
            self._pickler.dump(marker)
            self._pickler.dump(value)
        except BaseException as error:
            # A full disk and full memory are no property of a variable.
            if self._output.failure is not None:
                raise self._output.failure from error
            if isinstance(error, MemoryError):
                raise
            self.skipped.append({**entry, "reason": reason_of(error)})
            self._forget_since(marker)
            self._output.go_back(at)
            return
        places = []
        for buffer in self._buffers:
            places.append([self._output.position, buffer.nbytes])
            self._output.write(buffer)
        self.variables.append({**entry, "at": at, "buffers": places})

    def _forget_since(self, marker: list[str]) -> None:
        """Forget what was pickled since a marker: the file will not have it."""
        memo: Any = self._pickler.memo.copy()
        if id(marker) in memo:
            first = memo[id(marker)][0]
            self._pickler.memo = {key: kept for key, kept in memo.items() if kept[0] < first}

    def _take_buffer(self, buffer: pickle.PickleBuffer) -> bool:
        """Keep a large buffer for the file; say whether it belongs into the stream."""
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous
            return True
        if raw.nbytes < BUFFER_BYTES:
            return True
        self._buffers.append(raw)
        return False

    def _index(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "python": platform.python_version(),
            "implementation": sys.implementation.name,
            "cloudpickle": self._cloudpickle.__version__,
            "packages": self._packages(),
            "variables": self.variables,
            "skipped": self.skipped,
            "generators": self._generators,
            **surroundings(self._namespace, [entry["name"] for entry in self.variables]),
        }

    def _packages(self) -> dict[str, str]:
        """Return the versions of the packages that variables are of."""
        values = (self._namespace[entry["name"]] for entry in self.variables)
        named = (v.__name__ if isinstance(v, ModuleType) else type(v).__module__ for v in values)
        tops = {str(name).split(".")[0] for name in named}
        return {top: found for top in sorted(tops) if (found := version_of(top))}


def version_of(package: str) -> str:
    """Return what a loaded package says is its version; empty: nothing."""
    found = getattr(sys.modules.get(package), "__version__", "")
    return found if isinstance(found, str) else ""


def write_snapshot(
    path: str,
    namespace: dict[str, Any],
    names: list[str],
    cloudpickle: Any,
    open_file: Callable[[str], BinaryIO],
    generators: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a namespace to a file and return what it holds.

    Args:
        path: The file, which must not be there.
        namespace: The namespace.
        names: Which of its variables.
        cloudpickle: The module.
        open_file: Makes the file.
        generators: States of global generators, as JSON knows them.

    Raises:
        SnapshotError: It can't be written; there is no file then.
    """
    try:
        with open_file(path) as file:
            snapshot = Snapshot(namespace, cloudpickle, file, generators)
            snapshot.save(names)
    except (OSError, MemoryError) as error:
        with contextlib.suppress(OSError):
            os.unlink(path)
        why = "not enough memory" if isinstance(error, MemoryError) else f"{error.strerror}"
        raise SnapshotError(f"the namespace can't be written: {why}") from error
    return {
        "python": platform.python_version(),
        "variables": [entry["name"] for entry in snapshot.variables],
        "skipped": snapshot.skipped,
    }
