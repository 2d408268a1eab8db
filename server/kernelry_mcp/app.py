"""Put the server together: tools, resources, and a lifespan that owns the sessions."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from mcp.server import MCPServer
from mcp.server.caching import CacheHint

import kernelry_mcp.tools  # noqa: F401  # declares the tools
from kernelry import Sessions, __version__
from kernelry.config import interpreter
from kernelry_mcp.context import App, published_tools
from kernelry_mcp.instructions import instructions
from kernelry_mcp.links import Links
from kernelry_mcp.resources import (
    Completer,
    Subscriptions,
    add_options,
    add_prompts,
    add_resources,
    add_session_resources,
)
from kernelry_mcp.settings import Settings

LIST_TTL = 60_000  # milliseconds a client may keep our lists; they never change in one server


def build_app(settings: Settings, links: Links) -> MCPServer[App]:
    """Return the server; its sessions live from the start of its lifespan to the end.

    Args:
        settings: How it is set up.
        links: Those to files that it gives.
    """
    subscriptions = Subscriptions()
    tools = published_tools(settings)
    offered = frozenset(tool.name for tool in tools)
    workspace = settings.workspace.expanduser().absolute()

    @asynccontextmanager
    async def lifespan(server: MCPServer[App]) -> AsyncIterator[App]:
        async with Sessions(settings.config()) as sessions:
            completer.sessions = sessions
            following = asyncio.create_task(subscriptions.follow(sessions), name="subscriptions")
            try:
                yield App(sessions, settings, offered, links)
            finally:
                following.cancel()
                with anyio.CancelScope(shield=True):
                    await asyncio.wait([following])

    server: MCPServer[App] = MCPServer(
        "kernelry",
        title="kernelry",
        description="Isolated Jupyter kernels, one per session id",
        instructions=instructions(interpreter(settings.config().python), workspace, offered),
        version=__version__,
        tools=tools,
        lifespan=lifespan,
        subscriptions=subscriptions.bus,
        log_level=settings.log_level,
        cache_hints={"tools/list": CacheHint(ttl_ms=LIST_TTL, scope="public")},
    )
    completer = Completer(workspace)
    completer.serve(server)
    add_resources(server, settings)
    add_session_resources(server)
    add_options(server, tools)
    add_prompts(server)
    subscriptions.serve(server)
    return server
