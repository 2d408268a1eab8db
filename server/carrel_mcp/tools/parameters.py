"""Parameters that several tools have."""

from typing import Annotated, TypeAlias

from pydantic import Field

PAGE_CHARS = 40_000  # longest page

SessionId: TypeAlias = Annotated[
    str | None, Field(description="Session to use; default: the one last switched to")
]
Wait: TypeAlias = Annotated[
    float | None,
    Field(
        ge=0,
        le=3600,
        allow_inf_nan=False,
        description="Seconds to wait for the end before answering 'running'; 0: answer at once; "
        "default: the server's setting (30)",
    ),
]
Timeout: TypeAlias = Annotated[
    float | None,
    Field(
        gt=0,
        le=30 * 86400,
        allow_inf_nan=False,
        description="Seconds after which the cell is interrupted; default: no limit",
    ),
]
