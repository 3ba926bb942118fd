"""Writes benchmarks.md, with its charts, from what the benchmarks recorded: `python -m support.bench_report docs`."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from support.bench import OUTPUT, Row, number

_TEXT: Final = """# Benchmarks

`make bench` measures, and writes this page. Each figure is measured beside its peer in the same run: on another machine
the values differ, the ratios hardly do. A value is the median of its rounds, with the least and the most of them where
there were several. A ratio is ours to the peer's, so that more is better.

{machine}

## Figures

{figures}

## Limits

- A route is noted on disk before its POST, so that a power cut leaves no route that nobody knows. A lone change cannot
  be faster than a commit and a POST: these two are its peer. The bare loop beside unpaced POSTs notes nothing.
- The kernel gives one event for each recv(2). That call alone is the peer of an event that the rules drop.
- A million prefixes do not fit into the processor's caches: how a bare dictionary of them grows is the peer of the
  exponents.
- loxilb takes 256 changes a second, so in use the pace is less than a tenth of what is measured unpaced.

## How costs grow

One daemon each with 1,000 to 1,000,000 routes, all kept by the rules, 1,000 of them mirrored. Both axes are
logarithmic.

![Costs by the number of routes](benchmarks.svg)

{points}
"""
_WIDTH, _HEIGHT, _GAP, _COLUMNS = 300, 170, 70, 3
Curves = Mapping[str, Mapping[int, Row]]


def machine() -> str:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine()
    )
    memory = int(Path("/proc/meminfo").read_text().split()[1]) >> 20
    return (
        f"Measured on {datetime.now(UTC):%Y-%m-%d}: {os.cpu_count()} cores ({model}), {memory} GiB of memory, "
        f"Linux {platform.release()}, Python {platform.python_version()}."
    )


def cells(rows: Iterable[tuple[str, ...]]) -> str:
    """A table; the first row is its head."""
    head, *others = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|---" * head.count(" | ") + "|---|", *others])


def figures(rows: Iterable[Row]) -> str:
    """The figures that are no points of a curve."""
    lines = [("what", "value", "beside", "its value", "ratio", "target", "")]
    for row in rows:
        spread = "" if row.spread is None else f" ({number(row.spread[0])} to {number(row.spread[1])})"
        lines.append(
            (
                row.name,
                f"{number(row.value)} {row.unit}{spread}".strip(),
                row.peer or "",
                number(row.peer_value),
                number(row.ratio),
                (row.target or "").replace("<=", "≤").replace(">=", "≥"),
                {True: "met", False: "**missed**", None: ""}[row.ok],
            )
        )
    return cells(lines)


def points(curves: Curves) -> str:
    """The curves in numbers."""
    sizes = sorted({size for curve in curves.values() for size in curve})
    lines = [("", *(f"{size:,}" for size in sizes))]
    for name, curve in curves.items():
        lines.append((name, *(f"{number(row.value)} {row.unit}" for _, row in sorted(curve.items()))))
    return cells(lines)


def chart(name: str, curve: Mapping[int, Row], left: float, top: float) -> list[str]:
    """One curve, as SVG."""
    places = sorted((math.log10(size), math.log10(max(row.value, 1e-3)), row) for size, row in curve.items())
    low, high = math.floor(min(y for _, y, _ in places)), math.ceil(max(y for _, y, _ in places))
    first, last = places[0][0], places[-1][0]

    def at(x: float, y: float) -> tuple[float, float]:
        across, up = (x - first) / (last - first or 1), (y - low) / (high - low or 1)
        return left + across * _WIDTH, top + _HEIGHT - up * _HEIGHT

    unit = places[0][2].unit
    parts = [f'<text x="{left}" y="{top - 12}" font-weight="bold">{name.replace("`", "")}, {unit}</text>']
    for power in range(low, high + 1):
        y = at(first, power)[1]
        parts.append(f'<path d="M{left} {y:.1f}h{_WIDTH}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{number(10.0**power)}</text>')
    for x, y, row in places:
        across, up = at(x, y)
        parts.append(f'<circle cx="{across:.1f}" cy="{up:.1f}" r="3" fill="#1f77b4"/>')
        parts.append(
            f'<text x="{across:.1f}" y="{top + _HEIGHT + 16}" text-anchor="middle">{row.size:,}</text>'
        )
    line = " ".join("{:.1f},{:.1f}".format(*at(x, y)) for x, y, _ in places)
    return [*parts, f'<polyline points="{line}" fill="none" stroke="#1f77b4" stroke-width="1.5"/>']


def charts(curves: Curves) -> str:
    """All curves, as one SVG."""
    width = _COLUMNS * (_WIDTH + _GAP) + _GAP
    height = -(-len(curves) // _COLUMNS) * (_HEIGHT + _GAP) + _GAP // 2
    view = f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {view}>',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for place, (name, curve) in enumerate(curves.items()):
        row, column = divmod(place, _COLUMNS)
        parts += chart(name, curve, _GAP + column * (_WIDTH + _GAP), _GAP / 2 + row * (_HEIGHT + _GAP))
    return "\n".join([*parts, "</svg>", ""])


def write(directory: Path) -> None:
    """Write the page and its charts into a directory."""
    rows = [Row(**row) for row in json.loads(OUTPUT.read_text())]
    curves: dict[str, dict[int, Row]] = {}
    for row in rows:
        if row.curve is not None and row.size is not None:
            curves.setdefault(row.curve, {})[row.size] = row
    text = _TEXT.format(
        machine=machine(), figures=figures(row for row in rows if row.curve is None), points=points(curves)
    )
    (directory / "benchmarks.md").write_text(text)
    (directory / "benchmarks.svg").write_text(charts(curves))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
