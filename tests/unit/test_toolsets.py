"""What the list of tools costs whoever reads it at every turn, and what may be left out."""

import json
from typing import Any

import pytest

from kernelry.errors import InvalidArgumentError
from kernelry_mcp.app import build_app
from kernelry_mcp.context import published_tools
from kernelry_mcp.links import Links
from kernelry_mcp.settings import TOOLSETS, Settings

CHARS_PER_TOKEN = 4  # of JSON; the tokenizers that we know take 4.0 to 4.5


async def tokens(**settings: object) -> int:
    """Return about how many tokens the answer to tools/list has."""
    server = build_app(Settings(**settings), Links())  # type: ignore[arg-type]
    listed = await server.list_tools()
    text = json.dumps(
        [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in listed],
        separators=(",", ":"),
    )
    return len(text) // CHARS_PER_TOKEN


async def test_the_lists_of_tools_stay_small(anyio_backend: str) -> None:
    assert await tokens() < 6_000
    assert await tokens(toolsets=["all"]) < 14_000


@pytest.mark.parametrize(("toolset", "most"), [("core", 9_000), ("all", 24_000)])
def test_what_a_model_reads_of_the_tools_stays_small(toolset: str, most: int) -> None:
    """Names, descriptions and arguments: hosts show a model no more."""
    told = [
        {"name": tool.name, "description": tool.description, "inputSchema": tool.parameters}
        for tool in published_tools(Settings(toolsets=[toolset]))
    ]
    assert len(json.dumps(told, separators=(",", ":"))) < most


#: keywords that one host or another refuses or passes over
UNKNOWN_TO_SOME = {"$ref", "$defs", "anyOf", "oneOf", "allOf", "not", "propertyNames"}
UNKNOWN_TO_SOME |= {"exclusiveMinimum", "exclusiveMaximum", "patternProperties", "const"}


def test_the_arguments_of_tools_are_described_in_the_dialect_of_all_hosts() -> None:
    def look(part: Any, place: str) -> None:
        if isinstance(part, dict):
            assert not part.keys() & UNKNOWN_TO_SOME, place
            assert not isinstance(part.get("type"), list), place
            assert part.get("type") != "null", place
            for name, one in part.items():
                look(one, f"{place}.{name}")
        elif isinstance(part, list):
            for one in part:
                look(one, place)

    for tool in published_tools(Settings(toolsets=["all"])):
        assert tool.parameters["type"] == "object"
        look(tool.parameters, tool.name)
        for name, parameter in tool.parameters.get("properties", {}).items():
            assert "type" in parameter or name in ANYTHING, f"{tool.name}: {name}"


#: parameters that take values of any kind, or of several
ANYTHING = {"data", "since", "until"}


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
