"""No case of the matrix is forgotten."""

from .matrix import CASES, NOT_INJECTED, SOAK, TESTS, holders


def test_every_case_is_held_or_says_why_it_is_not() -> None:
    held = {case for folder in (TESTS, SOAK) for case, _ in holders(folder)}
    assert set(CASES) == held | set(NOT_INJECTED)
    assert not held & set(NOT_INJECTED)


def test_fifty_cases_are_injected_by_the_tests() -> None:
    assert len({case for case, _ in holders(TESTS)}) >= 50
