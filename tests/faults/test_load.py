"""A little of each load that takes minutes in scripts/soak."""

import subprocess
import sys

import pytest

from .matrix import TESTS, fault

SOAK = TESTS.parent / "scripts" / "soaks" / "soak.py"


@fault("E2", "E4", "E5", "E6")
@pytest.mark.parametrize("cases", ["E2 E5 E6", "E4 --seconds=20 --seed=4"])
@pytest.mark.alone
def test_a_little_of_each_load_keeps_its_bounds(cases: str) -> None:
    quick = [] if "--seconds" in cases else ["--quick"]
    done = subprocess.run(
        [sys.executable, str(SOAK), *quick, *cases.split()], capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stdout + done.stderr
