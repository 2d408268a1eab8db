"""What clients read besides calling tools: resources, subscriptions, completions, prompts."""

from kernelry_mcp.resources.completions import Completer
from kernelry_mcp.resources.files import add_resources
from kernelry_mcp.resources.options import add_options
from kernelry_mcp.resources.prompts import add_prompts
from kernelry_mcp.resources.sessions import add_session_resources
from kernelry_mcp.resources.subscriptions import Subscriptions

__all__ = [
    "Completer",
    "Subscriptions",
    "add_options",
    "add_prompts",
    "add_resources",
    "add_session_resources",
]
