"""`check` of what a command line names: a pipe and standard input are read like a file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from threading import Thread

import pytest
from typer.testing import CliRunner

from routesync.cli.app import app

TEXT = b'mode = "observe"\n'


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_standard_input(options: list[str]) -> None:
    done = CliRunner().invoke(app, ["check", *options, "-"], input=TEXT)
    assert done.exit_code == 0
    assert "observe" in done.stdout


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_pipe_whose_writer_takes_its_time(tmp_path: Path, options: list[str]) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = Thread(target=pipe.write_bytes, args=(TEXT,))
    writer.start()
    done = CliRunner().invoke(app, ["check", *options, str(pipe)])
    writer.join()
    assert done.exit_code == 0
    assert "observe" in done.stdout


def test_a_descriptor_of_the_shell() -> None:
    reader, writer = os.pipe()
    os.write(writer, TEXT)
    os.close(writer)
    done = CliRunner().invoke(app, ["check", f"/dev/fd/{reader}"])
    os.close(reader)
    assert done.exit_code == 0
    assert "observe" in done.stdout


def test_dev_null_is_an_empty_configuration() -> None:
    assert CliRunner().invoke(app, ["check", "--quiet", "/dev/null"]).exit_code == 0


def test_what_has_no_end_is_not_read_for_ever() -> None:
    done = CliRunner().invoke(app, ["check", "/dev/zero"])
    assert done.exit_code == 78
    assert done.stderr == (
        "routesync: /dev/zero: cannot be read: larger than 16 MiB; "
        "put a regular file of at most 16 MiB in its place\n"
    )


def test_a_path_that_is_not_utf_8_is_written_as_in_messages(tmp_path: Path) -> None:
    file = tmp_path / "k\udcf6ü.toml"
    file.write_bytes(TEXT)
    shown = rf"{tmp_path}/k\udcf6ü.toml"
    answer = json.loads(CliRunner().invoke(app, ["check", "--json", str(file)]).stdout)
    assert answer["file"] == shown
    assert answer["settings"][0]["origin"]["detail"] == shown
    file.write_bytes(b"mode = 1")
    answer = json.loads(CliRunner().invoke(app, ["check", "--json", str(file)]).stdout)
    assert (answer["file"], answer["problems"][0]["file"]) == (shown, shown)


def test_doctor_too(tmp_path: Path) -> None:
    file = tmp_path / "k\udcf6ü.toml"
    file.write_bytes(TEXT)
    options = ["--json", "--no-contact", "--config", str(file), "--state", str(tmp_path / "s\udcf6")]
    findings = json.loads(CliRunner().invoke(app, ["doctor", *options]).stdout)["findings"]
    subjects = {it["check"]: it["subject"] for it in findings}
    assert subjects["config"] == rf"{tmp_path}/k\udcf6ü.toml"
    assert subjects["state-directory"] == rf"{tmp_path}/s\udcf6"
