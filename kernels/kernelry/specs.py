"""What may be asked for: ids, descriptions, code; and what is said to what may not."""

import json
import re
from collections.abc import Collection, Iterable
from typing import Any

from kernelry.errors import InvalidArgumentError, LimitExceededError, SessionExistsError
from kernelry.models import SessionSpec

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
DESCRIPTION_CHARS = 1000
TAGS = 50  # tags of one session
TAG_CHARS = 64
METADATA_BYTES = 16 << 10
CODE_BYTES = 4 << 20


def check_spec(spec: SessionSpec) -> None:
    """Refuse what a session can't be called or carry.

    Raises:
        InvalidArgumentError: With what to do instead.
    """
    if spec.id and not ID.fullmatch(spec.id):
        msg = (
            f"{spec.id[:64]!r} can't be a session id. Use 1 to 64 letters, digits, '_', '-' and "
            "'.', beginning with a letter or digit, like 'data_cleaning'."
        )
        raise InvalidArgumentError(msg)
    if len(spec.description) > DESCRIPTION_CHARS:
        raise InvalidArgumentError(f"the description is longer than {DESCRIPTION_CHARS} characters")
    for words in (spec.description, *spec.tags):
        check_text("a description or tag", words)
    if len(spec.tags) > TAGS or any(not tag or len(tag) > TAG_CHARS for tag in spec.tags):
        raise InvalidArgumentError(f"at most {TAGS} tags of 1 to {TAG_CHARS} characters, please")
    for what, values in (("metadata", spec.metadata), ("context", spec.context)):
        check_values(what, values)


def check_text(what: str, text: str) -> None:
    """Refuse text that can't be kept.

    Raises:
        InvalidArgumentError: It holds half a character.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        msg = f"{what} holds a lone surrogate at position {error.start}, which is no character"
        raise InvalidArgumentError(msg) from error


def check_values(what: str, values: dict[str, Any]) -> None:
    """Refuse values by name that can't be kept.

    Raises:
        InvalidArgumentError: They are no JSON, or too large.
    """
    try:
        size = len(json.dumps(values, allow_nan=False, ensure_ascii=False).encode("utf-8"))
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"the {what} is no JSON: {error}") from error
    if size > METADATA_BYTES:
        raise InvalidArgumentError(f"the {what} has {size} bytes, the limit is {METADATA_BYTES}")


def check_parent(spec: SessionSpec, ancestors: Iterable[str]) -> None:
    """Refuse a session that would be its own ancestor.

    Args:
        spec: What it shall be.
        ancestors: Its parent, the parent of that, and so on.

    Raises:
        InvalidArgumentError: It would.
    """
    if spec.id and spec.id in ancestors:
        parent = spec.parent_session_id
        msg = f"session '{spec.id}' can't be made for '{parent}': that was made for it"
        raise InvalidArgumentError(msg)


def check_code(code: str) -> None:
    """Refuse code that can't be sent to a kernel.

    Raises:
        InvalidArgumentError: It is too long, or no text; with what to do instead.
    """
    try:
        size = len(code.encode("utf-8"))
    except UnicodeEncodeError as error:
        msg = (
            f"the code holds a lone surrogate at position {error.start}, which is no character."
            r" Write it as an escape ('\ud800') inside a Python string."
        )
        raise InvalidArgumentError(msg) from error
    if size > CODE_BYTES:
        msg = (
            f"the code has {size} bytes, the limit is {CODE_BYTES}. "
            "Save data to a file and read it in the code."
        )
        raise InvalidArgumentError(msg)


def check_room(session_id: str, *, reserved: Collection[str], existing: int, limit: int) -> None:
    """Refuse a session that there is no room for, or whose id is just being taken or freed.

    Args:
        session_id: The id it shall have.
        reserved: Ids of sessions that are being created or deleted.
        existing: How many sessions there are besides these.
        limit: How many there may be.

    Raises:
        LimitExceededError: There are as many as there may be.
        SessionExistsError: The id is in use for the moment.
    """
    if session_id in reserved:
        msg = f"session '{session_id}' is being created or deleted right now; try again"
        raise SessionExistsError(msg)
    if existing + len(reserved) >= limit:
        msg = (
            f"there are {limit} sessions, the limit of this server (max_sessions). "
            "Delete one that is not needed with delete_session."
        )
        raise LimitExceededError(msg)
