"""The manual pages name every command, option and key, and completion works in each shell."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from docgen import configuration
from routesync.cli.app import GROUPS, app
from routesync.cli.requests import known_targets

ROOT = Path(__file__).parents[3]
SHELLS = ("bash", "zsh", "fish")
FILES = {
    "bash": "bash-completion/completions/routesync",
    "zsh": "zsh/vendor-completions/_routesync",
    "fish": "fish/vendor_completions.d/routesync.fish",
}
PATH = f"{Path(sys.executable).parent}:/usr/bin:/bin"

GROUP: Any = typer.main.get_command(app)


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make manual` writes."""
    if shutil.which("scdoc") is None:
        pytest.skip("scdoc is missing: run packaging/bootstrap")
    made = tmp_path_factory.mktemp("share")
    subprocess.run(
        [ROOT / "packaging/manual", made], check=True, env={**os.environ, "SOURCE_DATE_EPOCH": "0"}
    )
    return made


def source(page: str) -> str:
    return (ROOT / "docs/man" / f"{page}.scd").read_text(encoding="utf-8")


def sections(page: str) -> dict[str, str]:
    """The text below each heading of the second level, by the heading."""
    found = {}
    for part in re.split(r"^#{1,2} ", source(page), flags=re.MULTILINE)[1:]:
        heading, _, text = part.partition("\n")
        found[heading] = text
    return found


def options(text: str) -> set[str]:
    return {name.rstrip("*") for name in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text)}


def names(params: list[Any]) -> Iterator[str]:
    for param in params:
        if param.param_type_name == "option":
            yield from (*param.opts, *param.secondary_opts)


@pytest.mark.parametrize("page", ["routesync.1", "routesync.toml.5"])
def test_manual_pages_have_no_errors(page: str, share: Path) -> None:
    file = share / "man" / f"man{page[-1]}" / page
    assert "@" not in file.read_text(encoding="ascii").split("NAME")[0]
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", file], capture_output=True, text=True, check=False
    )
    faults = [line for line in done.stdout.splitlines() if "skipping paragraph macro" not in line]
    assert (faults, done.stderr) == ([], ""), "scdoc makes empty paragraphs; all else is ours"


def test_the_manual_names_every_command_and_option() -> None:
    parts = sections("routesync.1")
    common = options(parts["COMMON OPTIONS"])
    commands = {
        heading.split()[1]: heading + text for heading, text in parts.items() if "routesync " in heading
    }
    assert set(commands) == set(GROUP.commands)
    for name, command in GROUP.commands.items():
        assert set(names(command.params)) <= options(commands[name]) | common, name


def test_the_manual_has_the_commands_in_their_groups() -> None:
    titles = {"LOOK": "Look", "CONFIGURATION": "Configure", "ACT": "Act", "SERVICE": "Service"}
    found: dict[str, set[str]] = {}
    commands: set[str] = set()
    for heading in re.findall(r"^#{1,2} (.*)", source("routesync.1"), flags=re.MULTILINE):
        if heading.startswith("COMMANDS "):
            commands = found[titles[heading.split()[-1]]] = set()
        elif heading.startswith("routesync "):
            commands.add(heading.split()[1])
    assert found == {group: set(commands.split()) for group, commands in GROUPS.items()}


def test_the_manual_names_no_option_that_does_not_exist() -> None:
    every = {"-h", "--help", *names(GROUP.params)}
    for command in GROUP.commands.values():
        every |= set(names(command.params))
    assert options(source("routesync.1")) <= every


def test_the_manual_has_every_key_of_the_configuration_with_its_default() -> None:
    parts = sections("routesync.toml.5")
    tables = configuration.tables()
    assert {table.name for table in tables} == set(parts) - {
        *("NAME", "SYNOPSIS", "DESCRIPTION", "KEYS", "EXAMPLE", "SEE ALSO"),
        *("Drop-ins", "Secrets", "How rules are evaluated"),
    }
    for table in tables:
        keys = dict(re.findall(r"^\*(\w+)\* = .*\n((?:\t.*\n)+)", parts[table.name], flags=re.MULTILINE))
        assert set(keys) == {key.name for key in table.keys}, table.name
        for key in table.keys:
            text = " ".join(keys[key.name].split())
            default = key.default if key.default != "[]" else ""
            assert re.findall(r"Default: \*(.*)\*\.$", text) == ([default] if default else []), key
            assert text.endswith("Required.") == key.required, key


def plain(text: str) -> str:
    """Without the markup of scdoc(5) and of Markdown, on one line."""
    text = re.sub(r"Default: \*.*\*\.$|Required\.$", "", " ".join(text.split()))
    text = re.sub(r"(?<!\w)_(\S+?)_(?!\w)", r"\1", re.sub(r"[*`]|\\(?=.)", "", text))
    return text.strip().rstrip(".")


def test_the_manual_says_of_each_key_and_table_what_the_reference_says() -> None:
    parts = sections("routesync.toml.5")
    differ = []
    for table in configuration.tables():
        keys = dict(re.findall(r"^\*(\w+)\* = .*\n((?:\t.*\n)+)", parts[table.name], flags=re.MULTILINE))
        said = {key.name: (keys[key.name], key.meaning) for key in table.keys}
        said[""] = (
            parts[table.name].partition("\n*")[0],
            table.meaning.replace("docs/", "/usr/share/doc/routesync/"),
        )
        differ += [(table.name, name) for name, (here, there) in said.items() if plain(here) != plain(there)]
    assert differ == [("[policy.rules.match]", key) for key in ("family", "type", "flags")], (
        "those list the values"
    )


@pytest.mark.parametrize("shell", SHELLS)
def test_its_shell_understands_the_completion(shell: str, share: Path) -> None:
    done = subprocess.run([shell, "-n", share / FILES[shell]], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def complete_by_bash(share: Path, directory: Path, *words: str) -> set[str]:
    script = (
        'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _routesync_completion routesync; '
        'if (( ${#COMPREPLY[@]} )); then printf "%s\\n" "${COMPREPLY[@]}"; else compgen -f -- "${@: -1}"; fi'
    )  # no words: `complete -o default` completes the names of files
    command = ["bash", "-c", script, "bash", str(share / FILES["bash"]), "routesync", *words]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=directory, env={"PATH": PATH}
    )
    assert done.stderr == ""
    return set(done.stdout.split())


def complete_by_fish(share: Path, directory: Path, *words: str) -> set[str]:
    line = " ".join(["routesync", *words])
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"source {share / FILES['fish']}; complete -C '{line}'"],
        capture_output=True,
        text=True,
        check=True,
        cwd=directory,
        env={"HOME": str(directory), "PATH": PATH},
    )
    return {row.split("\t")[0].rstrip("/") for row in done.stdout.splitlines()}


@pytest.mark.parametrize(
    ("complete", "words", "expected"),
    [
        (complete_by_bash, ["--v"], {"--version"}),
        *(
            (complete, words, expected)
            for complete in (complete_by_bash, complete_by_fish)
            for words, expected in (
                (["doc"], {"doctor"}),
                (["doctor", "--j"], {"--json"}),
                (["check", "it"], {"it.toml"}),
                (["routes", "--family", ""], {"ipv4", "ipv6"}),
            )
        ),
        (complete_by_fish, ["run", "--config", "it"], {"it.toml"}),
        # the same from here for each shell: the program itself answers
        (complete_by_bash, ["routes", "--phase", "confi"], {"confirmed"}),
        (complete_by_bash, ["schema", "asy"], {"asyncapi"}),
    ],
)
def test_completion(complete: Any, words: list[str], expected: set[str], share: Path, tmp_path: Path) -> None:
    (tmp_path / "it.toml").touch()
    assert complete(share, tmp_path, *words) == expected


def test_names_of_targets_are_those_of_the_file_without_a_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "routesync.toml"
    file.write_text('[[targets]]\nname = "edge"\nurl = "http://192.0.2.1:11111"\n')
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    assert known_targets(file) == ["edge"]
    assert known_targets(tmp_path / "none.toml") == []
    file.write_text("[[targets")
    assert known_targets(file) == []


def test_every_command_is_offered(share: Path, tmp_path: Path) -> None:
    assert complete_by_bash(share, tmp_path, "") == set(GROUP.commands)


def test_zsh_completes_at_the_first_tab(share: Path, tmp_path: Path) -> None:
    """At the first Tab zsh has yet to load the file."""
    folder = (share / FILES["zsh"]).parent
    script = f"""
    zmodload zsh/zpty
    zpty -b shell zsh -f -i
    zpty -w shell 'fpath=({folder} $fpath); autoload -Uz compinit; compinit -u -D; print loa""ded'
    zpty -r -m shell seen '*loaded*'
    zpty -w -n shell $'routesync doc\\t'
    zpty -r -m shell seen '*doctor*'
    """
    subprocess.run(["zsh", "-f", "-c", script], check=True, cwd=tmp_path, env={"PATH": PATH}, timeout=60)
