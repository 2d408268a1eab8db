"""All that comes from kernels at random, from one seed: a neighbour must not notice."""

from __future__ import annotations

from bounds import MEBIBYTE, Scale, check, service

from tests.faults.fuzzing import fuzz, percentile
from tests.faults.matrix import fault

GROWTH = 200 * MEBIBYTE  # of the server, with what Python's allocator keeps
RATIO = 3.0  # of a neighbour's p99, beside that of quiet times


@fault("E8")
async def fuzzing(scale: Scale) -> None:
    """Fuzz messages, frames, answers and files for some time."""
    async with service() as sessions:
        report = await fuzz(sessions, scale.seed, scale.seconds / (10 if scale.quick else 1))
    print(f"   seed {scale.seed}: {report.ends.total()} rounds: {dict(report.ends)}")
    for failure in report.failures:
        print(f"   {failure}")
    check(not report.failures, "nothing of ours fails")
    check(report.growth < GROWTH, f"the server grows by {report.growth / MEBIBYTE:.0f} MiB")
    quiet, meanwhile = (
        1000 * percentile(times, 0.99) for times in (report.quiet, report.meanwhile)
    )
    text = f"a neighbour's 1+1 takes {meanwhile:.1f} ms at p99, {quiet:.1f} ms when it is quiet"
    check(report.ratio() <= RATIO, text)
