"""A user's mistakes: one line each that says where and what to do, and never a traceback."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import forks
from support.broker import broker
from support.waiting import eventually_sync

ROUTESYNC = [sys.executable, "-m", "routesync"]
EX_CONFIG = 78

RULE = '[[policy.rules]]\nname = "r"\naction = "drop"\n'
MISTAKES = {
    "malformed TOML": ('[policy\ndefault_action = "keep"\n', [":1", "]"]),
    "an unknown protocol": (RULE + 'match = { protocol = "dcp" }\n', ["dcp", "dhcp", "match"]),
    "an invalid prefix": (RULE + 'match = { prefix = "10.1.2.3/8" }\n', ["10.1.2.3/8", "10.0.0.0/8"]),
    "an unknown key": (RULE + 'match = { protocl = "dhcp" }\n', ["protocl", "protocol"]),
    "an unknown table": ("[polcy]\n", ["polcy", "policy"]),
    "a target without a URL": ('[[targets]]\nname = "lb"\n', ["url"]),
    "a word for a number": ('[mqtt]\nhost = "b"\nport = "many"\n', ["port", ":3"]),
}


@pytest.mark.parametrize(("text", "said"), MISTAKES.values(), ids=MISTAKES)
@pytest.mark.parametrize("command", ["check", "run", "plan"])
def test_a_wrong_file_is_explained_in_a_line_and_ends_with_78(
    tmp_path: Path, command: str, text: str, said: list[str]
) -> None:
    file = tmp_path / "routesync.toml"
    file.write_text(text)
    arguments = [str(file)] if command == "check" else ["--config", str(file), "--state", str(tmp_path)]
    done = forks.run("routesync", [command, *arguments])
    assert done.returncode == EX_CONFIG
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"routesync: {file}")
    for words in said:
        assert words in line
    assert done.stdout == ""


def test_a_missing_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    done = subprocess.run(
        [*ROUTESYNC, "run", "--config", str(tmp_path / "none.toml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == EX_CONFIG
    assert "none.toml" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (
            "withdraw --target lb --url htp://lb",
            2,
            "--url: 'htp://lb' is not an http or https URL; write it like http://192.168.10.20:11111",
        ),
        ("withdraw --target l/b", 2, "--target: 'l/b' is not a valid name; use at most 63 letters"),
        (
            "withdraw --target lb",
            EX_CONFIG,
            "has no target lb; if it is no longer configured, give its URL: --url",
        ),
        ("forget --target lb --prefix 10.1", 2, "--prefix: '10.1' is not a prefix like 10.0.0.0/8"),
        ("adopt --target lb 10.1.2.3/8", 2, "'10.1.2.3/8' has host bits set; did you mean 10.0.0.0/8?"),
        ("adopt --target lb --yes", EX_CONFIG, "has no target lb; it has: none"),
        ("plan 10.1", 2, "'10.1' is no address or prefix; write 10.1.2.3, 10.0.0.0/8 or 2001:db8::1"),
        ("watch --prefix 10.1", 2, "--prefix: '10.1' is not a prefix like 10.0.0.0/8"),
        ("watch --ca-file ca.pem", 2, "--ca-file is for --broker; the configuration has mqtt.tls.ca_file"),
        ("schema nix", 2, "schema 'nix' is unknown; known schemas: asyncapi, config"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_with_the_remedy(
    tmp_path: Path, arguments: str, status: int, said: str
) -> None:
    file = tmp_path / "routesync.toml"
    file.touch()
    command, *rest = arguments.split()
    files = ["--state", str(tmp_path)] if command in ("withdraw", "adopt", "forget") else []
    files += ["--config", str(file)] if command in ("withdraw", "adopt", "plan", "watch") else []
    done = forks.run("routesync", [command, *rest, *files])
    assert done.returncode == status
    (line,) = done.stderr.splitlines()
    assert said in line
    assert done.stdout == ""


@contextmanager
def daemon(directory: Path, text: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    file, log = directory / "routesync.toml", directory / "log"
    file.write_text(text)
    with log.open("wb") as out:
        process = forks.start(
            "routesync",
            ["run", "--config", str(file), "--state", str(directory / "state")],
            stdout=out,
            stderr=out,
        )
    try:
        yield process, log
    finally:
        process.kill()
        process.wait()


def ready(log: Path) -> bool:
    return '"event": "ready"' in log.read_text()


def test_an_unreachable_loxilb_is_said_once_and_retried(tmp_path: Path) -> None:
    text = '[[targets]]\nname = "lb"\nurl = "http://127.0.0.1:9"\n'
    with daemon(tmp_path, text) as (process, log):
        eventually_sync(lambda: ready(log), what="readiness")
        lines = [
            line for line in log.read_text().splitlines() if "target_down" in line and '"warning"' in line
        ]
        assert len(lines) == 1
        assert "http://127.0.0.1:9" in lines[0]
        assert "refused" in lines[0]
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert "Traceback" not in log.read_text()


def test_a_broker_that_refuses_the_password_is_said_once_and_retried(tmp_path: Path) -> None:
    with broker(users={"routesync": "right"}) as server:
        text = (
            f'[node]\nname = "n"\n[mqtt]\nhost = "127.0.0.1"\nport = {server.port}\n'
            'username = "routesync"\npassword = "wrong"\nreconnect_spread_s = 1\n'
        )
        with daemon(tmp_path, text) as (process, log):
            eventually_sync(lambda: ready(log), what="readiness")
            eventually_sync(lambda: "password" in log.read_text(), what="the complaint")
            lines = [line for line in log.read_text().splitlines() if "password" in line]
            assert len(lines) == 1
            assert "wrong" not in lines[0].replace("is wrong", "")
            server.set_users({"routesync": "wrong"})
            server.reload()
            eventually_sync(lambda: '"broker_up"' in log.read_text(), within_s=40, what="recovery")
            assert process.poll() is None


def test_the_status_says_degraded_and_why(tmp_path: Path) -> None:
    with broker() as server:
        text = (
            f'[node]\nname = "n"\n[mqtt]\nhost = "127.0.0.1"\nport = {server.port}\n'
            '[[targets]]\nname = "lb"\nurl = "http://127.0.0.1:9"\n'
        )
        with daemon(tmp_path, text) as (_, log):
            eventually_sync(lambda: ready(log), what="readiness")

            def status() -> dict[str, object]:
                done = subprocess.run(
                    [
                        "mosquitto_sub",
                        "-p",
                        str(server.port),
                        "-t",
                        "routesync/v1/n/status",
                        "-C",
                        "1",
                        "-W",
                        "5",
                    ],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                data: dict[str, object] = json.loads(done.stdout)["data"] if done.stdout else {}
                return data

            eventually_sync(lambda: status().get("state") == "degraded", what="degraded")
            assert "lb" in str(status()["reasons"])


def test_a_second_daemon_on_one_state_directory_refuses(tmp_path: Path) -> None:
    with daemon(tmp_path, "") as (process, log):
        eventually_sync(lambda: ready(log), what="readiness")
        done = subprocess.run(
            [
                *ROUTESYNC,
                "run",
                "--config",
                str(tmp_path / "routesync.toml"),
                "--state",
                str(tmp_path / "state"),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
        assert done.returncode == EX_CONFIG
        assert "another routesync" in done.stderr
        assert process.poll() is None


def test_a_state_directory_that_cannot_be_written_degrades_and_does_not_stop_it(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where a directory should be")
    with daemon(tmp_path, "") as (process, log):
        eventually_sync(lambda: ready(log), what="readiness")
        assert "ledger_unusable" in log.read_text()
        assert process.poll() is None
