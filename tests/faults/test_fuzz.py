"""Half a minute of the fuzzer (fuzzing.py), with seeds that are kept; scripts/soak has ten."""

import pytest

from kernelry import Sessions

from .fuzzing import fuzz
from .matrix import fault

MEBIBYTE = 1 << 20
#: those that have found something stay
SEEDS = [6]
SECONDS = 30.0


@fault("B25")
@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_a_kernel_says_the_server_lives_on_and_stays_small(
    sessions: Sessions, seed: int
) -> None:
    report = await fuzz(sessions, seed, SECONDS)
    assert not report.failures, report.failures
    assert report.ends.total() > 5, report.ends
    assert report.growth < 200 * MEBIBYTE, report.growth
    assert len(report.meanwhile) > len(report.quiet)
