"""Parameters that several tools have."""

from datetime import UTC, datetime
from typing import Annotated, TypeAlias

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

PAGE_CHARS = 40_000  # longest page

SessionId: TypeAlias = Annotated[
    str | None, Field(description="Default: the session last switched to")
]
Wait: TypeAlias = Annotated[
    float | None,
    Field(
        ge=0,
        le=3600,
        allow_inf_nan=False,
        description="Seconds to wait before answering 'running'; default: the server's (30)",
    ),
]
EffectWait: TypeAlias = Annotated[
    float, Field(ge=0, le=3600, allow_inf_nan=False, description="Seconds to wait for the effect")
]
Timeout: TypeAlias = Annotated[
    float | None,
    Field(
        gt=0,
        le=30 * 86400,
        allow_inf_nan=False,
        description="Interrupt it after so many seconds; default: never",
    ),
]


def moment(value: float | str | None) -> datetime | None:
    """Return a time that is given as epoch seconds or in ISO 8601; UTC if it has no zone.

    Raises:
        PydanticCustomError: It is neither.
    """
    if value is None:
        return None
    try:
        if isinstance(value, str):
            try:
                at = datetime.fromisoformat(value)
            except ValueError:
                at = datetime.fromtimestamp(float(value), UTC)
        else:
            at = datetime.fromtimestamp(value, UTC)
        return at if at.tzinfo else at.replace(tzinfo=UTC)
    except (TypeError, ValueError, OverflowError, OSError) as error:
        msg = "not a time; pass epoch seconds or ISO 8601, like 2026-01-31T12:00:00Z"
        raise PydanticCustomError("moment", msg) from error


Moment: TypeAlias = Annotated[
    datetime | None,
    BeforeValidator(moment, json_schema_input_type=float | str | None),
    Field(description="Epoch seconds, or ISO 8601 (UTC if not said)"),
]
