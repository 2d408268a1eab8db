"""What repeats is said once, and how often."""

import time

import pytest

from kernelry_mcp.answers.folding import folded

CASES = {
    "nothing": ("a\nb\nc", "a\nb\nc"),
    "one line": ("x\n" * 2000 + "end", "x\n[the line above 1,999 more times]\nend"),
    "a group": (
        "head\n" + "frame\n  code\n" * 50 + "tail",
        "head\nframe\n  code\n[the 2 lines above 49 more times]\ntail",
    ),
    "too little": ("x\n" * 5, "x\n" * 5),
    "empty lines": ("a" + "\n" * 20 + "b", "a" + "\n" * 20 + "b"),
    "two after each other": (
        "x\n" * 10 + "y\n" * 10,
        "x\n[the line above 9 more times]\ny\n[the line above 9 more times]\n",
    ),
    "lines that differ": ("\n".join(map(str, range(100))), "\n".join(map(str, range(100)))),
}


@pytest.mark.parametrize("case", CASES)
def test_what_repeats_is_said_once_and_how_often(case: str) -> None:
    text, shown = CASES[case]
    assert folded(text) == shown


def test_no_text_takes_long() -> None:
    lines = [f"{'x' * (n % 25)}" for n in range(50_000)]
    began = time.process_time()
    folded("\n".join(lines))
    assert time.process_time() - began < 20  # a tenth of a second
