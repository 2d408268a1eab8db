"""Resources that describe what tools take in their `options`: seldom needed, so not in the list."""

from collections.abc import Iterable
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver.tools import Tool

from kernelry_mcp.context import OPTIONS, App, options_of


def add_options(server: MCPServer[App], tools: Iterable[Tool]) -> None:
    """Offer ``options://TOOL`` for each tool that takes options."""
    for tool in tools:
        if options := options_of(tool):
            add(server, tool.name, options)


def add(server: MCPServer[App], name: str, options: dict[str, dict[str, Any]]) -> None:
    """Offer the options of one tool."""

    @server.resource(
        OPTIONS.format(tool=name),
        name=f"{name} options",
        description=f"What {name} takes in its options, each with its schema",
        mime_type="application/json",
    )
    async def described() -> dict[str, dict[str, Any]]:
        """Return the schemas, by name."""
        return options
