"""What is told of a line that is no message, without parsing it."""

import json
import time
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kernelry_mcp.transports.wire import TOKENS, outline, refusal

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
HANG = 60  # seconds after which a test is stuck
OBJECTS = st.dictionaries(st.sampled_from(["id", "method", "params", "x"]) | st.text(), VALUES)


def depth_of(value: Any) -> int:
    """Return how many levels of brackets a value is written with."""
    if isinstance(value, (list, dict)):
        inner = value.values() if isinstance(value, dict) else value
        return 1 + max(map(depth_of, inner), default=0)
    return 0


@given(OBJECTS, st.booleans(), st.sampled_from([None, 2]))
def test_the_outline_agrees_with_the_parser(
    message: dict[str, Any], escaped: bool, indent: int | None
) -> None:
    line = json.dumps(message, ensure_ascii=escaped, indent=indent).encode()
    seen = outline(line)
    plain = isinstance(message.get("id"), (str, int)) and not isinstance(message["id"], bool)
    assert seen.request_id == (message["id"] if plain else None)
    assert seen.has_id == ("id" in message)
    assert seen.has_method == ("method" in message)
    assert seen.deepest == depth_of(message)
    assert seen.balanced


@given(st.binary(max_size=200))
def test_any_line_gets_an_error_in_one_line(line: bytes) -> None:
    answer = refusal(line)
    assert answer.count(b"\n") == 1
    assert json.loads(answer)["error"]["code"] in (-32700, -32600)


def test_hostile_lines_are_looked_at_in_a_bounded_time() -> None:
    """A string that does not end, looked at from each quote again, would take hours."""
    began = time.monotonic()
    for line in (b'{"' + b'\\"' * (8 << 20), b"[]" * (8 << 20), b"[" * (16 << 20), b'"' * TOKENS):
        outline(line)
    assert time.monotonic() - began < HANG
