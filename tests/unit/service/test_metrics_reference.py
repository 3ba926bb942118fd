"""Dashboard and alerts use only metrics that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docgen import metrics as reference
from support.promtool import needs_promtool, promtool

ROOT = Path(__file__).parents[3]
RULES = ROOT / "packaging/prometheus/routesync.rules.yml"
DASHBOARD = ROOT / "packaging/grafana/routesync.json"
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}
FOR_ALL = {"instance", "job", "le"}


def names() -> dict[str, set[str]]:
    """Every name that may stand in an expression, with its labels."""
    found: dict[str, set[str]] = {}
    for metric in reference.described():
        for suffix in SUFFIXES.get(metric.kind, ("",)):
            found[metric.name + suffix] = set(metric.labels) | FOR_ALL
    return found


def expressions(node: Any) -> Iterator[str]:
    """All of a dashboard's expressions."""
    if isinstance(node, dict):
        yield from (node[key] for key in ("expr", "definition") if key in node)
        for value in node.values():
            yield from expressions(value)
    elif isinstance(node, list):
        for value in node:
            yield from expressions(value)


def dashboard() -> list[str]:
    return list(expressions(json.loads(DASHBOARD.read_text(encoding="utf-8"))))


def test_names_and_units_follow_the_conventions() -> None:
    for metric in reference.described():
        assert metric.name.startswith("routesync_")
        assert (metric.kind == "counter") == metric.name.endswith("_total"), metric.name
        assert not re.search(r"_(ms|milliseconds|minutes|kib|kb)(_|$)", metric.name), metric.name
        assert metric.meaning.endswith("."), metric.name


def test_no_label_has_a_value_for_each_route() -> None:
    labels = {label for metric in reference.described() for label in metric.labels}
    assert not labels & {"prefix", "route", "gateway", "address", "destination"}


@pytest.mark.parametrize("used", ["rules", "dashboard"])
def test_every_metric_and_label_that_is_used_exists(used: str) -> None:
    text = RULES.read_text(encoding="utf-8") if used == "rules" else "\n".join(dashboard())
    known = names()
    plain = {metric.name for metric in reference.described()}
    mentioned = set(re.findall(r"\broutesync_\w+", text))
    assert len(mentioned) > 15
    for name in mentioned:
        assert name in known or name in plain, name
    for name, matchers in re.findall(r"\b(routesync_\w+)\{([^}]*)\}", text):
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers):
            assert label in known[name], f"{name} has no label {label}"


@needs_promtool
def test_the_alerts_speak_when_they_should() -> None:
    promtool("check", "rules", str(RULES))
    assert "SUCCESS" in promtool("test", "rules", str(RULES.with_suffix("")) + ".test.yml")


@needs_promtool
def test_the_dashboard_is_understood_by_prometheus(tmp_path: Path) -> None:
    queries = [text for text in dashboard() if not text.startswith("label_values(")]
    assert len(queries) > 30
    rules = tmp_path / "dashboard.yml"
    records = [
        {"record": f"panel:{number}", "expr": text.replace("$__rate_interval", "5m")}
        for number, text in enumerate(queries)
    ]
    rules.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": records}]}))
    assert f"{len(queries)} rules found" in promtool("check", "rules", str(rules))


def test_each_panel_says_what_it_shows() -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    shown = [panel for panel in panels if panel["type"] != "row"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["title"] and panel["targets"] for panel in shown)
