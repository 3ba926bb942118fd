"""`routesync init`: what it makes of a host, and that each file it can write is a valid configuration."""

from __future__ import annotations

import itertools
import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest
import typer
from typer.testing import CliRunner

from demo.topology import FOUNDING_TABLE
from routesync.cli.app import app
from routesync.cli.init import Found, Wishes, document, init, look, read_target
from routesync.config import load
from routesync.config.models import MqttSettings
from routesync.config.parsers import SettingError
from routesync.kernel import InterfaceAddress, Link, Sysctls, TableDump
from routesync.names import Names
from routesync.route import Prefix, parse_address
from support.other_user import User
from support.routes import INTERFACES, ip_route

NOBODY = User(65534, 65534)
OURS = parse_address("192.168.10.10")
ADDRESSES = (InterfaceAddress(3, OURS, Prefix.parse("192.168.10.0/24")),)


def dump(lines: Sequence[str]) -> TableDump:
    links = {ifindex: Link(ifindex, name, 1, b"") for ifindex, name in INTERFACES.items()}
    reaching = next(ifindex for ifindex, name in INTERFACES.items() if name == "ens3")
    addresses = tuple(it._replace(ifindex=reaching) for it in ADDRESSES)
    return TableDump(tuple(map(ip_route, lines)), links, addresses, Sysctls(), {})


def test_the_founding_table() -> None:
    found = look(dump(FOUNDING_TABLE), OURS)
    assert found.behind == (
        "cni0",
        "flannel.1",
    )  # not docker0, which is down, and whose network is behind NAT
    assert found.default
    (route,) = found.host_routes
    assert route.startswith("192.168.10.1/32 dev ens3, by ")


def test_the_default_route_is_left_out_where_another_interface_reaches_loxilb() -> None:
    lines = [
        line.replace("dev ens3", "dev eth0") if line.startswith("default") else line
        for line in FOUNDING_TABLE
    ]
    found = look(dump(lines), OURS)
    assert found.behind == ("cni0", "flannel.1")
    assert not found.default


@pytest.mark.parametrize(
    ("behind", "url", "broker", "sharing", "default", "whole"),
    list(
        itertools.product(
            [(), ("cni0",), ("cni0", "flannel.1")],
            [None, "http://192.168.10.20:11111"],
            [None, MqttSettings(host="broker.example.net")],
            [None, 7],
            [True, False],
            [True, False],
        )
    ),
)
def test_what_is_written_is_valid_and_says_what_was_found(
    tmp_path: Path,
    *,
    behind: tuple[str, ...],
    url: str | None,
    broker: MqttSettings | None,
    sharing: int | None,
    default: bool,
    whole: bool,
) -> None:
    wishes = Wishes(url, broker, behind, default)
    text = "\n".join(document(Found(behind, default, (), sharing), wishes, url, whole=whole))
    file = tmp_path / "routesync.toml"
    file.write_text(text)
    made = load(file, {}, Names())
    settings = made.settings
    assert made.warnings == ()
    assert [(it.url, it.allow_default) for it in settings.targets] == ([(url, default)] if url else [])
    assert settings.mqtt == broker
    assert settings.mode == ("observe" if sharing and not url else "mirror")
    rules = {rule.name: rule.match.interface for rule in settings.policy.rules}
    assert rules.get("behind-this-host", ()) == behind
    assert ("connected" in rules) is whole


def test_a_broker_with_all_that_a_url_can_say_is_written(tmp_path: Path) -> None:
    file = tmp_path / "routesync.toml"
    arguments = [
        "init",
        str(file),
        "--yes",
        "--interface",
        "cni0",
        "--broker",
        "mqtts://me@broker.example.net:8884/here",
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    mqtt = load(file, {}, Names()).settings.mqtt
    assert mqtt is not None
    assert (mqtt.host, mqtt.port, mqtt.username, mqtt.root) == ("broker.example.net", 8884, "me", "here")
    assert mqtt.tls is not None

    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 1
    assert f"{file} exists; --force replaces it" in again.stderr
    assert CliRunner().invoke(app, [*arguments, "--force"]).exit_code == 0


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("192.0.2.1", "http://192.0.2.1:11111"),
        ("lb.example.net", "http://lb.example.net:11111"),
        ("lb.example.net:8080", "http://lb.example.net:8080"),
        ("2001:db8::1", "http://[2001:db8::1]:11111"),
        ("https://lb.example.net:8091/netlox/v1", "https://lb.example.net:8091"),
    ],
)
def test_a_target_is_a_url_or_a_host(text: str, url: str) -> None:
    assert read_target(text) == url


def test_what_is_no_target_is_refused() -> None:
    with pytest.raises(SettingError, match="is not a host name or address"):
        read_target("-x")


def test_on_a_terminal_it_asks_for_what_is_not_given(tmp_path: Path) -> None:
    file = tmp_path / "routesync.toml"
    leader, terminal = pty.openpty()
    try:
        os.write(leader, b"127.0.0.1:1\n-\nbroker.example.net\n")
        done = subprocess.run(
            [sys.executable, "-m", "routesync", "init", str(file)],
            stdin=terminal,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    finally:
        os.close(leader)
        os.close(terminal)
    assert done.returncode == 0, done.stderr
    assert "no loxilb answers" in done.stderr
    assert f"routesync plan --config {file}" in done.stdout
    settings = load(file, {}, Names()).settings
    assert [it.url for it in settings.targets] == ["http://127.0.0.1:1"]
    assert settings.mqtt == MqttSettings(host="broker.example.net")
    assert "behind-this-host" not in [rule.name for rule in settings.policy.rules]


@pytest.mark.parametrize("before", [None, "# mine\n"])
def test_a_file_that_would_make_the_configuration_invalid_is_not_written(
    tmp_path: Path, before: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    installed = tmp_path / "routesync.toml"
    installed.write_text('[[targets]]\nname = "edge"\nurl = "http://127.0.0.1:2"\n')
    drop_in = tmp_path / "routesync.toml.d" / "site.toml"
    if before is not None:
        drop_in.parent.mkdir()
        drop_in.write_text(before)
    wishes = Wishes("127.0.0.1:1", None, (), default_route=False)
    with pytest.raises(typer.Exit) as caught:
        init(None, wishes, installed=installed, force=True, ask=False)
    assert caught.value.exit_code == 78
    assert "#1 has the name 'edge' already" in capsys.readouterr().err
    assert (drop_in.read_text() if drop_in.exists() else None) == before


def test_a_place_where_no_file_can_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for file, said in (
        (tmp_path, f"{tmp_path}: Is a directory"),
        (tmp_path / "file/new.toml", f"{tmp_path}/file: File exists"),
    ):
        result = CliRunner().invoke(app, ["init", str(file), "--yes", "--force"])
        assert result.exit_code == 1
        assert result.stderr.endswith(f"routesync: {said}; name another file\n")


class Answering(BaseHTTPRequestHandler):
    """A server that answers each path with a status and a body; 404 to all others."""

    answers: ClassVar[dict[str, tuple[int, bytes]]] = {}

    def do_GET(self) -> None:
        status, body = self.answers.get(self.path.removeprefix("/netlox/v1"), (404, b"<html>no</html>"))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


PORTS = {"/config/port/all": (200, b'{"portAttr": []}')}


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({}, "something answers at {}, but not as loxilb does: GET /config/port/all: "),
        ({"/version": (200, b"<html>")} | PORTS, "no loxilb answers: GET /version: "),
        ({"/version": (401, b"{}")}, "{} denies access: GET /version: "),
        ({"/config/port/all": (403, b"{}")}, "{} denies access: GET /config/port/all: "),
        (PORTS, "loxilb before 0.9.8 answers at {}"),
        ({"/version": (200, b'{"version": "0.9.8.5"}')} | PORTS, "loxilb 0.9.8.5 answers at {}"),
    ],
)
def test_a_loxilb_is_told_from_any_other_server(
    answers: dict[str, tuple[int, bytes]], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Answering, "answers", answers)
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        serving = Thread(target=server.serve_forever)
        serving.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            arguments = ["init", str(tmp_path / "new.toml"), "--yes", "--target", url]
            done = CliRunner().invoke(app, arguments)
        finally:
            server.shutdown()
            serving.join()
    assert done.exit_code == 0
    assert f"routesync: {said.format(url)}" in done.stderr


def test_an_interface_that_does_not_exist_is_named(tmp_path: Path) -> None:
    names = ("lo", "l*", "nosuch0", "nosuch*")
    options = [f"--interface={name}" for name in names]
    done = CliRunner().invoke(app, ["init", str(tmp_path / "new.toml"), "--yes", *options])
    assert done.exit_code == 0
    warned = [line.partition(";")[0] for line in done.stderr.splitlines() if "warning" in line]
    assert warned == [
        f"routesync: warning: this host has no interface {name}" for name in ("nosuch0", "nosuch*")
    ]


@pytest.mark.parametrize(
    ("place", "is_in_place"),
    [
        ("routesync.toml", True),
        ("routesync.toml.d/site.toml", True),
        ("routesync.toml.d/50 mine.toml", True),
        ("else where.toml", False),
    ],
)
def test_the_next_steps_are_those_of_the_file_that_was_written(
    place: str, *, is_in_place: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    installed = tmp_path / "routesync.toml"
    installed.touch()
    init(
        tmp_path / place,
        Wishes(None, None, (), default_route=False),
        installed=installed,
        force=True,
        ask=False,
    )
    said = capsys.readouterr().out
    assert ("systemctl enable --now routesync" in said) is is_in_place
    assert ("\n    routesync check\n    routesync plan --offline\n" in said) is is_in_place
    steps = f"\n    routesync check '{tmp_path / place}'\n    routesync plan --config '{tmp_path / place}'\n"
    assert (f"{steps}The service reads {installed}, not this file.\n" in said) is not is_in_place


@pytest.mark.root
@pytest.mark.parametrize("more", [(), ("--force",)])
def test_a_directory_that_may_not_be_searched_is_named(tmp_path: Path, more: tuple[str, ...]) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    file = private / "new.toml"
    done = NOBODY.run("init", str(file), "--yes", *more)
    assert done.returncode == 1
    assert done.stderr.endswith(
        f"routesync: {file}: Permission denied; run this as root, or name another file\n"
    )
