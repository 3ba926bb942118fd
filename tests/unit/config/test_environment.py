"""Settings from the environment, and variables that look like such."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from routesync.config import ConfigError, Loaded, load
from routesync.config.effective import effective
from routesync.names import Names


def loaded(directory: Path, text: str, environ: Mapping[str, str]) -> Loaded:
    file = directory / "routesync.toml"
    file.write_text(text)
    return load(file, environ, Names())


def test_the_environment_names_the_node_and_the_mode(tmp_path: Path) -> None:
    environ = {"ROUTESYNC_NODE_NAME": "node-7", "ROUTESYNC_MODE": "observe"}
    made = loaded(tmp_path, 'mode = "mirror"\n[node]\nname = "all"\n', environ)
    assert (made.settings.node.name, made.settings.mode) == ("node-7", "observe")
    origins = {it.path: str(it.origin) for it in effective(made)}
    assert origins["mode",] == "environment variable ROUTESYNC_MODE"
    assert origins["node", "name"] == "environment variable ROUTESYNC_NODE_NAME"
    assert made.warnings == ()


def test_an_empty_variable_counts_as_not_set(tmp_path: Path) -> None:
    made = loaded(tmp_path, 'mode = "observe"\n', {"ROUTESYNC_MODE": ""})
    assert made.settings.mode == "observe"


@pytest.mark.parametrize(
    ("text", "environ", "said"),
    [
        ("", {"ROUTESYNC_MODE": "mirroring"}, "environment variable ROUTESYNC_MODE: key mode: expected "),
        ("", {"ROUTESYNC_NODE_NAME": "a/b"}, "environment variable ROUTESYNC_NODE_NAME: "),
        ("node = 1\n", {"ROUTESYNC_NODE_NAME": "a"}, "routesync.toml:1: "),
    ],
)
def test_a_wrong_value_is_blamed_on_where_it_is(
    tmp_path: Path, text: str, environ: Mapping[str, str], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text, environ)
    assert said in str(caught.value)


EDGE = '[[targets]]\nname = "${SITE}-edge"\nurl = "http://${EDGE_IP}:11111"\n'


def test_the_file_takes_names_and_addresses_from_the_environment(tmp_path: Path) -> None:
    made = loaded(tmp_path, EDGE, {"SITE": "north", "EDGE_IP": "192.0.2.1"})
    (target,) = made.settings.targets
    assert (target.name, target.url) == ("north-edge", "http://192.0.2.1:11111")
    origins = {it.path: (it.value, str(it.origin)) for it in effective(made)}
    assert origins["targets", 0, "url"] == ("http://192.0.2.1:11111", "routesync.toml:3")


def test_a_secret_is_not_expanded(tmp_path: Path) -> None:
    made = loaded(
        tmp_path, EDGE.replace("${SITE}-", "") + 'token = "${A}"\n', {"EDGE_IP": "192.0.2.1", "A": "b"}
    )
    assert made.secrets == ("${A}",)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (
            "http://${EDGE_IP}",
            "3: [[targets]] #1 (edge), key url: the environment variable EDGE_IP is not set; set it",
        ),
        (
            "http://${EDGE_IP",
            "3: [[targets]] #1 (edge), key url: a '${' in it is not followed by the name of an ",
        ),
        (
            "http://${}",
            "3: [[targets]] #1 (edge), key url: a '${' in it is not followed by the name of an ",
        ),
    ],
)
def test_a_variable_that_is_not_set_is_the_only_fault_of_its_key(tmp_path: Path, url: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, f'[[targets]]\nname = "edge"\nurl = "{url}"\n', {"EDGE_IP": ""})
    (problem,) = caught.value.problems
    assert f"routesync.toml:{said}" in str(problem)


def test_a_variable_that_means_nothing_is_a_warning_with_a_suggestion(tmp_path: Path) -> None:
    made = loaded(tmp_path, "", {"ROUTESYNC_NODENAME": "a", "ROUTESYNC_COLOUR": "b", "OTHER": "c"})
    colour, name = made.warnings
    assert colour == "environment variable ROUTESYNC_COLOUR: routesync has none of this name"
    assert name.endswith(
        "ROUTESYNC_NODENAME: routesync has none of this name; did you mean ROUTESYNC_NODE_NAME?"
    )


def test_what_kubernetes_sets_beside_a_service_is_no_warning(tmp_path: Path) -> None:
    names = "SERVICE_HOST SERVICE_PORT SERVICE_PORT_METRICS PORT PORT_9469_TCP PORT_9469_TCP_ADDR METRICS_SERVICE_HOST"
    environ = {f"ROUTESYNC_{name}": "tcp://10.96.0.7:9469" for name in names.split()}
    assert loaded(tmp_path, "", environ).warnings == ()
