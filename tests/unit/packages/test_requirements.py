"""Only names of packages get as far as uv."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelry.errors import InvalidArgumentError
from kernelry.packages.requirements import parse_requirements
from kernelry.packages.uv import pip_arguments
from tests.faults.matrix import fault


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


#: text that is a requirement, nearly one, or anything
TEXTS = st.one_of(
    st.text(max_size=40),
    st.from_regex(r"[a-z-]{1,5}(\[[a-z, -]*\])?(==|>=|~=|@)?[0-9a-z.* ,;-]{0,8}", fullmatch=True),
    st.sampled_from(
        ["--index-url", "-r", "a\n--pre", "a -e .", "a;python_version>'3'", "a[b]>1 , <2"]
    ),
)


@fault("T12")
@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_a_package_is_refused_or_exactly_one_argument_that_is_no_option(texts: list[str]) -> None:
    try:
        wanted = [str(requirement) for requirement in parse_requirements(texts)]
    except InvalidArgumentError:
        return
    arguments = pip_arguments(Path("python"), [], wanted, allow_sdist=False)
    end = arguments.index("--")
    assert len(arguments) == end + 1 + len(texts)
    assert arguments[:end] == pip_arguments(Path("python"), [], ["x"], allow_sdist=False)[:end]
    for text in arguments[end + 1 :]:
        assert text[0].isalnum() and text.isprintable() and "://" not in text
