"""Arguments that are wrong: the error lists the right ones. And what commands make of a file without a daemon."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from typer.testing import CliRunner

from routesync.cli.app import app
from routesync.doctor.facts import UnitFacts
from support.other_user import User

TARGET = '[[targets]]\nname = "edge"\nurl = "http://127.0.0.1:11111"\n'


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            "routes --phase refusd",
            "--phase: unknown phase 'refusd'; did you mean 'refused'? Known: pending, accepted",
        ),
        (
            "watch --local --type route.drop",
            "--type: unknown type 'route.drop'; did you mean 'route.dropped'?",
        ),
        (
            "watch --local --type nothing.*",
            "--type: unknown type 'nothing.*'; Known: status, alarm.cleared, ",
        ),
    ],
)
def test_a_wrong_word_lists_the_right_ones(command: str, said: str) -> None:
    result = CliRunner().invoke(app, command.split())
    assert result.exit_code == 2
    assert f"routesync: {said}" in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        "watch --broker 127.0.0.1:1 --node {}",
        "fleet --broker 127.0.0.1:1 --node good --node {}",
        "fleet --broker 127.0.0.1:1 --node {} who-has 10.0.0.1",
        "fleet --broker 127.0.0.1:1 diff {} good",
        "fleet --broker 127.0.0.1:1 diff good {}",
        "takeover --target edge --node {}",
    ],
)
@pytest.mark.parametrize("name", ["#", "a#", "+", "a/b", "$SYS"])
def test_the_name_of_a_node_cannot_be_another_part_of_a_topic(command: str, name: str) -> None:
    result = CliRunner().invoke(app, command.format(name).split())
    assert result.exit_code == 2
    assert f"'{name}' is not a valid name; use at most 63 letters" in result.stderr


@pytest.mark.parametrize("broker", ["http://foo", "mqtt://h:99999", "u:p@h", "mqtt://", "h/#"])
@pytest.mark.parametrize("command", ["fleet", "fleet --page {}", "watch", "init {} --yes"])
def test_what_names_no_broker_is_explained(command: str, broker: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [*command.format(tmp_path / "new").split(), "--broker", broker])
    assert "write HOST, HOST:PORT, or mqtt[s]://[USER@]HOST[:PORT][/ROOT]" in result.stderr
    assert result.exit_code == 2
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--all diff", "--all and --page have no effect on `fleet diff`; leave them out"),
        ("--page D who-has 10.0.0.1", "--all and --page have no effect on `fleet who-has`; leave them out"),
        ("--websockets ws://b", "--websockets and --mqtt-js are for --page DIR"),
        ("--mqtt-js it.js diff", "--websockets and --mqtt-js are for --page DIR"),
        ("--label site=x diff n1 n2", "diff NODE NODE compares these two; leave out --node and --label"),
        ("--node n3 diff n1 n2", "diff NODE NODE compares these two; leave out --node and --label"),
        ("diff n1", "name two nodes, or none"),
    ],
)
def test_no_option_of_fleet_is_without_effect(options: str, said: str) -> None:
    result = CliRunner().invoke(app, ["fleet", "--broker", "127.0.0.1:1", *options.split()])
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr


@pytest.mark.parametrize("kind", ["status", "route.*", "*.lost"])
def test_a_right_type_is_accepted(kind: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["watch", "--socket", str(tmp_path / "none"), "--type", kind])
    assert result.exit_code == 3  # no daemon runs there


def test_standard_input_is_checked() -> None:
    result = CliRunner().invoke(app, ["check", "-"], input="mod = 1\n")
    assert (result.exit_code, result.stderr) == (
        78,
        "routesync: -:1: key mod: unknown key 'mod'; did you mean 'mode'?\n",
    )
    assert CliRunner().invoke(app, ["check", "-", "--quiet"], input=TARGET).exit_code == 0


@pytest.mark.parametrize(("mode", "targets"), [("mirror", ["edge"]), ("observe", []), ("guard", [])])
def test_a_plan_writes_to_targets_in_mode_mirror_alone(mode: str, targets: list[str], tmp_path: Path) -> None:
    file = tmp_path / "routesync.toml"
    file.write_text(f'mode = "{mode}"\n{TARGET}')
    options = ["plan", "--config", str(file), "--state", str(tmp_path), "--no-contact"]
    plan = json.loads(CliRunner().invoke(app, [*options, "--json"]).stdout)
    assert [it["name"] for it in plan["targets"]] == targets
    assert plan["mode"] == mode
    text = CliRunner().invoke(app, options).stdout
    assert (f"mode {mode}: no target is written to" in text) is (mode != "mirror")


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["install"], 0, "Install units, user"),
        (["stat"], 0, "Show the state of the daemon"),
        (["fleet", "who"], 0, "Show which nodes have mirrored a prefix"),
        (["fl", "d"], 0, "Show the nodes whose tables differ"),
        (["res"], 2, "'res' is ambiguous: resume, resync"),
        (["re"], 2, "'re' is ambiguous: resume, resync, release, reload, repair"),
        (["statsu"], 2, "No such command 'statsu'. Did you mean 'status'?"),
        (["fleet", "why"], 2, "No such command 'why'."),
        (["plan"], 0, "Show what happens to each"),
    ],
)
def test_the_beginning_of_a_command_is_enough_where_no_other_begins_so(
    words: list[str], status: int, said: str
) -> None:
    done = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "200"})
    assert (done.exit_code, said in done.output) == (status, True), done.output


def test_the_help_of_fleet_has_its_exit_statuses() -> None:
    help_ = " ".join(CliRunner().invoke(app, ["fleet", "--help"], env={"COLUMNS": "200"}).output.split())
    assert "1 if some are not or may be missing, 3 if the broker cannot be asked" in help_


@pytest.mark.root
@pytest.mark.parametrize(
    ("command", "status"),
    [
        *(
            (command, 4)
            for command in (
                "status",
                "routes",
                "plan",
                "watch",
                "resync",
                "adopt --target edge --yes",
                "health",
            )
        ),
        ("plan --config F", 78),
        ("check F", 78),
        ("run --config F", 78),
        ("fleet --config F", 78),
        ("fleet --broker 127.0.0.1:1 --ca-file F", 3),
        ("init F --yes", 1),
        ("init F --yes --force", 1),
    ],
)
def test_what_may_not_be_read_is_said_by_its_reader_with_its_own_status(command: str, status: int) -> None:
    """Not by the parser of the command line, as a wrong argument."""
    with TemporaryDirectory() as name, socket.socket(socket.AF_UNIX) as listening:
        file, place = Path(name, "file"), Path(name, "control.sock")
        listening.bind(str(place))
        file.touch()
        for path, mode in ((Path(name), 0o755), (place, 0o660), (file, 0o600)):
            path.chmod(mode)
        words = command.replace(" F", f" {file}").split()
        done = User(65534, 65534).run(*words, *([] if "F" in command.split() else ["--socket", str(place)]))
    assert done.returncode == status, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("routesync: ")


def test_the_status_of_a_service_with_credentials_is_json_where_no_daemon_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    unit = UnitFacts("failed", "failed", "exit-code", 78, 0, "", "routesync")
    unit = unit._replace(credentials={"mqtt-password": Path("/etc/mqtt-password"), "token": None})
    monkeypatch.setattr("routesync.cli.unanswered.read_unit", lambda: unit)
    at = ["--socket", str(tmp_path / "none.sock"), "--state", str(tmp_path)]
    result = CliRunner().invoke(app, ["status", "--json", *at])
    assert result.exit_code == 3
    assert json.loads(result.stdout)["systemd"]["credentials"] == {
        "mqtt-password": "/etc/mqtt-password",
        "token": None,
    }


@pytest.mark.parametrize(
    ("words", "offered"), [("routesync sta --js", ["--json"]), ("routesync re --js", [])]
)
def test_a_shell_completes_a_command_of_which_only_the_beginning_is_there(
    words: str, offered: list[str]
) -> None:
    shell = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")), "_ROUTESYNC_COMPLETE": "complete_bash"}
    result = CliRunner().invoke(app, prog_name="routesync", env=shell)
    assert (result.stdout.split(), result.stderr, result.exit_code) == (offered, "", 0)
