"""Put the server together: tools, resources, and a lifespan that owns the sessions."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from mcp.server import MCPServer
from mcp.server.caching import CacheHint

import kernelry_mcp.tools  # noqa: F401  # declares the tools
from kernelry import Sessions, __version__
from kernelry_mcp.context import App, published_tools
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

INSTRUCTIONS = """\
kernelry runs Python in isolated, lasting Jupyter kernels, one per session id.
Use 'default', or create_session for each line of work; pass session_id to every tool, or
switch_session once. Variables last from call to call; files are shared under outputs/.
Long code answers status 'running' with an execution_id: go on with get_execution.
Keep large data in variables and files, print summaries. When a kernel is dead the answer
says why; restart_kernel gives a new one, without variables."""


def build_app(settings: Settings) -> MCPServer[App]:
    """Return the server; its sessions live from the start of its lifespan to the end."""
    subscriptions = Subscriptions()
    tools = published_tools(settings)

    @asynccontextmanager
    async def lifespan(server: MCPServer[App]) -> AsyncIterator[App]:
        async with Sessions(settings.config()) as sessions:
            completer.sessions = sessions
            following = asyncio.create_task(subscriptions.follow(sessions), name="subscriptions")
            try:
                yield App(sessions, settings, frozenset(tool.name for tool in tools))
            finally:
                following.cancel()
                with anyio.CancelScope(shield=True):
                    await asyncio.wait([following])

    server: MCPServer[App] = MCPServer(
        "kernelry",
        title="kernelry",
        description="Isolated Jupyter kernels, one per session id",
        instructions=INSTRUCTIONS,
        version=__version__,
        tools=tools,
        lifespan=lifespan,
        subscriptions=subscriptions.bus,
        log_level=settings.log_level,
        cache_hints={"tools/list": CacheHint(ttl_ms=LIST_TTL, scope="public")},
    )
    completer = Completer(settings.workspace.expanduser().absolute())
    completer.serve(server)
    add_resources(server, settings)
    add_session_resources(server)
    add_options(server, tools)
    add_prompts(server)
    subscriptions.serve(server)
    return server
