"""What a fork server has found out about itself, and each of its kernels must find out anew.

Modules keep paths when they are imported: where temporary files go, the user's folders, those of
the environment. A fork has them, and they are its parent's. So a fork server lives as a session
does, below a folder of its own with the same names in it; that folder's path is in everything
that is its own. It is looked for once, wherever a loaded module keeps it, before the first fork,
and each kernel puts its session's in its place.
"""

import contextlib
import functools
import gc
import os
import pathlib
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from .. import environment

#: types of values besides text that can't be changed in themselves
HAVE = (bytes, tuple, frozenset, pathlib.PosixPath, pathlib.PurePosixPath)
#: what it has below its folder, as a session
FOLDERS = ("home", "tmp", "ipython")
DEPTH = 3  # of tuples in tuples
#: holders that are not looked into: what runs now, what is no data
LEFT_OUT = (types.FrameType, types.CodeType, types.ModuleType, pathlib.PurePath)


class Own:
    """The places at which a fork server's own folder is kept.

    Args:
        root: The folder; nothing else has it in its path. Empty: there is none, and nothing is
            done.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._places: list[Callable[[str], None]] = []
        self._folders: list[str] = []

    def adopt(self) -> None:
        """Make the environment below the folder this process's own, as a session's kernel does."""
        if self._root:
            prefix = os.path.join(self._root, "env")
            environment.make(prefix, "")
            environment.adopt(prefix)

    def find(self) -> None:
        """Look for all places, and empty the caches that are some; before `gc.freeze`."""
        if not self._root:
            return
        for name in FOLDERS:
            for folder, _, _ in os.walk(os.path.join(self._root, name)):
                self._folders.append(os.path.relpath(folder, self._root))
        objects = gc.get_objects()
        namespaces = {id(part) for cls in objects if isinstance(cls, type) for part in dicts(cls)}
        skipped = {id(objects), id(self.__dict__), id(getattr(os.environ, "_data", None))}
        skipped |= namespaces
        for holder in self._holders(objects):
            if id(holder) in skipped or isinstance(holder, LEFT_OUT):
                continue
            if isinstance(holder, functools._lru_cache_wrapper):
                holder.cache_clear()
            else:
                self._places += self._places_in(holder)

    def _holders(self, objects: list[Any]) -> Iterator[Any]:
        """Yield what refers to a value that has the folder in it.

        Among a hundred thousand objects: this is where the time goes.
        """
        size, root, has = len(self._root), self._root, self._has
        seen: set[int] = set()
        while objects:
            more: list[Any] = []
            for holder in objects:
                parts = gc.get_referents(holder)
                if type(holder) is dict:
                    parts += [key for key in holder if type(key) is str and len(key) >= size]
                found = False
                for part in parts:
                    kind = type(part)
                    if kind is str:
                        found = found or (len(part) >= size and root in part)
                    elif kind is dict:  # one of nothing but texts is known to its owner only
                        if not gc.is_tracked(part) and id(part) not in seen:
                            seen.add(id(part))
                            more.append(part)
                    elif kind in HAVE:
                        found = found or has(part)
                if found:
                    yield holder
            objects = more

    def become(self, root: str) -> None:
        """Put the folder of a session in the place of the fork server's, everywhere.

        What modules have made below theirs they take to be there. So this makes folders, through
        links that a session may have put there: only within its walls.
        """
        for put in self._places:
            put(root)
        for folder in self._folders:
            with contextlib.suppress(OSError):  # a full disk, a file in its place
                os.makedirs(os.path.join(root, folder), mode=0o700, exist_ok=True)

    def _has(self, value: Any, depth: int = DEPTH) -> bool:
        """Say whether a value, which can't be changed in itself, has the folder in it."""
        if type(value) is str:
            return len(value) >= len(self._root) and self._root in value
        if type(value) is bytes:
            return os.fsencode(self._root) in value
        if isinstance(value, pathlib.PurePath):
            return self._root in str(value)
        if type(value) in (tuple, frozenset) and depth:
            return any(self._has(part, depth - 1) for part in value)
        return False

    def _with(self, value: Any, root: str) -> Any:
        """Return a value with another folder in it."""
        if type(value) is str:
            return value.replace(self._root, root)
        if type(value) is bytes:
            return value.replace(os.fsencode(self._root), os.fsencode(root))
        if isinstance(value, pathlib.PurePath):
            return type(value)(str(value).replace(self._root, root))
        if type(value) in (tuple, frozenset):
            return type(value)(self._with(part, root) for part in value)
        return value

    def _places_in(self, holder: Any) -> Iterator[Callable[[str], None]]:
        """Yield what puts another folder into a holder."""
        if isinstance(holder, dict):
            for key in [key for key, value in holder.items() if self._has(value)]:
                yield functools.partial(self._put, holder, key, holder[key])
            if keys := [key for key in holder if self._has(key)]:
                yield functools.partial(self._rename, holder, keys)
        elif isinstance(holder, list):
            for index in [index for index, value in enumerate(holder) if self._has(value)]:
                yield functools.partial(self._put, holder, index, holder[index])
        elif isinstance(holder, set):
            for value in [value for value in holder if self._has(value)]:
                yield functools.partial(self._exchange, holder, value)
        elif isinstance(holder, types.CellType):
            yield functools.partial(self._set, holder, "cell_contents", holder.cell_contents)
        elif not isinstance(holder, tuple | frozenset):  # who holds these holds what is in them
            for name, value in attributes(holder):
                if self._has(value):
                    yield functools.partial(self._set, holder, name, value)

    def _put(self, holder: Any, key: Any, value: Any, root: str) -> None:
        # What was changed since (a kernel's start changes some) is right already.
        is_there = key in holder if isinstance(holder, dict) else key < len(holder)
        if is_there and holder[key] is value:
            holder[key] = self._with(value, root)

    def _rename(self, holder: dict[Any, Any], keys: list[Any], root: str) -> None:
        for key in keys:
            if key in holder:
                holder[self._with(key, root)] = holder.pop(key)

    def _exchange(self, holder: set[Any], value: Any, root: str) -> None:
        holder.discard(value)
        holder.add(self._with(value, root))

    def _set(self, holder: Any, name: str, value: Any, root: str) -> None:
        setattr(holder, name, self._with(value, root))


def dicts(cls: type) -> Iterator[dict[str, Any]]:
    """Yield the namespaces of a class, which are changed by the class only."""
    return (part for part in gc.get_referents(cls) if type(part) is dict)


def attributes(holder: Any) -> Iterator[tuple[str, Any]]:
    """Yield the attributes that an object, a class or a function keeps itself."""
    yield from dict(getattr(holder, "__dict__", {})).items()
    if isinstance(holder, types.FunctionType):
        yield "__defaults__", holder.__defaults__
    for cls in type(holder).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name.startswith("__") and not name.endswith("__"):
                name = f"_{cls.__name__.lstrip('_')}{name}"
            if name not in ("__dict__", "__weakref__") and hasattr(holder, name):
                yield name, getattr(holder, name)


def forget_secrets() -> None:
    """Make anew what is to be different in each process, and a fork would share."""
    if process := sys.modules.get("multiprocessing.process"):
        process.current_process().authkey = os.urandom(32)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()  # its global generator is the one that a fork does not reseed
