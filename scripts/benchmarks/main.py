"""Measure everything beside its baseline, in one run; print a table and write files.

scripts/bench [--quick] [--only NAME,...]
--quick: fewer rounds and fewer sessions. The figures go to bench-results/latest.json, the
plots to bench-results/*.svg (made by a program, so not kept in the repository).

Sides of a comparison take turns, so that a noisy machine is noisy to all of them; a figure
is a median with its smallest and largest sample.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

import measures
from branches import cost_of_branches
from checkpoints import cost_of_checkpoints
from figures import Comparison, Figure, plot, save, table
from gateway import through_kernel_gateway
from history import cost_of_history
from packages import second_install
from promptness import promptness
from walls import cost_of_levels, neighbour_of_hungry

ROOT = Path(__file__).parents[2]
NAMES = (
    "create",
    "rate",
    "memory",
    "roundtrip",
    "beside",
    "throughput",
    "verbs",
    "promptness",
    "start",
    "walls",
    "gateway",
    "packages",
    "checkpoints",
    "branch",
    "history",
)


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default=",".join(NAMES))
    options = parser.parse_args()
    quick, wanted = options.quick, set(options.only.split(","))
    counts = [10, 50] if quick else [10, 50, 200]
    comparisons: list[Comparison] = []
    extra: list[Figure] = []
    plots: dict[str, tuple[str, str, dict[str, list[tuple[float, float]]]]] = {}
    for name in NAMES:
        if name not in wanted:
            continue
        print(f"... {name}", file=sys.stderr, flush=True)
        match name:
            case "create":
                comparisons += await measures.create_to_first_result(5 if quick else 15)
            case "rate":
                comparisons += await measures.creation_rate(50, 1 if quick else 3)
                if not quick:
                    comparisons += await measures.creation_rate(200, 1)
            case "memory":
                found, more, lines, more_lines = await measures.memory(counts)
                comparisons += found
                extra += more
                plots["creation"] = ("create to first result", "ms", more_lines)
                plots["memory"] = ("memory per idle session, by sessions alive", "MiB", lines)
            case "roundtrip":
                comparisons += await measures.round_trip(120 if quick else 600)
            case "beside":
                beside, lines = await measures.round_trip_beside([1, *counts], 100)
                extra += beside
                plots["roundtrip"] = ("1+1 in the library, by sessions alive", "ms", lines)
            case "throughput":
                comparisons += await measures.throughput(2 if quick else 5)
            case "verbs":
                extra += await measures.verbs(3 if quick else 8)
            case "promptness":
                comparisons += await promptness(3 if quick else 10)
            case "walls":
                comparisons += await cost_of_levels(5 if quick else 15, 100 if quick else 400)
                comparisons += await neighbour_of_hungry(300)
            case "gateway":
                comparisons += await through_kernel_gateway(4 if quick else 10)
            case "packages":
                comparisons += await second_install(5 if quick else 12)
            case "checkpoints":
                found, more = await cost_of_checkpoints(3 if quick else 10)
                comparisons += found
                extra += more
            case "branch":
                found, more = await cost_of_branches(4 if quick else 12)
                comparisons += found
                extra += more
            case "history":
                found, more = await cost_of_history(5 if quick else 20)
                comparisons += found
                extra += more
            case "start":
                comparisons += await measures.server_start(4 if quick else 10)
    print(table(comparisons, extra))
    save(ROOT / "bench-results" / "latest.json", comparisons, extra)
    for name, (title, unit, lines) in plots.items():
        plot(ROOT / "bench-results" / f"{name}.svg", title, unit, lines)
    return 0 if all(item.reached for item in comparisons) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
