"""[target_defaults]: keys that all targets share."""

from __future__ import annotations

from pathlib import Path

from routesync.config import Loaded, load
from routesync.config.effective import effective
from routesync.names import Names

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
