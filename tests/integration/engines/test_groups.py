"""Control groups of several servers on one machine: none takes those of another away."""

import subprocess
import sys

import pytest

from kernelry.processes import hierarchy, known_group, make_group, remove_unused

MAKE = "from kernelry.processes import make_group; print(make_group('of-the-dead', (), 0).folder)"
SWEEP = "from kernelry.processes import remove_unused; remove_unused()"

pytestmark = pytest.mark.skipif(
    hierarchy() is None, reason="NOT TESTED: no control groups can be made here"
)


def in_another_process(code: str) -> str:
    """Run Python as another server would; return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_a_group_that_is_empty_for_a_moment_is_not_taken_by_another_server() -> None:
    group = make_group("of-the-living", (), 0)
    assert group is not None
    try:
        in_another_process(SWEEP)
        remove_unused()
        assert group.folder.is_dir()
        found = known_group("of-the-living")
        assert found is not None and found.folder == group.folder
    finally:
        group.remove()
    assert known_group("of-the-living") is None


def test_an_empty_group_of_a_server_that_is_gone_goes() -> None:
    folder = in_another_process(MAKE)
    found = known_group("of-the-dead")
    assert found is not None and str(found.folder) == folder
    in_another_process(SWEEP)
    assert known_group("of-the-dead") is None
