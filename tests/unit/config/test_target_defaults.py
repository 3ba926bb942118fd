"""[target_defaults]: keys that all targets share."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from routesync.config import ConfigError, Loaded, load, unconfigured_target
from routesync.config.effective import effective
from routesync.names import Names
from support.certificates import Authority

TEXT = """\
[target_defaults]
next_hop = "self"
rate = 100.0
token_file = "token"
tls = { ca_file = "ca.pem" }

[[targets]]
name = "one"
url = "http://192.0.2.1:11111"
rate = 50.0
token = "secret"

[[targets]]
name = "two"
url = "http://192.0.2.2:11111"
"""


def loaded(directory: Path, text: str) -> Loaded:
    (directory / "token").write_text("from the file")
    file = directory / "routesync.toml"
    file.write_text(text)
    return load(file, {}, Names())


def test_a_target_has_the_defaults_and_its_own_keys_take_precedence(tmp_path: Path) -> None:
    made = loaded(tmp_path, TEXT.replace('tls = { ca_file = "ca.pem" }\n', ""))
    one, two = made.settings.targets
    assert (one.rate, two.rate) == (50, 100)
    assert one.next_hop is not None
    assert one.next_hop == two.next_hop
    assert made.secrets == ("secret", "from the file")


def test_the_origin_of_a_default_is_its_line(tmp_path: Path) -> None:
    made = loaded(tmp_path, TEXT.replace('tls = { ca_file = "ca.pem" }\n', ""))
    origins = {it.path: str(it.origin) for it in effective(made)}
    assert origins["targets", 0, "rate"] == "routesync.toml:9"
    assert origins["targets", 1, "rate"] == "routesync.toml:3"
    assert not any(path[0] == "target_defaults" for path in origins)


def test_a_drop_in_can_have_the_defaults(tmp_path: Path) -> None:
    directory = tmp_path / "routesync.toml.d"
    directory.mkdir()
    (directory / "site.toml").write_text("[target_defaults]\nwriters = 3\n")
    made = loaded(tmp_path, TEXT.replace('tls = { ca_file = "ca.pem" }\n', ""))
    assert [it.writers for it in made.settings.targets] == [3, 3]


def test_a_target_that_is_configured_no_more_has_the_defaults_and_its_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    file = tmp_path / "routesync.toml"
    file.write_text('[target_defaults]\ntoken_file = "token"\nwriters = 3\n')
    made = load(file, {}, Names())
    found = unconfigured_target(made, "gone", "http://192.0.2.1:11111", {})
    assert (found.writers, found.token_file) == (3, str(tmp_path / "token"))
    environ = {"ROUTESYNC_TARGET_GONE_TOKEN": "other"}
    found = unconfigured_target(made, "gone", "http://192.0.2.1:11111", environ)
    assert found.token_file is None
    assert found.token is not None
    assert found.token.get_secret_value() == "other"
    (tmp_path / "token").unlink()
    for url, environ, said in (
        ("http://192.0.2.1:11111", {}, "key token_file: cannot read"),
        (
            "http://192.0.2.1:11111",
            {"ROUTESYNC_TARGET_GONE_TOKEN": ""},
            "key token: the environment variable",
        ),
        (
            "htp://192.0.2.1",
            {"ROUTESYNC_TARGET_GONE_TOKEN": "x"},
            "key url: 'htp://192.0.2.1' is not an http",
        ),
    ):
        with pytest.raises(ConfigError, match=re.escape(f"{file}: target gone, {said}")):
            unconfigured_target(made, "gone", url, environ)


def test_a_target_that_is_configured_no_more_is_reached_by_tls_as_the_others(tmp_path: Path) -> None:
    file = tmp_path / "routesync.toml"
    authority = Authority(tmp_path)
    file.write_text(f'[target_defaults.tls]\nca_file = "{authority.certificate.name}"\n')
    made = load(file, {}, Names())
    found = unconfigured_target(made, "gone", "https://192.0.2.1:8091", {})
    assert found.tls is not None
    assert found.tls.ca_file == str(authority.certificate)
    authority.certificate.write_text("no certificate")
    with pytest.raises(ConfigError, match="target gone, key tls: ca_file: "):
        unconfigured_target(made, "gone", "https://192.0.2.1:8091", {})
