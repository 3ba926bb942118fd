"""Standard streams that are closed, full, unread or of another encoding: no traceback, and a true exit status."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from routesync.cli.streams import standard_streams

ROUTESYNC = f"{sys.executable} -m routesync"
FULL = "routesync: the output cannot be written: No space left on device\n"


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["bash", "-c", line.replace("routesync", ROUTESYNC, 1)],
        env=os.environ | environment,
        capture_output=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    "command",
    ["--version", "--help", "schema", "check - <<<''", "status --socket /nowhere/s --state /nowhere"],
)
def test_output_that_cannot_be_written_is_one_line(command: str) -> None:
    done = shell(f"routesync {command} > /dev/full")
    assert (done.returncode, done.stderr.decode()[-len(FULL) :]) == (1, FULL)
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


@pytest.mark.parametrize("command", ["--version", "schema"])
def test_a_pipe_that_nobody_reads_is_as_sigpipe_for_other_programs(command: str) -> None:
    done = shell(f"routesync {command} | true; exit ${{PIPESTATUS[0]}}")
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("init - <&-", 0),
        ("check - <&-", 0),
        ("check - <<<'' >&-", 0),
        ("fleet --broker user@127.0.0.1:1 <&-", 3),
        ("schema nix 2>&-", 2),
        ("watch --socket /nowhere/s <&- >&-", 3),
    ],
)
def test_a_stream_that_is_closed_is_as_empty_as_null(command: str, status: int) -> None:
    done = shell(f"routesync {command}")
    assert b"Traceback" not in done.stderr
    assert done.returncode == status
    assert b"routesync: " not in done.stdout  # the error is not printed among the results


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_what_an_encoding_lacks_is_escaped_and_json_stays_json(encoding: str, tmp_path: Path) -> None:
    user = "rüle \N{SNOWMAN} \N{GRINNING FACE}"
    file = tmp_path / "routesync.toml"
    file.write_text(f'[mqtt]\nhost = "b"\nusername = "{user}"\n', encoding="utf-8")
    text = shell(f"routesync check {file}", PYTHONIOENCODING=encoding)
    assert text.returncode == 0, text.stderr
    assert rb"\u2603 \ud83d\ude00" in text.stdout
    with standard_streams(), io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="json") as out:
        out.write(json.dumps({"user": user}, ensure_ascii=False))
        out.seek(0)
        assert json.load(out) == {"user": user}
