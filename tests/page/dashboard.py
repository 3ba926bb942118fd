"""The dashboard (packaging/grafana) as a picture: its panels and its queries, run by a real Prometheus.

Grafana itself is not needed: this draws the panels at their places, of the kinds that the dashboard has: row, stat,
timeseries.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

from support.broker import free_port
from support.waiting import eventually_sync

DASHBOARD = Path(__file__).parents[2] / "packaging" / "grafana" / "routesync.json"
CONFIG = """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: routesync
    static_configs: [{{targets: ["127.0.0.1:{port}"], labels: {{instance: node-1}}}}]
"""
STEP_S = 2
WINDOW = "10s"
"""What Grafana would put for $__rate_interval: four times the scrape interval, and a little."""

CELL, ROW = 60, 36  # of Grafana's grid: 24 cells wide
COLOURS = ("#2b9489", "#df6430", "#6d9be0", "#c9a227", "#9b6bb3", "#62686e", "#d68ab0", "#4c8c3f")
WORDS = {"green": "#0a6a65", "orange": "#b03808", "red": "#b03808"}


class Line(NamedTuple):
    """One line of a panel: its name and [time, value]."""

    name: str
    points: list[tuple[float, float]]


class Box(NamedTuple):
    """The size of a panel, and the time that it shows, in seconds since 1970."""

    width: int
    height: int
    start: float
    end: float


class Prometheus:
    """A running one."""

    def __init__(self, url: str) -> None:
        self._url = url

    def call(self, path: str, **parameters: object) -> Any:
        with urllib.request.urlopen(f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}") as got:  # noqa: S310
            return json.load(got)["data"]

    def lines(self, panel: dict[str, Any], start: float, end: float) -> list[Line]:
        """What the panel's queries give."""
        found = []
        for target in panel["targets"]:
            query = re.sub(r"\$(instance|target)\b", ".*", target["expr"]).replace("$__rate_interval", WINDOW)
            result = self.call("query_range", query=query, start=start, end=end, step=STEP_S)["result"]
            for series in result:
                labels = series["metric"]
                name = re.sub(
                    r"\{\{(\w+)\}\}",
                    lambda it, of=labels: of.get(it[1], ""),  # type: ignore[misc]
                    target["legendFormat"],
                )
                points = [(float(at), float(value)) for at, value in series["values"] if value != "NaN"]
                if points:
                    found.append(Line(name, points))
        return found


@contextmanager
def prometheus(port: int) -> Iterator[Prometheus]:
    """One that scrapes this port of the loopback each second."""
    program = shutil.which("prometheus") or str(Path(sys.prefix) / "bin" / "prometheus")
    with tempfile.TemporaryDirectory(prefix="rs-prometheus-") as name:
        config = Path(name) / "prometheus.yml"
        config.write_text(CONFIG.format(port=port))
        at = f"127.0.0.1:{free_port()}"
        process = subprocess.Popen(
            [
                program,
                f"--config.file={config}",
                f"--storage.tsdb.path={name}/data",
                f"--web.listen-address={at}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            made = Prometheus(f"http://{at}")
            eventually_sync(lambda: _scrapes(made), what="the first scrape")
            yield made
        finally:
            process.terminate()
            process.wait()


def _scrapes(made: Prometheus) -> bool:
    try:
        return bool(made.call("query", query="routesync_build_info")["result"])
    except OSError:
        return False


# -- drawing -------------------------------------------------------------------------------------------------


def draw(made: Prometheus, start: float, end: float, below: int, file: Path) -> None:
    """Draw all panels above row `below` of the grid, over these seconds since 1970."""
    panels = [it for it in json.loads(DASHBOARD.read_text())["panels"] if it["gridPos"]["y"] < below]
    height = max(it["gridPos"]["y"] + it["gridPos"]["h"] for it in panels) * ROW
    parts = [_panel(it, made, start, end) for it in panels]
    file.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {24 * CELL} {height + 8}" '
        'font-family="system-ui, \'DejaVu Sans\', sans-serif" font-size="12" fill="#1c1f22">\n'
        f'<rect width="100%" height="100%" fill="#f6f6f3"/>\n{"".join(parts)}</svg>\n'
    )


def _panel(panel: dict[str, Any], made: Prometheus, start: float, end: float) -> str:
    place = panel["gridPos"]
    x, y = place["x"] * CELL + 4, place["y"] * ROW + 4
    width, height = place["w"] * CELL - 8, place["h"] * ROW - 8
    title = escape(panel["title"])
    if panel["type"] == "row":
        return f'<text x="{x + 4}" y="{y + 22}" font-size="15" font-weight="600">{title}</text>\n'
    lines = made.lines(panel, start, end)
    unit = panel["fieldConfig"]["defaults"].get("unit", "none")
    draw_content = _stat if panel["type"] == "stat" else _chart
    content = draw_content(panel, lines, unit, Box(width, height, start, end))
    return (
        f'<g transform="translate({x} {y})"><rect width="{width}" height="{height}" rx="4" fill="#fff" '
        f'stroke="#dddcd5"/><text x="10" y="19" font-weight="600">{title}</text>{content}</g>\n'
    )


def _stat(panel: dict[str, Any], lines: list[Line], unit: str, box: Box) -> str:
    width, height = box.width, box.height
    defaults = panel["fieldConfig"]["defaults"]
    mappings = {key: value for it in defaults["mappings"] for key, value in it["options"].items()}
    shown = []
    for line in lines[:3]:
        value = line.points[-1][1]
        mapped = mappings.get(f"{value:g}")
        steps = [it for it in defaults["thresholds"]["steps"] if it["value"] is None or value >= it["value"]]
        colour = WORDS[mapped["color"] if mapped else steps[-1]["color"]]
        shown.append((mapped["text"] if mapped else _amount(value, unit), colour, line.name))
    text = []
    for number, (word, colour, name) in enumerate(shown):
        at = width * (2 * number + 1) / (2 * len(shown))
        text.append(
            f'<text x="{at:.0f}" y="{height / 2 + 16:.0f}" font-size="26" font-weight="600" fill="{colour}" '
            f'text-anchor="middle">{escape(word)}</text><text x="{at:.0f}" y="{height - 14}" text-anchor="middle" '
            f'fill="#585e64">{escape(name)}</text>'
        )
    return "".join(text) or _nothing(width, height)


def _chart(panel: dict[str, Any], lines: list[Line], unit: str, box: Box) -> str:
    width, height, start, end = box
    if not lines:
        return _nothing(width, height)
    left, top, right, bottom = 58, 32, width - 12, height - 48
    stacked = panel["fieldConfig"]["defaults"]["custom"].get("stacking", {}).get("mode") == "normal"
    floors = dict.fromkeys(sorted({at for line in lines for at, _ in line.points}), 0.0)
    curves = []
    for line in lines:
        upper, lower = line.points, list(floors.items())
        if stacked:
            values = dict(line.points)
            upper = [(at, floor + values.get(at, 0.0)) for at, floor in lower]
            floors.update(upper)
        curves.append((line.name, lower, upper))
    most = _round_up(max(value for _, _, upper in curves for _, value in upper))

    def place(at: float, value: float) -> str:
        across, down = (at - start) / (end - start), value / most
        return f"{left + (right - left) * across:.1f} {bottom - (bottom - top) * down:.1f}"

    drawn = []
    for share in (0, 0.5, 1):
        y = bottom - (bottom - top) * share
        drawn.append(
            f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddcd5"/><text x="{left - 6}" '
            f'y="{y + 4:.1f}" text-anchor="end" fill="#585e64">{_amount(most * share, unit)}</text>'
        )
    for minutes in range(int((end - start) // 60) + 1):
        at = right - (right - left) * 60 * minutes / (end - start)
        word = f"-{minutes} min" if minutes else "now"
        drawn.append(f'<text x="{at:.0f}" y="{bottom + 15}" text-anchor="end" fill="#585e64">{word}</text>')
    legend = 10.0
    for number, (name, lower, upper) in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        path = "L".join(place(*point) for point in upper)
        if stacked:
            back = "L".join(place(*point) for point in reversed(lower))
            drawn.append(f'<path d="M{path}L{back}z" fill="{colour}" fill-opacity="0.35"/>')
        drawn.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        needed = 22 + 6.6 * len(name)
        if legend + needed <= width:
            drawn.append(
                f'<rect x="{legend:.0f}" y="{height - 20}" width="11" height="4" fill="{colour}"/>'
                f'<text x="{legend + 15:.0f}" y="{height - 13}" fill="#585e64">{escape(name)}</text>'
            )
            legend += needed + 8
    return "".join(drawn)


def _round_up(value: float) -> float:
    """The next figure that people like at an axis."""
    size = 10 ** math.floor(math.log10(value)) if value > 0 else 1
    return next(it * size for it in (1, 2, 4, 5, 8, 10) if it * size >= value)


def _nothing(width: int, height: int) -> str:
    return f'<text x="{width / 2}" y="{height / 2 + 8}" text-anchor="middle" fill="#585e64">No data</text>'


def _amount(value: float, unit: str) -> str:
    """A value as Grafana shows it, about."""
    if unit == "s":
        if 0 < value < 1:
            return f"{value * 1000:.3g} ms"
        return f"{value:.3g} s" if value < 90 else f"{value / 60:.3g} min"
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "bytes":
        return f"{value / 2**20:.3g} MiB"
    text = f"{value / 1000:.3g} k" if value >= 10_000 else f"{value:,.4g}"
    return f"{text}/s" if unit in {"ops", "reqps"} else text
