"""What a file comes to: every value, and where it comes from; never a secret."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import jsonschema
import pytest
from typer.testing import CliRunner

from docgen.config_schema import json_schema
from routesync.cli.app import app
from routesync.config import Loaded, load
from routesync.config.effective import effective, toml, toml_value
from routesync.names import Names

ROOT = Path(__file__).parents[3]
SHIPPED = sorted((ROOT / "config").rglob("*.toml"))
SECRET = "hunter2hunter2"
FULL = """\
mode = "observe"
[policy]
[[policy.rules]]
name = "first"
match = { protocol = ["dhcp", 99], prefix = { within = "10.0.0.0/8", length = "24-32" }, flags = "linkdown" }
action = "drop"
[[policy.rules]]
name = "hop"
match.gateway = ["10.0.0.0/8"]
action = "keep"
next_hop = ["192.0.2.1", "2001:db8::1"]
[[targets]]
name = "lb-1"
url = "http://192.0.2.1:11111"
rate = 1.5
[[targets]]
name = "lb-2"
url = "http://192.0.2.2:11111"
token_file = "token"
[mqtt]
host = "broker"
username = "u"
[control]
listen = "127.0.0.1:9469"
"""


def loaded(directory: Path, text: str = FULL, **environ: str) -> Loaded:
    (directory / "token").write_text(SECRET)
    file = directory / "routesync.toml"
    file.write_text(text)
    return load(file, environ, Names())


def origins(it: Loaded) -> dict[str, str]:
    return {".".join(map(str, setting.path)): str(setting.origin) for setting in effective(it)}


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: str(file.name))
def test_what_is_shown_is_a_configuration_that_comes_to_the_same(file: Path, tmp_path: Path) -> None:
    before = load(file, {}, Names())
    again = tmp_path / "again.toml"
    again.write_text(toml(effective(before)))
    after = load(again, {}, Names())
    assert after.settings == before.settings
    assert all(it.origin.kind == "file" for it in effective(after) if it.value is not None)


def test_so_it_does_with_every_key(tmp_path: Path) -> None:
    environ = {"ROUTESYNC_MQTT_PASSWORD": SECRET}
    before = loaded(tmp_path, **environ)
    again = tmp_path / "again.toml"
    again.write_text(toml(effective(before)))
    assert load(again, environ, Names()).settings == before.settings


def test_each_value_has_its_origin(tmp_path: Path) -> None:
    found = origins(loaded(tmp_path, ROUTESYNC_MQTT_PASSWORD=SECRET))
    assert found["mode"] == "routesync.toml:1"
    assert found["node.name"] == "default, the host's name"
    assert found["kernel.tables"] == "default"
    assert found["policy.rules.1.next_hop"] == "routesync.toml:11"
    assert found["targets.0.rate"] == "routesync.toml:15"
    assert found["targets.1.token_file"] == "routesync.toml:19"
    assert found["targets.1.token"] == f"file {tmp_path}/token"
    assert found["mqtt.password"] == "environment variable ROUTESYNC_MQTT_PASSWORD"


def test_a_credential_of_systemd_and_what_the_environment_overrides(tmp_path: Path) -> None:
    found = origins(loaded(tmp_path, CREDENTIALS_DIRECTORY=str(tmp_path)))
    assert found["targets.1.token"] == "credential token"
    it = loaded(tmp_path, ROUTESYNC_TARGET_LB_2_TOKEN=SECRET)
    assert origins(it)["targets.1.token"] == "environment variable ROUTESYNC_TARGET_LB_2_TOKEN"
    assert "# token_file: not used: the environment comes first" in toml(effective(it))


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_no_secret_is_shown(tmp_path: Path, arguments: list[str]) -> None:
    text = FULL.replace('username = "u"', f'username = "u"\npassword = "{SECRET}"')
    loaded(tmp_path, text)
    done = CliRunner().invoke(app, ["check", str(tmp_path / "routesync.toml"), *arguments])
    assert done.exit_code == 0, done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert "password" in done.stdout


def test_json_has_the_same(tmp_path: Path) -> None:
    loaded(tmp_path)
    file = tmp_path / "routesync.toml"
    command = ["check", "--json", str(file)]
    answer = json.loads(CliRunner().invoke(app, command).stdout)
    by_key = {tuple(it["key"]): it for it in answer["settings"]}
    assert by_key["targets", 0, "rate"] == {
        "key": ["targets", 0, "rate"],
        "value": 1.5,
        "origin": {"kind": "file", "detail": str(file), "line": 15},
    }
    assert by_key["targets", 1, "token"]["secret"] is True

    file.write_text('[mqtt]\nport = "many"\n')
    done = CliRunner().invoke(app, command)
    assert (done.exit_code, done.stderr) == (78, "")
    answer = json.loads(done.stdout)
    assert answer["valid"] is False
    assert {problem["line"] for problem in answer["problems"]} == {1, 2}


def test_a_rule_that_never_gets_its_turn_is_named_with_its_line(tmp_path: Path) -> None:
    text = '[[policy.rules]]\nname = "all"\naction = "keep"\n\n[[policy.rules]]\nname = "late"\naction = "drop"\n'
    (warning,) = loaded(tmp_path, text).warnings
    assert warning.startswith(f"{tmp_path}/routesync.toml:5: [[policy.rules]] #2 (late): never takes effect")


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: str(file.name))
def test_editors_find_the_schema_by_the_first_line_and_it_holds(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.startswith("#:schema /usr/share/routesync/routesync.schema.json\n")
    jsonschema.Draft202012Validator(json_schema()).validate(tomllib.loads(text))


@pytest.mark.parametrize(
    "value", ["", 'a"b\\c\n\t\x00\x1f\x7fé😀', -1, 1.5, 1e300, True, ["a", 1], {"a b": {"c-d": []}}]
)
def test_values_are_written_as_toml_reads_them(value: object) -> None:
    assert tomllib.loads(f"key = {toml_value(value)}") == {"key": value}
