"""What JSON of a kernel says, made what it should be: kinds, and sizes within kernelry/bounds.py.

Nobody who reads outputs later has to ask again whether a text is a text.
"""

import json
import math
import re
from collections.abc import Mapping
from itertools import chain
from typing import Any

from kernelry import bounds
from kernelry.output.terminal import plain

#: forms that are JSON, as nbformat has it; all others are text
JSON_MIME = re.compile(r"application/(?:.*\+)?json")


def line(value: object, most: int) -> str:
    """Return what should be a name or a few words, to be shown as they are."""
    return plain(words(value, most))


def words(value: object, most: int) -> str:
    """Return what should be text, at most so many characters of it."""
    return (value if isinstance(value, str) else as_json(value, most))[:most]


def number(value: object, *, least: int = 0) -> int:
    """Return what should be a whole number, within what can be kept.

    Raises:
        ValueError: It is none.
    """
    if isinstance(value, float) and math.isinf(value):
        value = bounds.COUNT if value > 0 else least
    if not isinstance(value, int | float) or value != value:
        raise ValueError("no number")
    return max(least, min(int(value), bounds.COUNT))


def table(value: object) -> Mapping[str, Any]:
    """Return what should be an object.

    Raises:
        TypeError: It is none.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise TypeError("no object")
    return value


def lines(value: object) -> tuple[str, ...]:
    """Return what should be the parts of a traceback, as much as is kept."""
    left = bounds.TRACEBACK_CHARS
    kept: list[str] = []
    for part in (value if isinstance(value, list) else [value])[: bounds.TRACEBACK_LINES]:
        if left <= 0 or part is None:
            break
        kept.append(words(part, left))
        left -= len(kept[-1])
    return tuple(kept)


def bundle(value: object) -> dict[str, Any]:
    """Return the forms of a display: JSON where the type says so, text everywhere else.

    Raises:
        TypeError: It is no object.
    """
    kept: dict[str, Any] = {}
    for mime, form in table(value).items():
        if len(kept) == bounds.FORMS:
            break
        if len(mime) > bounds.MIME_CHARS:
            continue
        if JSON_MIME.fullmatch(mime):
            kept[mime] = finite(form)
        elif isinstance(form, str):
            kept[mime] = form
        elif isinstance(form, list) and all(isinstance(part, str) for part in form):
            kept[mime] = "".join(form)
        else:
            kept[mime] = as_json(form, bounds.IOPUB_BYTES)
    return kept


def finite(value: Any) -> Any:
    """Return the same with numbers that JSON can't say (1e999) as null."""
    try:
        json.dumps(value, allow_nan=False)  # the quickest look at all of it
        return value
    except ValueError:
        pass

    def clean(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: clean(one) for key, one in part.items()}
        if isinstance(part, list):
            return [clean(one) for one in part]
        return None if isinstance(part, float) and math.isinf(part) else part

    return clean(value)


def weight(*parts: Mapping[str, Any]) -> int:
    """Return how many values there are in the JSON of some objects."""
    total = 0
    level: list[Any] = [value for part in parts for value in part.values()]
    while level:
        total += len(level)
        lists = [one for one in level if isinstance(one, list)]
        tables = [one.values() for one in level if isinstance(one, dict)]
        level = [*chain(*lists, *tables)]
    return total


def as_json(value: object, most: int) -> str:
    """Return a value of JSON as text, at most so many characters of it."""
    return json.dumps(finite(value), ensure_ascii=False, default=str)[:most]
