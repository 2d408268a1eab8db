"""The base of what tools return, as a schema.

The root of each is ``type: object`` + ``allOf: [typed]``: `fastmcp.Client` then gives
``.data`` as a plain dict, which the workflows of our users are written against, and every
other client still gets the types (verified in reference/mcp.md section 2).
"""

from mcp.types import CallToolResult, ContentBlock, TextContent
from pydantic import BaseModel, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


class ToolResult(BaseModel):
    """Base of what a tool returns."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Wrap the model's own schema; see the module's text."""
        schema = handler(core_schema)
        root = handler.resolve_ref_schema(schema)
        body = dict(root)
        root.clear()
        root.update(type="object", title=body.get("title", cls.__name__))
        if "description" in body:
            root["description"] = body.pop("description")
        root["allOf"] = [body]
        return schema

    def answer(self, text: str, *blocks: ContentBlock) -> CallToolResult:
        """Return the tool's result with `text` for the model."""
        return CallToolResult(
            content=[TextContent(type="text", text=text), *blocks],
            structured_content=self.model_dump(mode="json"),
        )
