"""Whatever "not given" is spelled like, it means that; lists and objects may come as JSON."""

from typing import Any, Literal

import pytest
from mcp.server.mcpserver.utilities.func_metadata import func_metadata
from pydantic import BaseModel

import kernelry_mcp.tools  # noqa: F401  # declares the tools
from kernelry_mcp.arguments import Arguments, plain
from kernelry_mcp.context import CheckedTool, published_tools
from kernelry_mcp.settings import Settings


class Point(BaseModel):
    """A value with parts."""

    x: float


def tool(
    text: str,
    name: str = "",
    maybe: str | None = None,
    number: float | None = None,
    flag: bool = True,
    words: list[str] | None = None,
    either: str | list[str] | None = None,
    pairs: dict[str, int] | None = None,
    kind: Literal["a", "b"] = "a",
    point: Point | None = None,
) -> None:
    """Take arguments of all kinds."""


def read(**given: Any) -> dict[str, Any]:
    """Return the arguments as the tool gets them."""
    arguments = Arguments(**dict(func_metadata(tool)))
    parsed = arguments.pre_parse_json({"text": "t", **given})
    made = arguments.arg_model.model_validate(parsed).model_dump()
    return {name: value for name, value in made.items() if name in given}


OPTIONAL = ("name", "maybe", "number", "flag", "words", "either", "pairs", "kind", "point")


@pytest.mark.parametrize("name", OPTIONAL)
def test_null_and_nothing_mean_that_it_is_left_out(name: str) -> None:
    arguments = Arguments(**dict(func_metadata(tool)))
    left_out = arguments.arg_model.model_validate({"text": "t"}).model_dump()
    assert read(**{name: None}) == read(**{name: ""}) == {name: left_out[name]}


def test_what_has_to_be_given_may_be_empty() -> None:
    assert read(text="") == {"text": ""}


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"words": '["a", "b"]'}, {"words": ["a", "b"]}),
        ({"either": '["six"]'}, {"either": ["six"]}),
        ({"either": "six"}, {"either": "six"}),
        ({"pairs": '{"a": 1}'}, {"pairs": {"a": 1}}),
        ({"point": '{"x": 1.5}'}, {"point": {"x": 1.5}}),
        ({"number": "2.5"}, {"number": 2.5}),
        ({"flag": "false"}, {"flag": False}),
        ({"text": '{"a": 1}'}, {"text": '{"a": 1}'}),
        ({"maybe": "[1]"}, {"maybe": "[1]"}),
        ({"name": "null"}, {"name": "null"}),
        ({"kind": "b"}, {"kind": "b"}),
    ],
)
def test_json_is_read_where_text_can_not_be_meant(
    given: dict[str, Any], meant: dict[str, Any]
) -> None:
    assert read(**given) == meant


def test_a_schema_says_the_same_in_plain_words() -> None:
    schema = plain(func_metadata(tool).arg_model.model_json_schema())
    properties = schema["properties"]
    assert schema["required"] == ["text"]
    assert properties["maybe"] == {"type": "string"}
    assert properties["kind"] == {"default": "a", "enum": ["a", "b"], "type": "string"}
    assert properties["words"] == {"items": {"type": "string"}, "type": "array"}
    assert properties["point"]["properties"] == {"x": {"type": "number"}}
    assert "title" not in str(schema)


def test_options_may_be_given_by_themselves_and_no_way_else_twice() -> None:
    [create] = [t for t in published_tools(Settings()) if t.name == "create_session"]
    assert isinstance(create, CheckedTool)
    assert "fresh" not in create.parameters["properties"]
    for given in ({"fresh": True}, {"options": {"fresh": True}}, {"options": '{"fresh": true}'}):
        assert create.with_options(given) == {"fresh": True}
    empty: tuple[Any, ...] = (None, "", {})
    for nothing in empty:
        assert create.with_options({"options": nothing}) == {}
    for wrong, said in (
        ({"options": {"fast": 1}}, "there is no option 'fast'. There are: tags: "),
        ({"options": {"fresh": True}, "fresh": True}, "fresh is given twice"),
        ({"options": [1]}, "an object is wanted"),
        ({"fast": 1}, "has no parameter 'fast'"),
    ):
        with pytest.raises(Exception, match=said.replace("(", "\\(")):
            create.with_options(wrong)


ALL = {tool.name: tool for tool in published_tools(Settings(toolsets=["all"]))}


@pytest.mark.parametrize("name", ALL)
def test_no_tool_escapes_that(name: str) -> None:
    made = ALL[name].fn_metadata
    options = getattr(ALL[name], "options", {})
    for parameter, field in made.arg_model.model_fields.items():
        schema = ALL[name].parameters["properties"].get(parameter) or options[parameter]
        if not field.is_required():
            assert made.pre_parse_json({parameter: None}) == {}, parameter
            assert made.pre_parse_json({parameter: ""}) == {}, parameter
        if schema.get("type") == "array":
            assert made.pre_parse_json({parameter: '["a"]'}) == {parameter: ["a"]}
        if schema.get("type") == "object":
            assert made.pre_parse_json({parameter: '{"a": 1}'}) == {parameter: {"a": 1}}
