"""What tools are given: described in a dialect that all hosts take, read as it is meant.

Hosts differ in what they make of a schema, and models in how they say "not given". So schemas have
no references, no alternatives with null and no keywords of newer drafts; and for each
parameter that may be left out, null and "" mean that it was. Lists and objects may come as JSON.
"""

import json
from typing import Any, get_args, get_origin

from mcp.server.mcpserver.utilities.func_metadata import FuncMetadata
from pydantic import ValidationError

NULL = {"type": "null"}
#: keywords that some hosts don't know -> what says nearly the same; what is said is checked anyway
NEARLY = {"exclusiveMinimum": "minimum"}
#: defaults that a parameter which may be left out has anyway
UNSAID: tuple[Any, ...] = (None, "", False)
#: annotations that say nothing to a model, what the name says, or what an error says soon enough
SILENT = ("title", "additionalProperties", "maxLength", "maximum", "exclusiveMaximum")


class Arguments(FuncMetadata):
    """The arguments of a tool, as they are meant.

    The SDK reads JSON in strings, for clients that send lists like that, also where a string is
    what is wanted but may be left out: `content='{"a": 1}'` would be no text any more.
    """

    def pre_parse_json(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments without those that are not given, lists and objects read."""
        fields = self.arg_model.model_fields
        read = {}
        for name, value in data.items():
            field = fields.get(name)
            if field is None:
                read[name] = value
            elif field.is_required() or value not in (None, ""):
                is_text = isinstance(value, str)
                read[name] = as_meant(value, kinds_of(field.annotation)) if is_text else value
        return read


def as_meant(text: str, kinds: set[Any]) -> Any:
    """Return what a text stands for where a value of some kinds is wanted.

    Args:
        text: What was sent.
        kinds: Types, of which str is one where text can be meant.
    """
    wanted = tuple(kinds & {list, dict, tuple, set})
    looks_so = text.lstrip().startswith(("[", "{"))
    is_json = looks_so if wanted or Any in kinds else str not in kinds
    if not is_json:
        return text
    try:
        value = json.loads(text)
    except ValueError:
        return text  # which is refused with what is wanted instead
    return value if not wanted or isinstance(value, wanted) else text


def kinds_of(annotation: Any) -> set[Any]:
    """Return the types that an annotation allows, without what they have in them."""
    origin = get_origin(annotation)
    if origin in (list, dict, tuple, set):
        return {origin}
    if origin is not None and (parts := get_args(annotation)):
        if isinstance(parts[0], str):  # a Literal
            return {str}
        return set().union(*(kinds_of(part) for part in parts))
    if isinstance(annotation, type) and issubclass(annotation, str):
        return {str}
    return {annotation}


def explain(error: ValidationError) -> str:
    """Say which arguments don't fit, without a validator's jargon."""
    parts = []
    for item in error.errors():
        name = ".".join(str(part) for part in item["loc"])
        given = "" if item["type"] == "missing" else f" (given: {str(item['input'])[:80]!r})"
        parts.append(f"{name}: {item['msg']}{given}")
    return "; ".join(parts)


def plain(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a tool's arguments in a dialect that all hosts take."""
    definitions = schema.get("$defs", {})
    made: dict[str, Any] = _plain(schema, definitions)
    return made


def _plain(part: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(part, list):
        return [_plain(item, definitions) for item in part]
    if not isinstance(part, dict):
        return part
    if (reference := part.get("$ref")) is not None:
        own = {key: value for key, value in part.items() if key != "$ref"}
        named = {**definitions[reference.rpartition("/")[2]]}
        named.pop("description", None)  # of the type; the parameter's own says what it is for
        return _plain(named | own, definitions)
    if (choices := part.get("anyOf")) is not None:
        left = [choice for choice in choices if choice != NULL]
        own = {key: value for key, value in part.items() if key != "anyOf"}
        # More than one is told by the description: it is read as what fits.
        return _plain((left[0] if len(left) == 1 else {}) | own, definitions)
    made = {}
    names = part.get("propertyNames", {}).get("enum", ())
    for key, value in part.items():
        if key in ("$defs", "propertyNames") or (key in SILENT and not isinstance(value, dict)):
            continue
        if key == "default" and value in UNSAID:
            continue
        if key == "properties":
            made[key] = {name: _plain(one, definitions) for name, one in value.items()}
        elif key == "additionalProperties":
            if names:
                made["properties"] = {name: _plain(value, definitions) for name in names}
        else:
            made[NEARLY.get(key, key)] = _plain(value, definitions)
    return made
