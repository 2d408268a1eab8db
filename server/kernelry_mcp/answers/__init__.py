"""What is said to a client: text, pictures, links, and the waiting for it."""

from kernelry_mcp.answers.links import ARTIFACT_SCHEME, FILE_BYTES, SCHEME, artifact_uri, uri_of
from kernelry_mcp.answers.pictures import IMAGES_TOTAL, Limits, fitted, is_raster
from kernelry_mcp.answers.rendering import Rendered, page, render
from kernelry_mcp.answers.saved import checkpoint_info, left_out, left_out_text, restored_text
from kernelry_mcp.answers.sessions import session_info
from kernelry_mcp.answers.waiting import asked_before, wait_and_ask, wait_for

__all__ = [
    "ARTIFACT_SCHEME",
    "FILE_BYTES",
    "IMAGES_TOTAL",
    "SCHEME",
    "Limits",
    "Rendered",
    "artifact_uri",
    "asked_before",
    "checkpoint_info",
    "fitted",
    "is_raster",
    "left_out",
    "left_out_text",
    "page",
    "render",
    "restored_text",
    "session_info",
    "uri_of",
    "wait_and_ask",
    "wait_for",
]
