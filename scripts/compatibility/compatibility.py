"""What works in Jupyter works here: workloads, and other projects' own suites.

scripts/workloads [--only NAME,...] [--isolation LEVEL] [--show] [--write]
    Run each workload (workloads/*.ipy) by an agent's eyes in a kernelry session and in a stock
    ipykernel of the same environment, and list what differs. The exit code is 1 if a difference
    has no reason in reasons.toml. --show prints what each cell that differs showed.
scripts/workloads --suites [--only NAME,...] [--write]
    Run the suites of ipykernel, nbclient and jupyter_kernel_test with a kernelspec `python3` of
    stock and of our provisioner (suites.py); 1 if ours has a failure without a reason.

--write puts the results into docs/compatibility.md.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import page
import suites
from cells import Workload, read_workloads
from compare import differences
from environment import PYTHON, make_environment
from mcp import Client
from sides import our_server, our_session, stock_kernel


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one workload."""

    workload: Workload
    #: one of each cell that differs
    differences: tuple[str, ...]
    #: what it needs and is not there
    lacks: str = ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--isolation", default="auto")
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--suites", action="store_true")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.suites:
        return suites.run(options.only, write=options.write)
    have = make_environment()
    wanted = set(filter(None, options.only.split(",")))
    chosen = [one for one in read_workloads() if not wanted or one.name in wanted]
    results = asyncio.run(run_all(chosen, have, options))
    reasons = page.reasons("workloads")
    unexplained = [r for r in results if r.differences and r.workload.name not in reasons]
    if options.write:
        page.write_workloads([(r.workload, r.differences, r.lacks) for r in results], have)
    same = sum(not r.differences and not r.lacks for r in results)
    print(f"{len(results)} workloads: {same} the same, {len(unexplained)} unexplained")
    return 1 if unexplained else 0


async def run_all(
    chosen: list[Workload], have: dict[str, str], options: argparse.Namespace
) -> list[Result]:
    """Run workloads one after the other, on both sides, and print how each went."""
    results = []
    with tempfile.TemporaryDirectory(prefix="workloads-") as scratch:
        folders = Path(scratch) / "ours", Path(scratch) / "stock"
        for folder in folders:
            folder.mkdir()
        log = Path(scratch) / "server.log"
        async with our_server(PYTHON, folders[0], options.isolation, log) as client:
            for workload in chosen:
                lacks = ", ".join(name for name in workload.needs if name not in have)
                began = time.monotonic()
                found: tuple[str, ...] = ()
                if not lacks:
                    found = await run_one(workload, client, PYTHON, folders[1], show=options.show)
                took = time.monotonic() - began
                said = f"NOT RUN, lacks {lacks}" if lacks else "differs" if found else "same"
                print(f"{said:8} {workload.name} ({took:.1f} s)", flush=True)
                for line in found:
                    print(f"         {line}", flush=True)
                results.append(Result(workload, found, lacks))
        if said := log.read_text(encoding="utf-8").strip():
            print(f"the server's log:\n{said[-5000:]}", file=sys.stderr)
    return results


async def run_one(
    workload: Workload, client: Client, python: Path, folder: Path, *, show: bool = False
) -> tuple[str, ...]:
    """Run a workload on both sides; return in which cells ours has less, and what."""
    found = []
    async with stock_kernel(python, folder) as stock, our_session(client, workload.name) as ours:
        for number, cell in enumerate(workload.cells, 1):
            expected, seen = await stock.run(cell), await ours.run(cell)
            differ = differences(expected, seen)
            found += [f"cell {number}: {one}" for one in differ]
            if show and differ:
                print(f"{cell}\n--- stock: {expected}\n--- ours: {seen}")
    return tuple(found)


if __name__ == "__main__":
    sys.exit(main())
