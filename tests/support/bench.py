"""The one harness of all benchmarks: rows that say what was measured, beside what, and whether it is good enough.

Every benchmark calls `record`, which prints the figure and writes it to build/bench.json, so that a run that ends early
keeps what it has measured. At the end of the run all rows are printed as a table.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

OUTPUT = Path(__file__).parents[2] / "build" / "bench.json"


class Row(NamedTuple):
    """One figure."""

    name: str
    value: float
    unit: str
    peer: str | None = None  # what it is compared with, measured in the same run
    peer_value: float | None = None
    ratio: float | None = None
    target: str | None = None
    ok: bool | None = None
    spread: tuple[float, float] | None = (
        None  # the least and the most of the rounds, where `value` is their median
    )
    curve: str | None = None  # the row is a point of this scaling curve
    size: int | None = None  # and this is how many routes it was measured with


ROWS: list[Row] = []


def median(values: Iterable[float]) -> float:
    """The median: what a noisy machine does to some rounds does not count."""
    return statistics.median(values)


def percentile(values: Iterable[float], share: float) -> float:
    """The value that this share of all does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def record(
    name: str,
    value: float,
    unit: str,
    *,
    peer: str | None = None,
    peer_value: float | None = None,
    ratio: float | None = None,
    target: str | None = None,
    ok: bool | None = None,
    rounds: Iterable[float] = (),
    curve: str | None = None,
    size: int | None = None,
) -> None:
    """Print and write a figure at once; `ratio` is ours to the peer's, said so that more is better.

    `rounds` are the values whose median `value` is: their spread is reported, too.
    """
    each = sorted(rounds)
    spread = (each[0], each[-1]) if each else None
    row = Row(name, value, unit, peer, peer_value, ratio, target, ok, spread, curve, size)
    ROWS.append(row)
    write([row])
    print(table([row]).splitlines()[-1], flush=True)


def number(value: float | None) -> str:
    """A figure to three digits; nothing for None."""
    return "" if value is None else f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def table(rows: Iterable[Row]) -> str:
    """The rows for people."""
    heads = ("what", "value", "unit", "beside", "its value", "ratio", "target", "")
    lines = [
        (
            row.name,
            number(row.value),
            row.unit,
            row.peer or "",
            number(row.peer_value),
            number(row.ratio),
            row.target or "",
            {True: "ok", False: "MISSED", None: ""}[row.ok],
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (heads, *lines)
    )


def write(rows: Iterable[Row]) -> None:
    """Write the rows where tools look for them; those of other names stay from earlier runs."""
    fresh = [row._asdict() for row in rows]
    names = {row["name"] for row in fresh}
    OUTPUT.parent.mkdir(exist_ok=True)
    try:
        earlier = json.loads(OUTPUT.read_text())
    except (OSError, ValueError):
        earlier = []
    kept = [row for row in earlier if row["name"] not in names]
    OUTPUT.write_text(json.dumps([*kept, *fresh], indent=1) + "\n")
