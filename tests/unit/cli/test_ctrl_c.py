"""Ctrl-C while a command waits for its daemon, a broker or a loxilb: one exit status, never that of success."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from routesync.cli import requests
from routesync.cli.app import app
from routesync.mirror.status import TargetState
from support.processes import WITH_CTRL_C


@pytest.mark.parametrize(
    ("command", "status"),
    [
        *(
            (command, 130)
            for command in ("routes --socket S", "withdraw --target t --socket S", "resync --wait --socket S")
        ),
        ("fleet --broker u@127.0.0.1:P", 130),
        ("fleet --broker u@127.0.0.1:P diff", 130),
        ("init F --yes --target 127.0.0.1:P", 130),
        ("watch --socket S", 0),  # there it is the way to end it
        ("watch --broker 127.0.0.1:P", 0),
    ],
)
def test_it_ends_with_130(command: str, status: int, tmp_path: Path) -> None:
    local, port = socket.socket(socket.AF_UNIX), socket.create_server(("127.0.0.1", 0))
    with local, port:
        local.bind(str(tmp_path / "s"))
        local.listen()
        places = {"S": str(tmp_path / "s"), "F": str(tmp_path / "new.toml")}
        words = [places.get(it, it.replace(":P", f":{port.getsockname()[1]}")) for it in command.split()]
        process = subprocess.Popen(
            [*WITH_CTRL_C, sys.executable, "-m", "routesync", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            server = local if "S" in command.split() else port
            server.settimeout(30)
            connection, _ = server.accept()
            with connection:
                assert connection.recv(10)  # its request; nothing answers
                process.send_signal(signal.SIGINT)
                _, said = process.communicate(timeout=30)
        finally:
            process.kill()
            process.wait()
    assert (process.returncode, b"Traceback" in said) == (status, False), said


def test_it_ends_with_130_while_a_resync_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def press_ctrl_c(_: float) -> None:
        raise KeyboardInterrupt

    busy = SimpleNamespace(name="edge", state=TargetState.SYNCING, waiting=1, rate=1, remaining_s=1)
    answer = SimpleNamespace(targets=[busy], status=SimpleNamespace(kernel=None))
    monkeypatch.setattr(requests, "_status", lambda _: answer)
    monkeypatch.setattr(requests, "ask", lambda *_, **__: None)
    monkeypatch.setattr(time, "sleep", press_ctrl_c)
    assert CliRunner().invoke(app, ["resync", "--wait"]).exit_code == 130
