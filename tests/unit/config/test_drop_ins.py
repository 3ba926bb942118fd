"""Drop-ins: files in routesync.toml.d, merged into the file that was installed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from routesync.config import ConfigError, Loaded, load
from routesync.config.effective import effective
from routesync.config.sources import digest_now
from routesync.names import Names

MAIN = """\
mode = "observe"
[policy]
default_action = "keep"
[[policy.rules]]
name = "connected"
match = { protocol = "kernel" }
action = "drop"
[[targets]]
name = "a"
url = "http://192.0.2.1:11111"
[log]
level = "info"
"""


def loaded(directory: Path, **drop_ins: str) -> Loaded:
    (directory / "routesync.toml").write_text(MAIN)
    (directory / "routesync.toml.d").mkdir()
    for name, text in drop_ins.items():
        (directory / "routesync.toml.d" / f"{name}.toml").write_text(text)
    return load(directory / "routesync.toml", {}, Names())


def test_a_later_file_wins_key_by_key_and_each_value_says_its_file(tmp_path: Path) -> None:
    made = loaded(tmp_path, b='mode = "guard"\n', a='mode = "mirror"\n[log]\nformat = "json"\n')
    assert (made.settings.mode, made.settings.log.level, made.settings.log.format) == (
        "guard",
        "info",
        "json",
    )
    origins = {it.path: str(it.origin) for it in effective(made)}
    assert origins["mode",] == "b.toml:1"
    assert origins["log", "format"] == "a.toml:3"
    assert origins["log", "level"] == "routesync.toml:12"


def test_targets_are_added_and_rules_come_before_those_of_the_files_before(tmp_path: Path) -> None:
    rule = '[[policy.rules]]\nname = "{0}"\nmatch = {{ interface = "{0}" }}\naction = "keep"\n'
    target = '[[targets]]\nname = "{0}"\nurl = "http://{0}.example.net:11111"\n'
    made = loaded(
        tmp_path, x1=rule.format("one") + target.format("b"), x2=rule.format("two") + target.format("c")
    )
    assert [it.name for it in made.settings.policy.rules] == ["two", "one", "connected"]
    assert [it.name for it in made.settings.targets] == ["a", "b", "c"]
    origins = {it.path: str(it.origin) for it in effective(made)}
    assert origins["policy", "rules", 0, "name"] == "x2.toml:2"
    assert origins["policy", "rules", 1, "name"] == "x1.toml:2"
    assert origins["policy", "rules", 2, "name"] == "routesync.toml:5"
    assert [origins["targets", index, "name"] for index in range(3)] == [
        "routesync.toml:9",
        "x1.toml:6",
        "x2.toml:6",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mode = 1\n", "x.toml:1: key mode: expected"),
        ("[[targets\n", "x.toml:1: column 10: not valid TOML"),
        ('[[targets]]\nname = "a"\nurl = "http://192.0.2.2:1"\n', "x.toml:2: "),
        ("policy = 3\n", "x.toml:1: "),
        ("targets = 3\n", "x.toml:1: "),
    ],
)
def test_a_fault_names_the_drop_in_and_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, x=text)
    assert said in str(caught.value)
    assert "routesync.toml:" not in str(caught.value)


def test_the_digest_covers_them_and_other_files_are_no_drop_ins(tmp_path: Path) -> None:
    made = loaded(tmp_path)
    for name in ("README", ".hidden.toml", "x.toml.bak"):
        (tmp_path / "routesync.toml.d" / name).write_text("[[[")
    assert load(made.path, {}, Names()).digest == made.digest
    (tmp_path / "routesync.toml.d/x.toml").write_text("# a remark\n")
    assert load(made.path, {}, Names()).digest != made.digest


def test_what_moves_to_another_file_changes_the_digest(tmp_path: Path) -> None:
    one, other = "[node]\nname = 'a'\n", "[log]\nlevel = 'debug'\n"
    made = loaded(tmp_path, x=one + other, y="")
    for name, text in (("x", one), ("y", other)):
        (tmp_path / f"routesync.toml.d/{name}.toml").write_text(text)
    after = load(made.path, {}, Names())
    assert after.settings == made.settings
    assert after.digest != made.digest
    assert digest_now(made.path) == after.digest


def test_only_the_file_with_a_secret_is_named_when_all_may_read_it(tmp_path: Path) -> None:
    made = loaded(tmp_path, x='[mqtt]\nhost = "b"\nusername = "u"\npassword = "secret"\n')
    (warning,) = (it for it in made.warnings if "every user" in it)
    assert "routesync.toml.d/x.toml: every user" in warning


def test_a_pipe_among_them_is_an_error_and_not_waited_for(tmp_path: Path) -> None:
    made = loaded(tmp_path)
    pipe = tmp_path / "routesync.toml.d/x.toml"
    os.mkfifo(pipe)
    with pytest.raises(ConfigError) as caught:
        load(made.path, {}, Names())
    assert str(caught.value) == (
        f"{pipe}: cannot be read: not a regular file; put a regular file of at most 16 MiB in its place"
    )
    assert digest_now(made.path) is None


def test_a_link_to_dev_null_is_an_empty_one(tmp_path: Path) -> None:
    made = loaded(tmp_path)
    (tmp_path / "routesync.toml.d/x.toml").symlink_to("/dev/null")
    assert load(made.path, {}, Names()).settings == made.settings


@pytest.mark.parametrize("name", ["routesync.toml", "routesync.toml.d/x.toml"])
def test_a_link_to_nothing_is_to_be_removed_or_restored(tmp_path: Path, name: str) -> None:
    made = loaded(tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).symlink_to("../gone.toml")
    with pytest.raises(ConfigError) as caught:
        load(made.path, {}, Names())
    assert str(caught.value) == (
        f"{tmp_path / name}: a link to nothing; remove the link, or restore what it points to"
    )
