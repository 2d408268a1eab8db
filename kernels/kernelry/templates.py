"""Named presets for sessions: what they are called like, have installed, and run first."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kernelry.errors import InvalidArgumentError
from kernelry.models import SessionSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """What a session has that is made from it; what the caller says goes first."""

    #: one line, for a session that is given none
    description: str = ""
    #: words that are added to the session's
    tags: tuple[str, ...] = ()
    #: key-value pairs that the session has besides its own
    metadata: dict[str, Any] = field(default_factory=dict)
    #: PEP 508 strings that are installed when it is created
    packages: tuple[str, ...] = ()
    #: names of `Limits` -> lower ones than the server's
    limits: dict[str, float] = field(default_factory=dict)
    #: code that each of its kernels runs first
    startup: str = ""


def applied(templates: Mapping[str, Template], spec: SessionSpec) -> SessionSpec:
    """Return what is asked of a session, with what its template adds.

    Raises:
        InvalidArgumentError: There is no template of that name; the message lists them.
    """
    if not spec.template:
        return spec
    template = templates.get(spec.template)
    if template is None:
        known = ", ".join(sorted(templates)) or "none; the setting `templates` makes them"
        msg = f"no template {spec.template[:64]!r}. There are: {known}"
        raise InvalidArgumentError(msg)
    both = template.limits.keys() & spec.limits.keys()
    lower = {name: min(template.limits[name], spec.limits[name]) for name in both}
    return replace(
        spec,
        description=spec.description or template.description,
        tags=tuple(dict.fromkeys((*spec.tags, *template.tags))),
        metadata={**template.metadata, **spec.metadata},
        limits={**template.limits, **spec.limits, **lower},
        packages=(*template.packages, *spec.packages),
        startup="\n".join(filter(None, [template.startup, spec.startup])),
    )
