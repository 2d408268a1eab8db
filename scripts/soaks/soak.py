"""Run cases of load (E of tests/faults/matrix.py); say what was measured and what broke.

scripts/soak [--quick] [--seed N] [--seconds S] [CASE ...]
Without a CASE all run, and the long walks of the model of sessions. --quick does a tenth of
each. --seed and --seconds are for the chaos (E4) and the fuzzer (E8). The exit code is 1 if a
bound was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # for the table of cases and the tests' server

import chaos  # noqa: E402
import churn  # noqa: E402
import fuzz  # noqa: E402
import load  # noqa: E402
from bounds import BrokenBoundError, Scale  # noqa: E402

CASES = {
    "E1": load.many_sessions,
    "E2": load.many_cells,
    "E3": churn.cycles,
    "E4": chaos.chaos,
    "E5": load.much_output,
    "E6": churn.restarts,
    "E7": load.idle_neighbours,
    "E8": fuzz.fuzzing,
}
MODEL = "model"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", choices=[*CASES, MODEL, []], metavar="CASE")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=600.0)
    options = parser.parse_args()
    scale = Scale(quick=options.quick, seed=options.seed, seconds=options.seconds)
    broken = []
    for name in options.cases or [*CASES, MODEL]:
        print(f"== {name}", flush=True)
        began = time.monotonic()
        try:
            if name == MODEL:
                walk()
            else:
                asyncio.run(CASES[name](scale))
        except BrokenBoundError as error:
            broken.append(name)
            print(f"   BROKEN: {error}")
        print(f"   {time.monotonic() - began:.1f} s", flush=True)
    print("broken: " + ", ".join(broken) if broken else "all bounds hold")
    return 1 if broken else 0


def walk() -> None:
    """Compare sessions with their model on long walks."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/faults/test_model.py"],
        cwd=ROOT,
        env=os.environ | {"KERNELRYTEST_SOAK": "1"},
    )
    if done.returncode:
        raise BrokenBoundError("sessions and their model differ")


if __name__ == "__main__":
    sys.exit(main())
