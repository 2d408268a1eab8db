"""What a namespace needs besides its variables: sources of cells, states of generators.

And what of it can't come back as it was: arrays that shared their memory.
"""

import importlib
import linecache
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

DEPTH = 3  # of lists and dicts in which arrays are looked for
LOOKED_AT = 20_000  # items of all variables together; what is saved waits for it
SOURCE_CHARS = 2_000_000  # of the cells that are kept, the newest


def surroundings(namespace: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """Return what is kept beside the variables, as JSON knows it.

    Args:
        namespace: The namespace.
        names: Its variables that are saved.
    """
    return {
        "sources": sources(),
        "changed": list(changed(namespace, names)),
    }


def sources() -> dict[str, str]:
    """Return the cells that code was defined in, by the names that tracebacks give them."""
    left = SOURCE_CHARS
    found = {}
    for name, entry in reversed(list(linecache.cache.items())):
        if len(entry) == 4 and entry[1] is None:  # of a cell: no file has it
            text = "".join(entry[2])
            left -= len(text)
            if left < 0:
                break
            found[name] = text
    return found


def generators() -> dict[str, Any]:
    """Return the global states of random and numpy.random, as far as they are loaded.

    Code may have put something else in their place, which has none that we know.
    """
    found: dict[str, Any] = {}
    with suppress(Exception):
        version, state, gauss = sys.modules["random"].getstate()
        found["random"] = [version, list(state), gauss]
    with suppress(Exception):
        kind, keys, *rest = sys.modules["numpy.random"].get_state()
        if kind == "MT19937":
            found["numpy.random"] = [kind, keys.tolist(), *rest]
    return found


def changed(namespace: Mapping[str, Any], names: list[str]) -> Iterator[str]:
    """Yield what is said of arrays that share their memory, and won't when they come back.

    Columns of pandas are not looked at: since its version 3 nobody can see that they share it.
    """
    sharing: dict[int, tuple[set[int], set[str]]] = {}
    left = iter(range(LOOKED_AT))
    for name in names:
        for array in arrays_in(namespace[name], left):
            root = array
            while type(getattr(root, "base", None)) is type(array):
                root = root.base
            arrays, holders = sharing.setdefault(id(root), (set(), set()))
            arrays.add(id(array))
            holders.add(name)
    for arrays, holders in sharing.values():
        if len(arrays) > 1:
            which = ", ".join(sorted(holders))
            which = which if len(holders) > 1 else f"arrays in {which}"
            yield f"{which} shared their memory and are separate copies now"


def arrays_in(value: Any, left: Iterator[int], depth: int = DEPTH) -> Iterator[Any]:
    """Yield the numpy arrays that a value is or holds, as far as they are looked for.

    Args:
        value: What.
        left: Has one for each item that may still be looked at.
        depth: Of what it holds.
    """
    kind = type(value)
    if kind.__module__ == "numpy" and kind.__name__ == "ndarray":
        yield value
    elif depth and kind in (list, tuple, set, frozenset, dict):
        for item, _ in zip(value.values() if kind is dict else value, left, strict=False):
            yield from arrays_in(item, left, depth - 1)


def put_back(index: Mapping[str, Any]) -> Iterator[str]:
    """Put back what was kept beside the variables; yield what did not come back as it was."""
    for name, text in index.get("sources", {}).items():
        lines = text.splitlines(keepends=True)
        linecache.cache.setdefault(name, (len(text), None, lines, name))
    set_generators(index.get("generators", {}))
    yield from index.get("changed", ())


def set_generators(states: Mapping[str, Any]) -> None:
    """Put back what `generators` has returned."""
    with suppress(KeyError):
        version, numbers, gauss = states["random"]
        sys.modules["random"].setstate((version, tuple(numbers), gauss))
    if (state := states.get("numpy.random")) and "numpy" in sys.modules:
        # It may be loaded only when it is used.
        importlib.import_module("numpy.random").set_state(tuple(state))
