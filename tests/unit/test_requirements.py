"""Only names of packages get as far as uv."""

import pytest

from carrel.errors import InvalidArgumentError
from carrel.requirements import parse_requirements


@pytest.mark.parametrize(
    "text",
    [
        "; rm -rf /",
        "--index-url=x",
        "-e .",
        ".",
        "./x",
        "git+https://example.org/x",
        "x @ https://example.org/x.whl",
        "x @ file:///etc",
        "",
        "a b",
        "x" * 400,
        "six\n--pre",
    ],
)
def test_options_urls_paths_and_nonsense_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        parse_requirements([text])


def test_pep_508_strings_are_accepted() -> None:
    texts = ["six", "numpy>=2,<3", "uvicorn[standard]", 'x; python_version < "3"']
    assert len(parse_requirements(texts)) == len(texts)


def test_nothing_and_too_much_are_refused() -> None:
    with pytest.raises(InvalidArgumentError):
        parse_requirements([])
    with pytest.raises(InvalidArgumentError):
        parse_requirements(["six"] * 1000)
