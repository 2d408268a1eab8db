"""The tables of docs/compatibility.md, and the reasons for what differs."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from datetime import date
from itertools import groupby
from pathlib import Path

from cells import Workload

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "compatibility.md"
REASONS = Path(__file__).with_name("reasons.toml")
#: distributions whose versions the page names
NAMED = ("ipykernel", "ipython", "numpy", "pandas", "matplotlib", "scikit-learn", "torch", "polars")


def reasons(kind: str) -> dict[str, str]:
    """Return the reasons for differences: of "workloads" by name, of "suites" by test."""
    with REASONS.open("rb") as file:
        found: dict[str, str] = tomllib.load(file)[kind]
    return found


def write_workloads(
    results: Sequence[tuple[Workload, tuple[str, ...], str]], have: dict[str, str]
) -> None:
    """Write the table of workloads: each with how it compares."""
    why = reasons("workloads")
    same = sum(not differs and not lacks for _, differs, lacks in results)
    named = ", ".join(f"{name} {have[name]}" for name in NAMED if name in have)
    rows = [
        f"{same} of {len(results)} give an agent all that stock gives a notebook ({named}).",
        "",
    ]
    for area, group in groupby(results, key=lambda result: result[0].area):
        rows += [f"### {area.capitalize()}", "", "| workload | beside stock |", "| --- | --- |"]
        for workload, differs, lacks in group:
            said = "the same"
            if lacks:
                said = f"not run: no {lacks}"
            elif differs:
                said = why.get(workload.name, f"**differs**: {cell('; '.join(differs))}")
            rows.append(f"| {workload.title} (`{workload.name}`) | {said} |")
        rows.append("")
    _put("workloads", rows)


def write_suites(rows: Iterable[str]) -> None:
    """Write the table of suites."""
    _put("suites", rows)


def cell(text: str) -> str:
    """Return a text that a table's cell can hold."""
    return text.replace("|", "\\|").replace("\n", " ")


def _put(part: str, rows: Iterable[str]) -> None:
    """Put rows between a part's two marks."""
    begin, end = f"<!-- {part}: made by scripts/workloads -->\n", f"<!-- end of {part} -->\n"
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(begin)
    _, after = rest.split(end)
    body = "\n".join([f"Measured on {date.today().isoformat()}.", "", *rows]).rstrip()
    PAGE.write_text(f"{before}{begin}{body}\n{end}{after}", encoding="utf-8")
