"""Drive a server with an older client; runs in that client's own environment.

    python old_client.py fastmcp|mcp SERVER

SERVER is JSON with command, args, env, cwd. Ends with 0 and one line of JSON if all is well.
"""

import asyncio
import importlib
import json
import sys
from typing import Any

CALLS: list[tuple[str, dict[str, Any]]] = [
    ("create_session", {"session_id": "old", "description": "from an old client"}),
    ("switch_session", {"session_id": "old"}),
    ("run_python_code", {"code": "1+1"}),
    ("get_kernel_health", {}),
    ("list_sessions", {}),
    ("delete_session", {"session_id": "old"}),
]


async def with_fastmcp(server: dict[str, Any]) -> dict[str, Any]:
    """Use fastmcp's client, whose `.data` must be a plain dict."""
    fastmcp = importlib.import_module("fastmcp")
    transports = importlib.import_module("fastmcp.client.transports")
    transport = transports.StdioTransport(**server, keep_alive=False)
    async with fastmcp.Client(transport) as client:
        tools = sorted(tool.name for tool in await client.list_tools())
        answers = {}
        for tool, arguments in CALLS:
            answer = await client.call_tool(tool, arguments)
            assert type(answer.data) is dict, (tool, type(answer.data))
            assert answer.data == answer.structured_content, tool
            answers[tool] = answer.data
        return {"tools": tools, **answers}


async def with_mcp(server: dict[str, Any]) -> dict[str, Any]:
    """Use the official client of version 1."""
    mcp = importlib.import_module("mcp")
    stdio = importlib.import_module("mcp.client.stdio")
    parameters = mcp.StdioServerParameters(**server)
    async with (
        stdio.stdio_client(parameters) as (read, write),
        mcp.ClientSession(read, write) as session,
    ):
        await session.initialize()
        tools = sorted(tool.name for tool in (await session.list_tools()).tools)
        answers = {}
        for tool, arguments in CALLS:
            answer = await session.call_tool(tool, arguments)
            assert not answer.isError, answer.content
            answers[tool] = answer.structuredContent
        return {"tools": tools, **answers}


def main() -> None:
    """Run and report."""
    drive = {"fastmcp": with_fastmcp, "mcp": with_mcp}[sys.argv[1]]
    report = asyncio.run(drive(json.loads(sys.argv[2])))
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
