"""How the stand-in starts, and how it says that it cannot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from standin.process import COMMAND, environment
from support.netns import Namespace
from support.standin import running_standin

FETCH = "import urllib.request as r; print(r.urlopen('http://192.168.10.20:11111/netlox/v1/version').read().decode())"


def _start(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=20, env=environment()
    )


async def test_within_its_namespace_it_is_where_loxilb_is(space: Namespace) -> None:
    with running_standin(space):
        answer = json.loads(space.run([sys.executable, "-c", FETCH]))
    assert answer["version"] == "0.9.8.8"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--listen", "11111"), "argument --listen: '11111' is not HOST:PORT, [HOST]:PORT or 'none'"),
        (("--loxilb-version", "new"), "argument --loxilb-version: 'new' is no release like 0.9.1 or 0.9.8.4"),
        (("--fragile", "very"), "argument --fragile: invalid choice: 'very'"),
    ],
)
def test_mistake_on_the_command_line_is_named(arguments: tuple[str, str], complaint: str) -> None:
    ended = _start(*arguments)
    assert ended.returncode == 2
    assert complaint in ended.stderr.splitlines()[-1]


def test_certificate_that_is_not_there_is_named(tmp_path: Path) -> None:
    ended = _start("--api-delay", "0", "--listen", "none", "--tls-cert", str(tmp_path / "none.crt"))
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert "none.crt" in line


def test_port_that_is_taken_is_named(space: Namespace) -> None:
    with running_standin(space):
        ended = subprocess.run(
            ["ip", "netns", "exec", space.name, *COMMAND, "--api-delay", "0"],
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
            env=environment(),
        )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert "11111" in line
    assert "in use" in line
