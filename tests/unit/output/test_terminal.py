"""Text is what a terminal would show at the end."""

import time

import pytest

from kernelry.output import readable

UP, ERASE = "\x1b[A", "\x1b[K"
CASES = {
    "plain": ("a\nb\n", "a\nb\n"),
    "colours": ("\x1b[31mred\x1b[0m", "red"),
    "a title and a link": ("\x1b]0;title\x07\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
    "a bar": ("".join(f"\r{n:3}%" for n in (0, 50, 100)) + "\n", "100%\n"),
    "a shorter line over a longer one": ("12345\rab", "ab345"),
    "windows' ends of lines": ("a\r\nb\r\n", "a\nb\n"),
    "backspaces": ("1%\b\b20%\b\b\b100%", "100%"),
    "a spinner": ("|\b/\b-\b\\\bdone", "done"),
    # As tqdm writes an inner bar: a line down, and up again.
    "nested bars": (
        "outer 0%\n\rinner 0%" + UP + "\n\rinner 50%" + UP + "\router 50%\n\rinner 100%\n",
        "outer 50%\ninner 100%\n",
    ),
    # As rich redraws: to the beginning, up, and each line erased.
    "a table that is drawn anew": (
        f"a 1\nb 1\n\r{ERASE}{UP}\x1b[2K{UP}\x1b[2Ka 2\nb 2\n",
        "a 2\nb 2\n",
    ),
    "the rest of a line erased": ("loading....\rdone" + ERASE, "done"),
    "all below erased": ("one\ntwo\nthree" + "\x1b[2A\r\x1b[J" + "only", "only"),
    "a column": ("abc\x1b[10Gx", "abc      x"),
    "further than there is": ("a\x1b[99A\x1b[99D\x1b[99B\rb", "b"),
    "control characters": ("a\x00b\x07c", "abc"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_text_is_shown_as_a_terminal_would_show_it(case: str) -> None:
    text, shown = CASES[case]
    assert readable(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "x" * 100_000 + "\ry" * 100_000,
        "x" * 100_000 + "\x1b[2Ky" * 40_000,
        "\x1b[999999999Cy" * 20_000,
        "x\x1b[999C\x1b[1Ky" * 20_000,
        "\n" * 50_000 + "\x1b[999A\x1b[Jy\n" * 20_000,
        "\x1b[" * 100_000,
        "\x1b]" * 100_000,
    ],
)
def test_no_text_takes_long_or_becomes_large(text: str) -> None:
    began = time.process_time()
    assert len(readable(text)) < 40 * len(text)
    assert time.process_time() - began < 20  # some tenths of a second; quadratic is minutes
