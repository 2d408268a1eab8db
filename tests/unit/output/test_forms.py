"""What is shown has a text, or says what it is."""

from typing import Any

import pytest

from kernelry.output.fold import Display

BARE = "<IPython.core.display.Thing object>"
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "plain": ({"text/plain": "7", "text/html": "<b>8</b>"}, "7"),
    "a repr that tells": ({"text/plain": "<Point x=1>", "text/html": "<b>8</b>"}, "<Point x=1>"),
    "lines": ({"text/plain": ["a\n", "b"]}, "a\nb"),
    "markdown": ({"text/plain": BARE, "text/markdown": "# Title"}, "# Title"),
    "markdown alone": ({"text/markdown": "*x*"}, "*x*"),
    "latex": ({"text/plain": BARE, "text/latex": "$x^2$"}, "$x^2$"),
    "json": ({"text/plain": BARE, "application/json": {"a": [1, "é"]}}, '{"a": [1, "é"]}'),
    "html": ({"text/html": "<h1>Hi</h1><p>one<br>two &amp; three</p>"}, "Hi\none\ntwo & three"),
    "a styled table": (
        {
            "text/plain": "<pandas.io.formats.style.Styler at 0x7f2c1e>",
            "text/html": "<style>td {color: red}</style><table><tr><th>a</th><th>b</th></tr>"
            "<tr><td>1</td><td>2</td></tr></table>",
        },
        "a b\n1 2",
    ),
    "html of scripts": (
        {"text/html": "<script>draw(1 < 2)</script>"},
        "[shown without a text: text/html of 28 characters; export_notebook has it]",
    ),
    "a plot by plotly": (
        {"application/vnd.plotly.v1+json": {"data": []}},
        "[shown without a text: application/vnd.plotly.v1+json of 12 characters; "
        "export_notebook has it]",
    ),
    "sound": (
        {"audio/wav": "UklG"},
        "[shown without a text: audio/wav of 4 characters; export_notebook has it]",
    ),
    "a picture": ({"image/png": "iVBO"}, ""),
    "a figure": ({"text/plain": "<Figure size 1x1>", "image/png": "iVBO"}, ""),
    "a picture that tells more": (
        {"text/plain": "<Figure size 1x1>", "image/png": "iVBO", "text/markdown": "*more*"},
        "*more*",
    ),
    "a picture and its numbers": ({"text/plain": "[1, 2]", "image/png": "iVBO"}, "[1, 2]"),
    "nothing": ({}, ""),
    "only a bare repr": ({"text/plain": "<object object at 0x7f>"}, "<object object at 0x7f>"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_display_has_the_text_of_its_best_form_or_says_what_it_is(case: str) -> None:
    data, text = CASES[case]
    assert Display(data).text == text
