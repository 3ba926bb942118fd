"""Metrics of a real daemon: complete, well formed, few, and true; and what is logged while a target is away."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.openmetrics import parser

from docgen import metrics as reference
from support.promtool import needs_promtool, promtool
from support.waiting import eventually_sync
from support.world import World, world

PACKAGING = Path(__file__).parents[2] / "packaging"
RULES = (PACKAGING / "prometheus/routesync.rules.yml").read_text(encoding="utf-8")
DASHBOARD = (PACKAGING / "grafana/routesync.json").read_text(encoding="utf-8")
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
WITHOUT_CAUSE = {"routesync_kernel_dropped_events_total"}
"""These have a sample only when something of the kind has happened."""
ASK = """
import sys, urllib.request
request = urllib.request.Request("http://127.0.0.1:9469/metrics", headers={"Accept": sys.argv[1]})
print(urllib.request.urlopen(request, timeout=20).read().decode(), end="")
"""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One for all; the last test ends it."""
    with world(tmp_path_factory.mktemp("metrics")) as made:
        made.config.write_text(made.config.read_text() + '\n[control]\nlisten = "127.0.0.1:9469"\n')
        made.start()
        eventually_sync(lambda: bool(made.of("sync.completed", "edge")), within_s=20, what="the sync")
        yield made


def scrape(scene: World, accept: str = "text/plain") -> str:
    command = scene.command(sys.executable, "-c", ASK, accept)
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def samples(text: str) -> dict[str, float]:
    """By name and labels, as they stand there."""
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if line and line[0] != "#")
    return {name: float(number) for name, number in pairs}


def logged(scene: World, event: str) -> int:
    return scene.log().count(f'"event": "{event}"')


@needs_promtool
def test_all_that_dashboard_and_alerts_use_is_really_there(scene: World) -> None:
    text = scrape(scene)
    promtool("check", "metrics", stdin=text.encode())
    found = samples(text)
    names = {sample.partition("{")[0] for sample in found}
    used = set(re.findall(r"\broutesync_\w+", RULES + DASHBOARD))
    assert len(used) > 40
    families = {metric.name for metric in reference.described() if metric.kind in {"histogram", "summary"}}
    missing = used - names - families - WITHOUT_CAUSE
    assert {
        name for name in missing if not name.startswith("routesync_guard_")
    } == set()  # that is another mode
    for name, matchers in re.findall(r"\b(routesync_\w+)\{([^}]*)\}", RULES + DASHBOARD.replace('\\"', '"')):
        for label, operator, value in re.findall(r'(\w+)(=~?)"([^"$]+)"', matchers):
            values = set(re.findall(rf'^{name}{{.*?\b{label}="([^"]*)"', text, re.MULTILINE))
            wanted = set(value.split("|")) if operator == "=~" else {value}
            assert wanted <= values, f"{name} has {label} {values}"


def test_openmetrics_are_served_to_whom_asks_for_them(scene: World) -> None:
    text = scrape(scene, OPENMETRICS)
    assert text.endswith("# EOF\n")
    families = {family.name for family in parser.text_string_to_metric_families(text)}  # type: ignore[no-untyped-call]
    assert {"routesync_build", "routesync_target", "routesync_target_convergence_seconds"} <= families


def test_figures_are_true_and_their_number_does_not_grow_with_routes(scene: World) -> None:
    before = samples(scrape(scene))
    assert (
        before['routesync_target_routes{phase="accepted",target="edge"}']
        + before['routesync_target_routes{phase="confirmed",target="edge"}']
        == 5
    )
    assert before['routesync_routes{rule="dhcp-host-routes",verdict="drop"}'] == 1
    assert before['routesync_target_up{target="edge"}'] == before["routesync_mqtt_connected"] == 1
    reached = 'routesync_target_convergence_seconds_count{stage="accepted",target="edge"}'
    assert before[reached] == 0, "the first table is no change"

    node = scene.node
    node.batch([f"route add 10.60.{number}.0/24 via 192.168.10.11 proto static" for number in range(100)])
    eventually_sync(lambda: samples(scrape(scene))[reached] == 100, within_s=20, what="their acceptance")
    after = samples(scrape(scene))
    assert after['routesync_target_desired_routes{target="edge"}'] == 105
    assert {name for name in after if "_events" not in name} - before.keys() <= {
        name for name in after if 'cause="' in name or 'outcome="' in name or 'rule="' in name
    }
    slowest = 'routesync_target_convergence_seconds_bucket{le="30.0",stage="accepted",target="edge"}'
    assert after[slowest] == 100
    assert "10.60." not in scrape(scene)


def test_a_target_that_is_away_for_long_is_logged_once_and_once_when_it_is_back(scene: World) -> None:
    failed = 'routesync_target_requests_total{method="GET",outcome="not-sent",target="edge"}'
    scene.standin.stop()
    eventually_sync(
        lambda: samples(scrape(scene)).get(failed, 0) >= 3, within_s=40, what="three vain tries to reach it"
    )
    assert (logged(scene, "target_down"), logged(scene, "target_up")) == (1, 1)
    assert samples(scrape(scene))['routesync_target_up{target="edge"}'] == 0
    warnings = [
        line for line in map(json.loads, scene.log().splitlines()) if line["level"] in {"warning", "error"}
    ]
    assert [line["event"] for line in warnings] == ["target_down"]
    scene.standin.start()
    eventually_sync(lambda: logged(scene, "target_up") == 2, within_s=40, what="its return")
    assert logged(scene, "target_down") == 1
