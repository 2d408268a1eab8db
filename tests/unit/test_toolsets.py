"""What the list of tools costs whoever reads it at every turn, and what may be left out."""

import json

import pytest

from kernelry.errors import InvalidArgumentError
from kernelry_mcp.app import build_app
from kernelry_mcp.context import published_tools
from kernelry_mcp.settings import TOOLSETS, Settings

CHARS_PER_TOKEN = 4  # of JSON; the tokenizers that we know take 4.0 to 4.5


async def tokens(**settings: object) -> int:
    """Return about how many tokens the answer to tools/list has."""
    server = build_app(Settings(**settings))  # type: ignore[arg-type]
    listed = await server.list_tools()
    text = json.dumps(
        [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in listed],
        separators=(",", ":"),
    )
    return len(text) // CHARS_PER_TOKEN


async def test_the_lists_of_tools_stay_small(anyio_backend: str) -> None:
    assert await tokens() < 6_000
    assert await tokens(toolsets=["all"]) < 14_000


def test_every_tool_tells_a_model_when_to_use_it() -> None:
    for tool in published_tools(Settings(toolsets=["all"])):
        assert 0 < len(tool.description) < 1024, tool.name
        assert tool.title, tool.name
        assert tool.annotations is not None, tool.name
        for name, parameter in tool.parameters.get("properties", {}).items():
            assert parameter.get("description"), f"{tool.name}: {name}"


def test_tools_can_be_left_out() -> None:
    names = {tool.name for tool in published_tools(Settings())}
    fewer = {tool.name for tool in published_tools(Settings(exclude_tools=["run_script"]))}
    assert names - fewer == {"run_script"}
    with pytest.raises(InvalidArgumentError, match="there is no tool 'fly'"):
        published_tools(Settings(exclude_tools=["fly"]))


def test_a_server_that_only_reads_has_no_tool_that_changes_anything() -> None:
    offered = published_tools(Settings(toolsets=["all"], read_only=True))
    assert offered
    assert all(tool.annotations and tool.annotations.read_only_hint for tool in offered)
    assert len(TOOLSETS) > 1
