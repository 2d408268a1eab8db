"""One value in depth, and completions: what needs code of the user's, or of libraries.

So it is done in the main thread, between two cells, and an interrupt stops it.
"""

import inspect
from typing import Any

from ..describing import describe, type_name
from ..steering import answering

TEXT_CHARS = 4_000  # of a value
DOC_CHARS = 2_000
ROWS = 5  # of a table
WIDTH = 30  # columns of a table that are shown with their rows
NAMES = 200  # columns that are named, completions that are told
NAME_CHARS = 200


class Looking:
    """The handler of ``kernelry_look``; one per kernel.

    Args:
        kernel: The kernel.
    """

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        kernel.shell_handlers["kernelry_look"] = answering(kernel, self.look, reason_of)

    def look(self, name: str, complete: str) -> dict[str, Any]:
        """Return a value in depth, and the completions of code at its end.

        Args:
            name: A variable, or what is reached from one by dots; empty: none.
            complete: Code; empty: none.
        """
        return self._kernel.as_user_code(  # type: ignore[no-any-return]
            lambda: {
                **(self.depth(name) if name else {}),
                "matches": self.matches(complete) if complete else [],
            }
        )

    def depth(self, name: str) -> dict[str, Any]:
        """Return a value in depth."""
        first, *rest = name.split(".")
        namespace = self._kernel.shell.user_ns
        if first not in namespace:
            raise NameError(f"there is no variable {first!r}")
        value = namespace[first]
        for part in rest:
            value = getattr(value, part)
        found = describe(name, value)
        kind = type(value)
        parts = [head_of(value, kind, self._kernel.shell)]
        if callable(value) and (signature := signature_of(value)):
            parts.insert(0, f"{first}{signature}" if not rest else f"{name}{signature}")
        if callable(value) or inspect.ismodule(value):
            parts.append((inspect.getdoc(value) or "")[:DOC_CHARS])
        elif kind.__module__ == "__main__":  # what is known to all need not be told
            parts.append((inspect.getdoc(kind) or "")[:DOC_CHARS])
        return {"variable": found, "text": "\n\n".join(filter(None, parts))[: 2 * TEXT_CHARS]}

    def matches(self, code: str) -> list[str]:
        """Return what code may go on with, whole names, the best first."""
        reply = self._kernel.do_complete(code, len(code))
        return [str(match)[:NAME_CHARS] for match in reply["matches"][:NAMES]]


def head_of(value: Any, kind: type, shell: Any) -> str:
    """Return what a value looks like: the first rows of a table, else its text."""
    package = kind.__module__.split(".")[0]
    if package == "pandas" and hasattr(value, "head"):
        rows = value.head(ROWS)
        shown = rows.to_string(max_cols=WIDTH, max_colwidth=60) if value.ndim == 2 else str(rows)
        types: dict[Any, Any] = value.dtypes.astype(str).to_dict() if value.ndim == 2 else {}
        listed = ", ".join(f"{column} {types[column]}" for column in list(types)[:NAMES])
        return f"{listed}\n{shown}".strip()[:TEXT_CHARS]
    if package == "polars" and hasattr(value, "head"):
        return str(value.head(ROWS))[:TEXT_CHARS]
    if callable(value) or inspect.ismodule(value):
        return type_name(kind)
    text = shell.display_formatter.format(value, include={"text/plain"})[0].get("text/plain", "")
    return str(text)[:TEXT_CHARS]


def signature_of(value: Any) -> str:
    """Return how something is called; empty: nobody knows."""
    try:
        return str(inspect.signature(value))
    except (TypeError, ValueError):
        return ""


def reason_of(error: BaseException) -> str:
    """Say why there is no answer."""
    return f"{type(error).__name__}: {error}"
