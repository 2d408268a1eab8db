"""What may be asked for as an artifact, and what is said to what may not."""

import json
import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from kernelry.errors import InvalidArgumentError
from kernelry.specs import METADATA_BYTES, TAG_CHARS, TAGS

ID = re.compile(r"art-(?:[0-9a-f]{8}){1,2}")
NAME_CHARS = 255
TYPE = re.compile(r"[a-z][a-z0-9_]{0,63}")
MIME_TYPE = re.compile(r"[!-~]{1,60}/[ -~]{1,60}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ArtifactSpec:
    """What somebody says of what shall be kept as an artifact."""

    #: what it is called; the same name again in its session makes the next version
    name: str
    #: user_input, tool_result, agent_output, system_generated, or a word of one's own; empty:
    #: that of the version before, else agent_output
    type: str = ""
    #: MIME type; empty: as name and content tell
    mime_type: str = ""
    #: words to find it by; None: those of the version before
    tags: tuple[str, ...] | None = None
    #: free key-value pairs
    metadata: dict[str, Any] = field(default_factory=dict)


def check_spec(spec: ArtifactSpec) -> None:
    """Refuse what an artifact can't be called or carry.

    Raises:
        InvalidArgumentError: With what to do instead.
    """
    name, shown = spec.name, repr(spec.name[:64])
    if not 1 <= len(name) <= NAME_CHARS or not name.isprintable():
        msg = f"an artifact's name has 1 to {NAME_CHARS} printable characters, not {shown}"
        raise InvalidArgumentError(msg)
    if ID.fullmatch(name):
        raise InvalidArgumentError(f"{shown} is how ids look; choose another name")
    if spec.type and not TYPE.fullmatch(spec.type):
        msg = (
            f"{spec.type[:64]!r} can't be a type. Use user_input, tool_result, agent_output, "
            "system_generated, or a word of your own of small letters, digits and '_'."
        )
        raise InvalidArgumentError(msg)
    if spec.mime_type and not MIME_TYPE.fullmatch(spec.mime_type):
        raise InvalidArgumentError(f"{spec.mime_type[:64]!r} is no MIME type like 'text/csv'")
    tags = spec.tags or ()
    fit = all(0 < len(tag) <= TAG_CHARS and tag.isprintable() for tag in tags)
    if len(tags) > TAGS or not fit:
        raise InvalidArgumentError(f"at most {TAGS} tags of 1 to {TAG_CHARS} characters, please")
    with suppress(ValueError, TypeError, RecursionError):
        if len(json.dumps(spec.metadata, allow_nan=False)) <= METADATA_BYTES:
            return
    raise InvalidArgumentError(f"the metadata is no JSON or larger than {METADATA_BYTES} bytes")
