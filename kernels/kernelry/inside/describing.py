"""Describe values without running code of their classes: types, short reprs, shapes.

It is called while a cell runs, from another thread, so a repr is made only of exact built-in
types, and bounded in size.
"""

import sys
from contextlib import suppress
from itertools import islice
from typing import Any

COLUMNS = 50  # of a table that are named
COUNTED = 1_000  # columns of a table whose bytes are added up
REPR_CHARS = 120  # longest repr of a variable
REPR_ITEMS = 6  # items shown of a container
REPR_DEPTH = 3
ARRAY_PACKAGES = frozenset(
    {"numpy", "pandas", "polars", "torch", "jax", "jaxlib", "tensorflow", "scipy", "xarray"}
)


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
        entry |= of_table(value)
    elif kind in (str, bytes, bytearray, list, tuple, dict, set, frozenset):
        entry["size"] = len(value)
        entry["bytes"] = sys.getsizeof(value)
    return entry


def of_table(value: Any) -> dict[str, Any]:
    """Return the bytes of an array or a table and the names of its columns, as far as it tells.

    It may be changed by the running cell meanwhile, and then tells nothing.
    """
    found: dict[str, Any] = {}
    with suppress(Exception):
        columns = islice(getattr(value, "columns", ()), COUNTED + 1)
        names = [column if type(column) is str else safe_repr(column) for column in columns]
        found["columns"] = names[:COLUMNS]
        if len(names) <= COUNTED and hasattr(value, "memory_usage"):  # pandas
            used = value.memory_usage()  # of each column, or of all
            found["bytes"] = int(used.sum() if hasattr(used, "sum") else used)
        elif hasattr(value, "estimated_size"):  # polars
            found["bytes"] = int(value.estimated_size())
        elif isinstance(size := getattr(value, "nbytes", None), int):
            found["bytes"] = size
    return found


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
