"""Draws what a run of chaos or a soak wrote, as one SVG beside it: `python -m chaos.plots FILE.jsonl`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

_WIDTH: Final = 1000
_HEIGHT: Final = 120  # of one diagram
_LEFT: Final = 90
_GAP: Final = 45
_COLOURS: Final = ("#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd")
Line = dict[str, Any]
Points = list[tuple[float, float]]


class Panel(NamedTuple):
    """One diagram: its title with the unit, and its lines."""

    title: str
    lines: dict[str, Points]


def _points(samples: Iterable[Line], value: Callable[[Line], float | None]) -> Points:
    return [(line["t"], found) for line in samples if (found := value(line)) is not None]


def _of(name: str, scale: float = 1) -> Callable[[Line], float | None]:
    return lambda line: line[name] / scale if name in line else None


def _processor(samples: list[Line]) -> Points:
    """Percent of one processor between two samples of one life of the daemon."""
    seen = [line for line in samples if "cpu_s" in line]
    return [
        (later["t"], 100 * (later["cpu_s"] - line["cpu_s"]) / (later["t"] - line["t"]))
        for line, later in pairwise(seen)
        if later["cpu_s"] >= line["cpu_s"] and later["t"] > line["t"]
    ]


def panels(lines: list[Line]) -> list[Panel]:
    """What is drawn of the lines of a record."""
    samples = [line for line in lines if line["kind"] == "sample"]
    files = ("outbox.sqlite", "outbox.sqlite-wal", "ledger.sqlite", "ledger.sqlite-wal")
    return [
        Panel("Memory, MiB", {"": _points(samples, _of("memory", 1 << 20))}),
        Panel(
            "Descriptors and threads", {it: _points(samples, _of(it)) for it in ("descriptors", "threads")}
        ),
        Panel("Processor, percent", {"": _processor(samples)}),
        Panel("Lag behind the kernel, ms", {"": _points(samples, _of("lag_ms"))}),
        Panel(
            "Routes: desired, in loxilb, waiting",
            {it: _points(samples, _of(it)) for it in ("wanted", "loxilb", "waiting")},
        ),
        Panel("Files, KiB", {it: _points(samples, _of(it, 1024)) for it in files}),
    ]


def svg(lines: list[Line]) -> str:
    """The whole picture. Grey: faults; green: quiet and right; red: a contradiction."""
    end = max(line["t"] for line in lines) or 1
    drawn = panels(lines)
    height = len(drawn) * (_HEIGHT + _GAP) + _GAP

    def x(t: float) -> float:
        return _LEFT + t / end * (_WIDTH - _LEFT - 10)

    view = f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="12"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {view}><rect width="100%" height="100%" fill="white"/>'
    ]
    colours = {"fault": "#dddddd", "quiet": "#88cc88", "contradiction": "#dd2222"}
    marks = [(line["t"], colours[line["kind"]]) for line in lines if line["kind"] in colours]
    for number, panel in enumerate(drawn):
        top = _GAP + number * (_HEIGHT + _GAP)
        bottom = top + _HEIGHT
        most = max((value for points in panel.lines.values() for _, value in points), default=0) or 1
        parts.append(f'<text x="{_LEFT}" y="{top - 8}" font-weight="bold">{panel.title}</text>')
        parts += [
            f'<line x1="{x(t):.1f}" x2="{x(t):.1f}" y1="{top}" y2="{bottom}" stroke="{colour}"/>'
            for t, colour in marks
        ]
        parts.append(f'<path d="M{_LEFT} {top}V{bottom}H{_WIDTH - 10}" fill="none" stroke="black"/>')
        for value, y in ((most, top + 4), (0, bottom + 4)):
            parts.append(f'<text x="{_LEFT - 6}" y="{y}" text-anchor="end">{value:,.4g}</text>')
        parts.append(f'<text x="{_WIDTH - 10}" y="{bottom + 16}" text-anchor="end">{end:,.0f} s</text>')
        for place, (name, points) in enumerate(panel.lines.items()):
            colour = _COLOURS[place]
            path = " ".join(f"{x(t):.1f},{bottom - value / most * _HEIGHT:.1f}" for t, value in points)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.2"/>')
            parts.append(f'<text x="{_LEFT + 300 + 150 * place}" y="{top - 8}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])


def draw(record: Path) -> Path:
    """Draw a record, also of a run that was broken off; returns the picture."""
    text = record.read_text().splitlines(keepends=True)
    lines = [json.loads(line) for line in text if line.endswith("\n")]
    picture = record.with_suffix(".svg")
    picture.write_text(svg(lines))
    return picture


if __name__ == "__main__":
    print(draw(Path(sys.argv[1])))
