"""What a tool is given: the service, the settings, and how tools are declared."""

import inspect
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias, get_args

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import FuncMetadata
from mcp.types import CallToolResult, InputRequiredResult, ToolAnnotations
from pydantic import ValidationError

from kernelry import Sessions
from kernelry.errors import InvalidArgumentError
from kernelry_mcp.errors import error_result, reporting_errors
from kernelry_mcp.settings import Settings

ToolFunction: TypeAlias = Callable[..., Awaitable[CallToolResult | InputRequiredResult]]


@dataclass(frozen=True, slots=True)
class App:
    """What lives as long as the server."""

    #: the service
    sessions: Sessions
    #: how it was set up
    settings: Settings


Ctx: TypeAlias = Context[App, Any]


def app_of(ctx: Ctx) -> App:
    """Return what lives as long as the server."""
    return ctx.request_context.lifespan_context


@dataclass(frozen=True, kw_only=True, slots=True)
class Declaration:
    """What is published of a tool besides its schema."""

    #: what a person sees
    title: str
    #: the set it belongs to
    toolset: str
    #: it changes nothing
    read_only: bool = False
    #: it may destroy something
    destructive: bool = False
    #: calling it twice is like calling it once
    idempotent: bool = False
    #: it reaches beyond this machine's sessions
    open_world: bool = False


_declared: list[tuple[ToolFunction, Declaration]] = []


def tool(declaration: Declaration) -> Callable[[ToolFunction], ToolFunction]:
    """Declare the decorated coroutine function as a tool; its docstring is the description."""

    def declare(function: ToolFunction) -> ToolFunction:
        reporting = reporting_errors(function)
        _declared.append((reporting, declaration))
        return reporting

    return declare


def declared_tools(toolsets: Iterable[str], *, read_only: bool) -> list[Tool]:
    """Return the tools of `toolsets`, in the order of their declaration."""
    wanted = set(toolsets)
    return [
        make_tool(function, declaration)
        for function, declaration in _declared
        if declaration.toolset in wanted and (declaration.read_only or not read_only)
    ]


def published_tools(settings: Settings) -> list[Tool]:
    """Return the tools that a server offers, with schemas that say everything once.

    A model reads the list at every turn. Titles repeat the names, and what the fields of a
    result mean is in docs/reference.md and, where it matters, in the answer's text.

    Raises:
        InvalidArgumentError: A tool that is to be left out does not exist.
    """
    tools = declared_tools(settings.toolsets, read_only=settings.read_only)
    excluded = set(settings.exclude_tools)
    known = {function.__name__ for function, _ in _declared}
    if unknown := sorted(excluded - known):
        raise InvalidArgumentError(f"exclude_tools: there is no tool {unknown[0]!r}")
    offered = [tool for tool in tools if tool.name not in excluded]
    for tool in offered:
        tool.parameters = without(tool.parameters, "title")
        schema = tool.fn_metadata.output_schema
        tool.fn_metadata.output_schema = without(schema, "title", "description")
    return offered


def without(schema: Any, *names: str) -> Any:
    """Return a JSON schema without some annotations; properties of these names stay."""
    if isinstance(schema, dict):
        return {
            key: without(value, *names)
            for key, value in schema.items()
            if not (key in names and isinstance(value, str))
        }
    return [without(item, *names) for item in schema] if isinstance(schema, list) else schema


class Arguments(FuncMetadata):
    """The arguments of a tool, with the text that was sent as text.

    The SDK reads JSON in strings, for clients that send lists like that, also where a string is
    what is wanted but may be left out: `content='{"a": 1}'` would be no text any more.
    """

    def pre_parse_json(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments, lists and objects read from JSON where text can't be meant."""
        fields = self.arg_model.model_fields
        texts = {name for name, field in fields.items() if str in get_args(field.annotation)}
        return super().pre_parse_json(data) | {
            name: value for name, value in data.items() if name in texts
        }


class CheckedTool(Tool):
    """A tool that names the argument it can't use, and what it could be."""

    async def run(
        self, arguments: dict[str, Any], context: Any, convert_result: bool = False
    ) -> Any:
        """Run the tool; arguments that don't fit are answered in one line."""
        known = self.parameters.get("properties", {})
        unknown = sorted(set(arguments) - set(known))
        if unknown:
            msg = f"{self.name} has no parameter {unknown[0]!r}; it has: {', '.join(known)}"
            return error_result(InvalidArgumentError(msg))
        try:
            return await super().run(arguments, context, convert_result)
        except ToolError as error:
            if isinstance(error.__cause__, ValidationError):
                return error_result(InvalidArgumentError(explain(error.__cause__)))
            raise


def explain(error: ValidationError) -> str:
    """Say which arguments don't fit, without a validator's jargon."""
    parts = []
    for item in error.errors():
        name = ".".join(str(part) for part in item["loc"])
        given = "" if item["type"] == "missing" else f" (given: {str(item['input'])[:80]!r})"
        parts.append(f"{name}: {item['msg']}{given}")
    return "; ".join(parts)


def make_tool(function: ToolFunction, declaration: Declaration) -> Tool:
    """Return a declared function as the SDK's tool."""
    made = CheckedTool.from_function(
        function,
        title=declaration.title,
        description=inspect.cleandoc(function.__doc__ or ""),
        # What is not said is: changes things, may destroy, not idempotent, open world.
        annotations=ToolAnnotations(
            read_only_hint=declaration.read_only or None,
            destructive_hint=declaration.destructive,
            idempotent_hint=declaration.idempotent or None,
            open_world_hint=declaration.open_world,
        ),
    )
    made.fn_metadata = Arguments(**dict(made.fn_metadata))
    return made
