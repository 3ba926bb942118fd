"""Manual pages and completion say all that the program and its models say, and their own tools find them well."""

from __future__ import annotations

import subprocess
from datetime import date
from pathlib import Path

import pytest

from routesync.cli.manual import completion, man
from routesync.cli.manual.commands import commands
from routesync.config import reference

DAY = date(2026, 1, 31)
PAGES = {"routesync.1": man.program_page(DAY), "routesync.toml.5": man.configuration_page(DAY)}
SCRIPTS = {"bash": completion.bash, "zsh": completion.zsh, "fish": completion.fish}


@pytest.mark.parametrize("name", PAGES)
def test_a_manual_page_is_flawless(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(PAGES[name], encoding="utf-8")
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "style", str(file)], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert PAGES[name].isascii()


def shown(name: str, tmp_path: Path) -> str:
    """As a reader sees it, in one line."""
    file = tmp_path / name
    file.write_text(PAGES[name], encoding="utf-8")
    done = subprocess.run(["mandoc", "-T", "ascii", str(file)], capture_output=True, text=True, check=True)
    plain = subprocess.run(
        ["col", "-b"], input=done.stdout, capture_output=True, text=True, check=True
    ).stdout
    return " ".join(plain.split())


def test_the_manual_has_every_command_with_all_it_takes(tmp_path: Path) -> None:
    text = shown("routesync.1", tmp_path)
    for command in commands():
        assert f"routesync {command.name}" in text
        assert command.summary in text
        for option in command.options:
            assert option.help.replace("`", "") in text.replace("`", ""), option
            assert all(name in text for name in option.names)


def test_the_manual_has_every_key_of_the_configuration(tmp_path: Path) -> None:
    text = shown("routesync.toml.5", tmp_path)
    for table in reference.tables():
        assert table.name in text
        for key in table.keys:
            assert key.name in text
            assert " ".join(key.meaning.split()).replace("…", "...") in text, key


@pytest.mark.parametrize("shell", SCRIPTS)
def test_completion_knows_every_command_and_option(shell: str) -> None:
    text = SCRIPTS[shell]()
    for command in commands():
        assert command.name in text
        for option in command.options:
            for name in option.names:
                spelled = (
                    name
                    if shell != "fish"
                    else f"-l {name[2:]}"
                    if name.startswith("--")
                    else f"-s {name[1:]}"
                )
                assert spelled in text, f"{command.name} {name}"


@pytest.mark.parametrize("shell", SCRIPTS)
def test_completion_is_understood_by_its_shell(shell: str, tmp_path: Path) -> None:
    file = tmp_path / "completion"
    file.write_text(SCRIPTS[shell](), encoding="utf-8")
    done = subprocess.run([shell, "-n", str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def complete_by_bash(directory: Path, *words: str) -> list[str]:
    file = directory / "completion"
    file.write_text(completion.bash(), encoding="utf-8")
    words_are = 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))'
    script = f'{words_are}; _routesync; printf "%s\\n" "${{COMPREPLY[@]}}"'
    command = ["bash", "-c", script, "bash", str(file), "routesync", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=directory)
    assert done.stderr == ""
    return done.stdout.split()


CASES: list[tuple[list[str], set[str]]] = [
    (["do"], {"doctor"}),
    (["--v"], {"--version"}),
    (["doctor", "--j"], {"--json"}),
    (["doctor", "--config", "it"], {"it.toml"}),
    (["run", "--state", "st"], {"state"}),
    (["check", "it"], {"it.toml"}),
    (["routes", "--family", ""], {"ipv4", "ipv6"}),
    (["schema", "asy"], {"asyncapi"}),
    (["status", "--target"], set()),
    (["no-such-command", ""], set()),
]


@pytest.mark.parametrize(("words", "expected"), CASES)
def test_bash_completes(words: list[str], expected: set[str], tmp_path: Path) -> None:
    (tmp_path / "it.toml").touch()
    (tmp_path / "state").mkdir()
    assert set(complete_by_bash(tmp_path, *words)) == expected


def test_bash_offers_all_commands_where_nothing_is_typed(tmp_path: Path) -> None:
    assert {command.name for command in commands()} <= set(complete_by_bash(tmp_path, ""))


@pytest.mark.parametrize(("words", "expected"), [case for case in CASES if case[1]])
def test_fish_completes(words: list[str], expected: set[str], tmp_path: Path) -> None:
    (tmp_path / "it.toml").touch()
    (tmp_path / "state").mkdir()
    file = tmp_path / "completion.fish"
    file.write_text(completion.fish(), encoding="utf-8")
    line = " ".join(["routesync", *words])
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"source {file}; complete -C '{line}'"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    found = {row.split("\t")[0].rstrip("/") for row in done.stdout.splitlines()}
    assert expected <= found
