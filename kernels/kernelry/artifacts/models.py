"""What an artifact is, and which ones are asked for."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from kernelry.models import now


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """Named, typed data of a session; the content is found by its hash."""

    #: unique for ever
    id: str
    #: the session it belongs to
    session_id: str
    #: the execution that it is output of; empty: somebody stored it
    execution_id: str = ""
    #: what it is called
    name: str
    #: how many of this name its session had, itself included
    version: int = 1
    #: id of the version before; empty: there was none
    previous: str = ""
    #: user_input, tool_result, agent_output, system_generated, or a word of somebody's own
    type: str
    #: MIME type
    mime_type: str
    #: bytes
    size: int
    #: words to find it by
    tags: tuple[str, ...] = ()
    #: free key-value pairs
    metadata: dict[str, Any] = field(default_factory=dict)
    #: BLAKE3 of the content
    hash: str
    #: when it was stored
    created_at: datetime = field(default_factory=now)


@dataclass(frozen=True, kw_only=True, slots=True)
class ArtifactQuery:
    """Which artifacts are meant: those that fit all of this."""

    #: of this session; empty: of any
    session_id: str = ""
    #: output of this execution; empty: any, or none
    execution_id: str = ""
    #: of this type; empty: of any
    type: str = ""
    #: with all of these tags
    tags: tuple[str, ...] = ()
    #: glob that the name must match; empty: all do
    name: str = ""
    #: not stored before; None: at any time
    since: datetime | None = None
    #: not stored after; None: at any time
    until: datetime | None = None
    #: bytes that it has at least; None: any number
    min_size: int | None = None
    #: bytes that it has at most; None: any number
    max_size: int | None = None
