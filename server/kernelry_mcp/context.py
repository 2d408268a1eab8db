"""What a tool is given: the service, the settings, and how tools are declared."""

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp.types import CallToolResult, InputRequiredResult, ToolAnnotations
from pydantic import Field, ValidationError

from kernelry import Sessions
from kernelry.errors import InvalidArgumentError, KernelDeadError, KernelryError
from kernelry_mcp.arguments import Arguments, as_meant, explain, plain
from kernelry_mcp.errors import after_death, error_result, without_ways
from kernelry_mcp.links import Links
from kernelry_mcp.settings import Settings

OPTIONS = "options://{tool}"  # the resource that describes a tool's options
ToolFunction: TypeAlias = Callable[..., Awaitable[CallToolResult | InputRequiredResult]]


@dataclass(frozen=True, slots=True)
class App:
    """What lives as long as the server."""

    #: the service
    sessions: Sessions
    #: how it was set up
    settings: Settings
    #: the tools that it offers; no answer names another one
    offered: frozenset[str]
    #: the links to files that it gives
    links: Links


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
    #: parameters that are seldom needed: given by name in one object, `options`
    options: tuple[str, ...] = ()


_declared: list[tuple[ToolFunction, Declaration]] = []


def tool(declaration: Declaration) -> Callable[[ToolFunction], ToolFunction]:
    """Declare the decorated coroutine function as a tool; its docstring is the description."""

    def declare(function: ToolFunction) -> ToolFunction:
        reporting = reporting_errors(function)
        _declared.append((reporting, declaration))
        return reporting

    return declare


def reporting_errors(function: ToolFunction) -> ToolFunction:
    """Make a tool answer kernelry's errors instead of raising them, with ways that are on offer.

    Whoever finds a session without its kernel is told what that left.
    """

    @functools.wraps(function)
    async def reporting(ctx: Ctx, *args: Any, **kwargs: Any) -> Any:
        try:
            return await function(ctx, *args, **kwargs)
        except KernelDeadError as error:
            app, name = app_of(ctx), error.session_id
            if not name:
                return error_result(error, ways(app, str(error)))
            left = await after_death(app.sessions, name, app.offered)
            why = app.sessions.get(name).death
            return error_result(error, f"the kernel of session '{name}' is dead ({why}). {left}")
        except KernelryError as error:
            return error_result(error, ways(app_of(ctx), str(error)))

    return reporting


def ways(app: App, text: str) -> str:
    """Return an advice without what names a tool that is not on offer."""
    declared = {function.__name__ for function, _ in _declared}
    return without_ways(text, declared - app.offered)


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
        tool.parameters = published(tool)
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


def published(tool: Tool) -> dict[str, Any]:
    """Return the schema of a tool's arguments as clients see it."""
    schema = plain(tool.parameters)
    if options := options_of(tool):
        properties = schema["properties"]
        for name in options:
            del properties[name]
        named = f"More: {', '.join(options)}; see {OPTIONS.format(tool=tool.name)}"
        properties["options"] = {"type": "object", "description": named}
    return schema


def options_of(tool: Tool) -> dict[str, dict[str, Any]]:
    """Return the schemas of what a tool takes in `options`, by name."""
    return tool.options if isinstance(tool, CheckedTool) else {}


class CheckedTool(Tool):
    """A tool that names the argument it can't use, and what it could be."""

    #: name -> schema, of what may be given in `options`
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)

    async def run(
        self, arguments: dict[str, Any], context: Any, convert_result: bool = False
    ) -> Any:
        """Run the tool; arguments that don't fit are answered in one line."""
        try:
            arguments = self.with_options(arguments)
        except InvalidArgumentError as error:
            return error_result(error)
        try:
            return await super().run(arguments, context, convert_result)
        except ToolError as error:
            if isinstance(error.__cause__, ValidationError):
                return error_result(InvalidArgumentError(explain(error.__cause__)))
            raise

    def with_options(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments with those that were given in `options`, all of them known.

        Raises:
            InvalidArgumentError: One is not known, or given twice.
        """
        known = [*self.parameters.get("properties", {}), *self.options]
        if unknown := sorted(set(arguments) - set(known)):
            msg = f"{self.name} has no parameter {unknown[0]!r}; it has: {', '.join(known)}"
            raise InvalidArgumentError(msg)
        if not self.options or "options" not in arguments:
            return arguments
        given = {name: value for name, value in arguments.items() if name != "options"}
        options = arguments["options"]
        if isinstance(options, str):
            options = as_meant(options, {dict}) if options else {}
        if not isinstance(options, dict | None):
            raise InvalidArgumentError(f"options: an object is wanted (given: {options!r:.80})")
        for name, value in (options or {}).items():
            if name not in self.options:
                has = "; ".join(f"{one}: {it['description']}" for one, it in self.options.items())
                raise InvalidArgumentError(f"there is no option {name!r}. There are: {has}")
            if name in given:
                raise InvalidArgumentError(f"{name} is given twice, once in options")
            given[name] = value
        return given


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
    properties = plain(made.parameters).get("properties", {})
    assert isinstance(made, CheckedTool)
    made.options = {name: properties[name] for name in declaration.options}
    return made
