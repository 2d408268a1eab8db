"""What is said to a client: text, pictures, links, and the waiting for it."""

from kernelry_mcp.answers.folding import fitting
from kernelry_mcp.answers.links import ARTIFACT_SCHEME, FILE_BYTES, SCHEME, artifact_uri, uri_of
from kernelry_mcp.answers.looking import Look, Newest, look_at, newest, with_code
from kernelry_mcp.answers.pictures import IMAGES_TOTAL, Limits, fitted, is_raster
from kernelry_mcp.answers.rendering import Answered, Rendered, answered_by, render
from kernelry_mcp.answers.saved import checkpoint_info, left_out, left_out_text, restored_text
from kernelry_mcp.answers.sessions import memory_in, session_info, session_line
from kernelry_mcp.answers.waiting import asked_before, wait_and_ask, wait_for

__all__ = [
    "ARTIFACT_SCHEME",
    "FILE_BYTES",
    "IMAGES_TOTAL",
    "SCHEME",
    "Answered",
    "Limits",
    "Look",
    "Newest",
    "Rendered",
    "answered_by",
    "artifact_uri",
    "asked_before",
    "checkpoint_info",
    "fitted",
    "fitting",
    "is_raster",
    "left_out",
    "left_out_text",
    "look_at",
    "memory_in",
    "newest",
    "render",
    "restored_text",
    "session_info",
    "session_line",
    "uri_of",
    "wait_and_ask",
    "wait_for",
    "with_code",
]
