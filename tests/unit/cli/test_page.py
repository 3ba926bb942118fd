"""`fleet --page` writes the page of a fleet, or says in one line what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from routesync.cli import page
from routesync.cli.app import app


@pytest.fixture
def library(tmp_path: Path) -> Path:
    file = tmp_path / "mqtt.esm.js"
    file.write_text("export default {}\n")
    return file


def write(directory: Path, *more: str | Path) -> Result:
    options = ("--broker", "broker.example", *map(str, more))
    return CliRunner().invoke(app, ["fleet", "--page", str(directory), *options])


def test_it_is_whole_and_connects_to_what_it_was_written_for(tmp_path: Path, library: Path) -> None:
    done = write(tmp_path / "site", "--mqtt-js", library, "--websockets", "wss://broker.example:8884")
    assert done.exit_code == 0, done.output
    index = (tmp_path / "site/index.html").read_text()
    assert 'data-source="fleet" data-broker="wss://broker.example:8884"' in index
    assert "Content-Security-Policy" in index
    written = {file.name for file in (tmp_path / "site/page").iterdir()}
    needed = {file.name for file in page.SOURCE.iterdir() if file.suffix in {".js", ".css", ".svg"}}
    assert written == needed | {"mqtt.js"}
    assert (tmp_path / "site/page/mqtt.js").read_text() == library.read_text()


def test_what_keeps_it_from_being_written_is_said_in_one_line(tmp_path: Path, library: Path) -> None:
    (tmp_path / "file").touch()
    for options, status, said in (
        (("--mqtt-js", tmp_path / "none.js"), 1, "none.js: no such file; `npm install mqtt` brings it"),
        (
            ("--mqtt-js", library, "--websockets", "mqtts://b:8883"),
            2,
            "a browser connects to ws:// or wss://",
        ),
        (("--mqtt-js", library), 1, "file/page: Not a directory"),
    ):
        done = write(tmp_path / "file", *options)
        assert done.exit_code == status, done.output
        assert said in " ".join(done.stderr.split())
        assert done.exception is None or isinstance(done.exception, SystemExit)
