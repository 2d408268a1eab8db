"""Figures: samples of one thing, what they are compared with, and how both are shown."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from pathlib import Path

COLORS = ("#2a78d6", "#d6592a", "#2aa876", "#8a5cd6")


@dataclass
class Figure:
    """Samples of one thing in one unit."""

    name: str
    unit: str
    samples: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    def percentile(self, share: float) -> float:
        ordered = sorted(self.samples)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


@dataclass
class Comparison:
    """A figure beside its baseline, with what we want of the ratio."""

    what: str
    ours: Figure
    baseline: Figure
    goal: str
    #: the largest ratio ours/baseline that reaches the goal
    at_most: float
    #: whether more is better (rates): the ratio is turned around then
    rate: bool = False

    @property
    def ratio(self) -> float:
        ours, theirs = self.ours.median, self.baseline.median
        return theirs / ours if self.rate else ours / theirs

    @property
    def reached(self) -> bool:
        return self.ratio <= self.at_most


async def timed(work: Awaitable[object]) -> float:
    """Return the seconds that `work` takes."""
    started = time.perf_counter()
    await work
    return time.perf_counter() - started


def show(figure: Figure) -> str:
    low, high = min(figure.samples), max(figure.samples)
    return (
        f"{figure.median:10.2f} {figure.unit:<4} ({low:.2f} .. {high:.2f}, n={len(figure.samples)})"
    )


def table(comparisons: list[Comparison], extra: list[Figure]) -> str:
    """Return the report for people."""
    lines = [f"{'what':<46} {'ratio':>7}  {'goal':<22} ours | baseline"]
    for item in comparisons:
        ratio = f"1/{1 / item.ratio:.1f}" if item.ratio < 0.67 else f"{item.ratio:.2f}x"
        mark = "ok" if item.reached else "MISSED"
        lines.append(f"{item.what:<46} {ratio:>7}  {item.goal:<15} {mark:<6}")
        lines.append(f"    ours      {item.ours.name:<34} {show(item.ours)}")
        lines.append(f"    baseline  {item.baseline.name:<34} {show(item.baseline)}")
    lines.append("")
    lines += [f"{figure.name:<50} {show(figure)}" for figure in extra]
    return "\n".join(lines)


def save(path: Path, comparisons: list[Comparison], extra: list[Figure]) -> None:
    """Write the report for programs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "machine": {
            "system": platform.platform(),
            "python": platform.python_version(),
            "at": time.strftime("%Y-%m-%d"),
        },
        "comparisons": [
            {
                "what": item.what,
                "goal": item.goal,
                "ratio": round(item.ratio, 4),
                "reached": item.reached,
                "ours": numbers(item.ours),
                "baseline": numbers(item.baseline),
            }
            for item in comparisons
        ],
        "figures": [numbers(figure) for figure in extra],
    }
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def numbers(figure: Figure) -> dict[str, object]:
    return {
        "name": figure.name,
        "unit": figure.unit,
        "median": round(figure.median, 4),
        "min": round(min(figure.samples), 4),
        "max": round(max(figure.samples), 4),
        "p99": round(figure.percentile(0.99), 4),
        "n": len(figure.samples),
    }


def plot(path: Path, title: str, unit: str, lines: dict[str, list[tuple[float, float]]]) -> None:
    """Draw lines as an SVG file that needs nothing else."""
    width, height, left, bottom = 640, 320, 60, 40
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points]
    top, right = max(ys) * 1.1 or 1.0, max(xs) or 1.0

    def at(x: float, y: float) -> str:
        across = left + x / right * (width - left - 150)
        return f"{across:.1f},{height - bottom - y / top * (height - bottom - 40):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12" fill="#777">',
        f'<text x="{left}" y="20" font-size="14">{title} ({unit})</text>',
        f'<path d="M{at(0, top)} L{at(0, 0)} L{at(right, 0)}" fill="none" stroke="#999"/>',
    ]
    for share in (0.0, 0.5, 1.0):
        x, y = at(0, top * share).split(",")
        parts.append(f'<text x="{float(x) - 6}" y="{y}" text-anchor="end">{top * share:.3g}</text>')
    for x_value in sorted(set(xs)):
        x, y = at(x_value, 0).split(",")
        parts.append(f'<text x="{x}" y="{float(y) + 16}" text-anchor="middle">{x_value:g}</text>')
    for color, (name, points) in zip(COLORS, lines.items(), strict=False):
        path_data = " L".join(at(x, y) for x, y in points)
        parts.append(f'<path d="M{path_data}" fill="none" stroke="{color}" stroke-width="2"/>')
        x, y = at(*points[-1]).split(",")
        parts.append(f'<text x="{float(x) + 8}" y="{y}" fill="{color}">{name}</text>')
    path.write_text("\n".join([*parts, "</svg>", ""]), encoding="utf-8")
