"""The commands that ask or order a running daemon, as an operator uses them: on the founding scene, whole."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.topology import MIRRORED_TABLE
from routesync.mirror.ledger import read_owned
from support.daemon import ROUTESYNC
from support.terminal import ANSI, lines, on_terminal
from support.waiting import eventually_sync
from support.world import World, world

FAILED, USAGE, NOT_RUNNING, EX_CONFIG = 1, 2, 3, 78


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One scene for all tests here: each leaves it as it found it."""
    with world(tmp_path_factory.mktemp("scene")) as made:
        made.start()
        made.mirror_holds(MIRRORED_TABLE)
        eventually_sync(lambda: made.run("status").returncode == 0, what="a healthy daemon")
        # a plan from the file reads loxilb's table, and the stand-in dies of a read that meets the daemon's changes
        eventually_sync(lambda: made.standin.state().waiting == 0, what="quiet in loxilb")
        yield made


def said(scene: World, *arguments: str, status: int = 0, stdin: str = "") -> str:
    done = scene.run(*arguments, stdin=stdin)
    assert done.returncode == status, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def answer(scene: World, *arguments: str) -> Any:
    return json.loads(said(scene, *arguments, "--json"))


def test_health_is_for_probes(scene: World) -> None:
    assert said(scene, "health") == "ready\n"
    assert said(scene, "health", "--live") == "live\n"


def test_status_is_one_screen_and_says_that_all_is_well(scene: World) -> None:
    shown = said(scene, "status").splitlines()
    assert len(shown) < 24
    assert re.match(r"node  online  routesync \S+, mode mirror, pid \d+, up ", shown[0])
    text = "\n".join(shown)
    assert "5 prefixes kept, 3 routes dropped" in text
    assert re.search(r"rules +dhcp-host-routes +drop +1\n", text)
    assert re.search(r" +pod-networks +keep +4\n", text)
    assert re.search(r"target +edge  synced  http://192\.168\.10\.20:11111, loxilb ", text)
    assert re.search(r"\n +5 desired: (5 accepted|5 confirmed|\d accepted, \d confirmed)\n", text)
    assert re.search(r"\n +complete; last compared with the target \d+ s ago\n", text)
    assert re.search(r"broker +connected\n", text)
    assert re.search(r"alarms +none", text)
    status = answer(scene, "status")
    assert status["status"]["state"] == "online"
    assert [rule["rule"] for rule in status["rules"]][-1] == "default"


def test_explain_says_why_the_host_route_is_not_mirrored_and_a_pod_is(scene: World) -> None:
    host = said(scene, "explain", "192.168.10.1/32")
    assert "dev ens3 proto dhcp metric 100\n    rule dhcp-host-routes drops it" in host
    pod = said(scene, "explain", "10.244.1.7")
    assert pod.startswith("10.244.1.7/32 at edge: by 10.244.1.0/24 via 192.168.10.10, ")
    assert "rule pod-networks keeps it; elected; next hop for the targets: 192.168.10.10" in pod
    assert re.search(
        r"edge: (accepted|confirmed) via 192\.168\.10\.10, since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d \(", pod
    )
    assert "\n0.0.0.0/0\n" in pod, "what covers it, too"
    nothing = said(scene, "explain", "2001:db8::1", status=FAILED)
    assert "no route covers it in the tables that are read (main), not even a default route" in nothing


def test_a_plan_for_one_prefix_without_the_daemon_explains_the_same(scene: World) -> None:
    files = ("--config", str(scene.config), "--state", str(scene.state))
    shown = said(scene, "plan", "192.168.10.1/32", *files)
    assert shown.startswith(f"without the daemon, by the rules of {scene.config}\n192.168.10.1/32 at edge: ")
    assert "dev ens3 proto dhcp metric 100\n    rule dhcp-host-routes drops it" in shown

    def candidates(explanation: Any) -> list[tuple[object, ...]]:
        return [
            (it["why"], it["hops"], it["next_hop"])
            for prefix in explanation["prefixes"]
            for it in prefix["candidates"]
        ]

    def targets(explanation: Any) -> list[tuple[object, ...]]:
        return [
            (it["target"], it["desired"], it["owned"], it["rule"], it["code"])
            for prefix in explanation["prefixes"]
            for it in prefix["targets"]
        ]

    live = answer(scene, "explain", "10.244.1.7")
    offline = answer(scene, "plan", "10.244.1.7", *files)
    assert (live["source"], offline["source"]) == ("daemon", "files")
    assert candidates(live) == candidates(offline)
    assert targets(live) == targets(offline)
    assert targets(live)[0] == ("edge", "192.168.10.10", "192.168.10.10", "pod-networks", None)
    assert [it["phase"] for it in offline["prefixes"][0]["targets"]] == ["confirmed"], "its table shows it"
    assert candidates(answer(scene, "plan", "10.244.1.7")) == candidates(live), "the daemon's own explanation"
    silent = answer(scene, "plan", "10.244.1.7", *files, "--no-contact")
    assert silent["prefixes"][0]["targets"][0]["read"] is None
    edge = {"name": "edge", "url": "http://192.168.10.20:11111", "paused": False, "error": None}
    assert silent["targets"] == [edge | {"state": "not contacted"}]


def test_routes_shows_the_table_and_how_it_stands_there(scene: World) -> None:
    table = said(scene, "routes")
    assert "10.244.1.0/24  pod-networks  via 10.244.1.0 dev flannel.1 onlink proto boot" in table
    assert "5 prefixes" in table
    rows = answer(scene, "routes", "--rule", "pod-networks", "--target", "edge")["routes"]
    assert [row["prefix"] for row in rows] == [f"10.244.{number}.0/24" for number in range(4)]
    assert {row["targets"][0]["phase"] for row in rows} <= {"accepted", "confirmed"}
    assert "no such routes" in said(scene, "routes", "--phase", "refused", status=FAILED)


def test_the_live_plan_agrees_with_the_one_from_the_file(scene: World) -> None:
    def verdicts(plan: Any) -> list[tuple[object, ...]]:
        return [
            (row["prefix"], row["verdict"], row["rule"], row["hops"], row["elected"])
            for row in plan["routes"]
        ]

    live = answer(scene, "plan")
    assert live["source"] == "daemon"
    offline = scene.plan()
    assert offline["source"] == "files"
    assert verdicts(live) == verdicts(offline)
    assert {end["fate"] for row in live["routes"] for end in row["targets"]} == {"present"}
    assert "8 routes by the running daemon" in said(scene, "plan")
    summary = said(scene, "plan", "--summary").splitlines()
    assert summary[0] == "8 routes by the running daemon"
    assert "      4  keep  rule pod-networks" in summary
    assert "0 to post, 0 to replace, 0 to delete, 5 present already" in "".join(summary)


def test_a_pause_leaves_loxilb_as_it_is_and_its_end_makes_it_good(scene: World) -> None:
    node = scene.node
    assert said(scene, "pause", "--target", "edge") == "edge: paused\n"
    assert said(scene, "pause") == "edge: paused already\n"
    status = said(scene, "status", status=FAILED)
    assert "paused since" in status
    assert "routesync resume --target edge" in status
    node.ip("route add 10.77.0.0/16 via 192.168.10.1")
    eventually_sync(
        lambda: '"10.77.0.0/16"' in json.dumps(answer(scene, "routes")), what="the route in the table"
    )
    explained = said(scene, "explain", "10.77.0.1")
    assert "edge is paused" in explained
    assert "edge: pending via 192.168.10.1" in explained
    assert scene.mirrored() == [*MIRRORED_TABLE] or sorted(scene.mirrored()) == sorted(MIRRORED_TABLE)
    assert said(scene, "resume") == "edge: resumed\n"
    scene.mirror_holds([*MIRRORED_TABLE, "10.77.0.0/16 via 192.168.10.1"])
    node.ip("route del 10.77.0.0/16")
    scene.mirror_holds(MIRRORED_TABLE)


def test_a_shell_completes_names_of_targets(scene: World) -> None:
    words = {"COMP_WORDS": "routesync pause -t ", "COMP_CWORD": "3", "_ROUTESYNC_COMPLETE": "complete_bash"}
    done = subprocess.run(
        scene.command(str(Path(sys.executable).with_name("routesync"))),
        capture_output=True,
        text=True,
        check=False,
        env=scene.environment | words,
    )
    assert (done.stdout.strip(), done.stderr) == ("edge", "")


def test_resync_and_release_say_what_they_do(scene: World) -> None:
    before = answer(scene, "status")["status"]["kernel"]["resyncs"]
    ordered = "a dump of the kernel's table is ordered\nedge: verification ordered\n"
    assert said(scene, "resync") == ordered
    assert said(scene, "resync", "--force") == ordered
    resyncs = answer(scene, "status")["status"]["kernel"]["resyncs"]
    assert said(scene, "resync", "--wait") == f"{ordered}edge: synced, complete\n"
    assert answer(scene, "status")["status"]["kernel"]["resyncs"] > resyncs
    eventually_sync(
        lambda: answer(scene, "status")["status"]["kernel"]["resyncs"] > before,
        what="another dump of the kernel",
    )
    assert said(scene, "release", "-t", "edge") == "edge: nothing was held back\n"


def test_a_reload_is_answered_and_a_wrong_file_changes_nothing(scene: World) -> None:
    good = scene.config.read_text()
    digest = answer(scene, "status")["config"]["digest"]
    scene.config.write_text(good + "\n[polcy]\n")
    try:
        refused = said(scene, "reload", status=EX_CONFIG)
        assert "[polcy]: unknown key 'polcy'; did you mean 'policy'?" in refused
        assert "the running configuration stays" in refused
        degraded = json.loads(said(scene, "status", "--json", status=FAILED))
        assert degraded["config"]["digest"] == digest
        assert "configuration rejected, the running one stays" in degraded["status"]["reasons"][0]
    finally:
        scene.config.write_text(good)
    assert said(scene, "reload") == f"{scene.config} is active\n"
    assert said(scene, "status").endswith("none\n")


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        (
            ("explain", "lb-1"),
            USAGE,
            "'lb-1' is no address or prefix; write 10.1.2.3, 10.0.0.0/8 or 2001:db8::1",
        ),
        (("explain", "10.1.2.3/24"), USAGE, "'10.1.2.3/24' has host bits set; did you mean 10.1.2.0/24?"),
        (
            ("routes", "--within", "10.1"),
            USAGE,
            "within: '10.1' is not a prefix like 10.0.0.0/8 or 2001:db8::/32",
        ),
        (("pause", "--target", "nix"), USAGE, "there is no target nix; there are: edge"),
        (("adopt", "--target", "nix"), USAGE, "there is no target nix; there are: edge"),
        (
            ("withdraw", "--target", "edge"),
            FAILED,
            "target edge is mirrored into: its routes would be added again",
        ),
        (("forget", "--target", "edge", "--yes"), FAILED, "to forget it, take it out of the configuration"),
        (
            ("forget", "--target", "edge", "--prefix", "10.244.1.0/24", "--yes"),
            FAILED,
            "target edge: 1 of 1 prefix not forgotten: only owned routes can be, and while the target is mirrored",
        ),
        (("adopt", "--target", "edge", "10.1"), USAGE, "'10.1' is not a prefix like 10.0.0.0/8"),
        (
            ("adopt", "--target", "edge", "10.244.1.0/24"),
            FAILED,
            "10.244.1.0/24: target edge has no route to it that is present or left-behind",
        ),
        (
            ("repair", "--target", "edge", "10.244.1.0/24"),
            FAILED,
            "10.244.1.0/24: target edge has no route that is not-forwarded",
        ),
        (("repair", "--target", "nix"), USAGE, "there is no target nix; there are: edge"),
    ],
)
def test_a_mistake_is_one_line_and_a_stable_exit_status(
    scene: World, arguments: tuple[str, ...], status: int, line: str
) -> None:
    (complaint,) = said(scene, *arguments, status=status).splitlines()
    assert complaint.startswith("routesync: ")
    assert line in complaint


@pytest.mark.parametrize(
    "command",
    [
        "health",
        "routes",
        "explain 10.0.0.1",
        "resync",
        "pause",
        "release",
        "reload",
        "repair --target edge",
    ],
)
def test_without_a_daemon_each_command_says_so(scene: World, tmp_path: Path, command: str) -> None:
    nowhere = tmp_path / "none.sock"
    (line,) = said(scene, *command.split(), "--socket", str(nowhere), status=NOT_RUNNING).splitlines()
    assert line == (
        f"routesync: routesync does not run here: there is no {nowhere}; "
        "start it (systemctl start routesync), or name its socket with --socket"
    )


def test_status_without_a_daemon_shows_what_the_host_does(scene: World, tmp_path: Path) -> None:
    nowhere = ("--socket", str(tmp_path / "none.sock"))
    shown = said(scene, "status", *nowhere, "--state", str(tmp_path), status=NOT_RUNNING)
    assert f"daemon   does not run, by the lock on {tmp_path}\n" in shown
    assert "ledger   owned: no route\n" in shown
    facts = json.loads(scene.run("status", "--json", *nowhere, "--state", str(scene.state)).stdout)
    assert facts["running"]
    assert scene.process is not None
    assert (facts["pid"], facts["stopped"], facts["owned"]) == (scene.process.pid, False, {"edge": 5})


# -- on a terminal, and off it -------------------------------------------------------------------------------

SHOWN = (("status",), ("routes",), ("explain", "192.168.10.1"))


@pytest.mark.parametrize("command", SHOWN)
def test_a_terminal_of_80_columns_gets_colour_and_nothing_beyond_its_edge(
    scene: World, command: tuple[str, ...]
) -> None:
    status, screen = on_terminal(scene.command(*ROUTESYNC, *command), 80)
    assert status == 0
    assert ANSI.search(screen)
    assert max(map(len, lines(screen))) <= 80
    status, plain = on_terminal(scene.command(*ROUTESYNC, *command), 80, NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", plain), "NO_COLOR counts"


@pytest.mark.parametrize("command", [*SHOWN, ("plan",)])
def test_a_pipe_gets_plain_text_and_whole_values(scene: World, command: tuple[str, ...]) -> None:
    piped = said(scene, *command)
    assert "\x1b" not in piped
    assert "…" not in piped
    if command[0] != "plan":
        _, screen = on_terminal(scene.command(*ROUTESYNC, *command), 60)
        assert lasting("".join(lines(screen))) == lasting(piped), "wrapped, never cut"


def lasting(text: str) -> str:
    """What does not change from one look to the next, without white space."""
    solid = re.sub(r"\s+", "", text)
    ages = r"\(\d+\w+ago\)|up\d+(s|min\d*s?)(?=config)|target\d+\w+ago"
    return re.sub(rf"{ages}|lag[\d.e-]+ms|\d+resyncs?", "", solid)


# -- which routes are owned ----------------------------------------------------------------------------------


def test_adopt_asks_the_daemon_and_the_claim_is_proved(tmp_path: Path) -> None:
    with world(tmp_path) as scene:
        loxilb = scene.loxilb
        loxilb.ip("route add 10.244.1.0/24 via 192.168.10.10 proto static")
        scene.start()
        scene.mirror_holds(MIRRORED_TABLE)
        eventually_sync(
            lambda: scene.run("routes", "--phase", "present").returncode == 0,
            what="a route that is present",
        )
        assert len(read_owned(scene.state, "edge")) == 4
        declined = said(scene, "adopt", "--target", "edge", status=FAILED, stdin="n\n")
        assert "10.244.1.0/24 via 192.168.10.10 (present)" in declined
        assert "Take ownership of this route in edge?" in declined
        assert len(read_owned(scene.state, "edge")) == 4
        assert "--json asks nothing" in said(scene, "adopt", "--target", "edge", "--json", status=USAGE)
        assert answer(scene, "adopt", "--target", "edge", "--yes") == {"target": "edge", "routes": 1}
        eventually_sync(
            lambda: scene.run("routes", "--phase", "confirmed", "--within", "10.244.1.0/24").returncode == 0,
            within_s=20,
            what="the proof",
        )
        assert len(read_owned(scene.state, "edge")) == 5
        assert "nothing to adopt" in said(scene, "adopt", "--target", "edge")
        scene.node.ip("route del 10.244.1.0/24")
        scene.mirror_holds([line for line in MIRRORED_TABLE if not line.startswith("10.244.1.0/24")])


def in_phase(scene: World, phase: str) -> list[str]:
    done = scene.run("routes", "--phase", phase, "--target", "edge", "--json")
    return sorted(row["prefix"] for row in json.loads(done.stdout)["routes"])


def test_a_route_that_is_not_forwarded_is_repaired_by_hand(tmp_path: Path) -> None:
    with world(tmp_path) as scene:
        loxilb = scene.loxilb
        scene.start()
        scene.mirror_holds(MIRRORED_TABLE)
        loxilb.ip("route add 10.244.1.0/24 via 192.168.10.1 metric 50")
        loxilb.ip("route del 10.244.1.0/24 via 192.168.10.1 metric 50")
        scene.mirror_holds(MIRRORED_TABLE)  # so that the next inventory finds loxilb's table without it
        said(scene, "resync")
        eventually_sync(
            lambda: in_phase(scene, "not-forwarded") == ["10.244.1.0/24"],
            within_s=20,
            what="its loss in loxilb",
        )
        eventually_sync(
            lambda: "routesync repair --target edge" in scene.run("status").stdout,
            what="the alarm in the status",
        )
        degraded = said(scene, "status", status=FAILED)
        assert "1 not-forwarded" in degraded
        assert "\n         not complete; last compared" in degraded
        declined = said(scene, "repair", "--target", "edge", status=FAILED, stdin="n\n")
        assert declined.startswith("10.244.1.0/24 via 192.168.10.10 (not-forwarded)\n")
        assert "Delete and add again this route in edge?" in declined
        assert "--json asks nothing" in said(scene, "repair", "--target", "edge", "--json", status=USAGE)
        repaired = said(scene, "repair", "--target", "edge", "10.244.1.0/24", "--yes")
        assert repaired.endswith("edge: 1 route to be deleted and added again\n")
        eventually_sync(lambda: not in_phase(scene, "not-forwarded"), within_s=20, what="the repair")
        said(scene, "resync")
        eventually_sync(
            lambda: "10.244.1.0/24" in in_phase(scene, "confirmed"),
            within_s=20,
            what="the route in loxilb's table",
        )
        scene.mirror_holds(MIRRORED_TABLE)
        assert "nothing to repair" in said(scene, "repair", "--target", "edge")
        eventually_sync(lambda: scene.run("status").returncode == 0, what="health")


def test_what_is_left_behind_is_adopted_or_forgotten_by_name(tmp_path: Path) -> None:
    left = ["10.244.1.0/24", "10.244.2.0/24"]
    with world(tmp_path) as scene:
        loxilb = scene.loxilb
        scene.start()
        scene.mirror_holds(MIRRORED_TABLE)
        loxilb.batch([f"route add {prefix} via 192.168.10.1 metric 50" for prefix in left])
        scene.node.batch([f"route del {prefix}" for prefix in left])
        eventually_sync(
            lambda: in_phase(scene, "left-behind") == left, within_s=20, what="what is left behind"
        )
        entries = scene.standin.state().entries
        loxilb.batch([f"route del {prefix} via 192.168.10.1 metric 50" for prefix in left])
        eventually_sync(
            lambda: scene.standin.state().entries == entries - 2, what="loxilb's table without them"
        )
        eventually_sync(
            lambda: "routesync adopt --target edge" in scene.run("status").stdout,
            what="the alarm in the status",
        )
        assert "2 left-behind" in said(scene, "status", status=FAILED)
        nothing = said(scene, "adopt", "--target", "edge")
        expected = "nothing to adopt: no route is present; 2 are left behind, and are adopted only by name"
        assert nothing == f"edge: {expected}\n"
        adopted = said(scene, "adopt", "--target", "edge", left[0], "--yes")
        assert adopted == f"{left[0]} via 192.168.10.10 (left-behind)\nedge: 1 route adopted\n"
        rest = [line for line in MIRRORED_TABLE if not line.startswith(left[0])]
        scene.mirror_holds(rest)

        declined = said(scene, "forget", "--target", "edge", "--prefix", left[1], status=FAILED, stdin="n\n")
        assert f"Give up ownership of {left[1]} in edge? The routes themselves stay." in declined
        assert in_phase(scene, "left-behind") == left[1:]
        forgotten = said(scene, "forget", "--target", "edge", "--prefix", left[1], "--yes")
        assert forgotten == "edge: 1 route forgotten; it stays in loxilb\n"
        eventually_sync(lambda: len(read_owned(scene.state, "edge")) == 3, what="the ledger without them")
        scene.mirror_holds(rest)
        eventually_sync(lambda: scene.run("status").returncode == 0, what="health")


def test_a_target_that_was_taken_out_is_emptied_or_forgotten_while_the_daemon_runs(tmp_path: Path) -> None:
    with world(tmp_path) as scene:
        scene.start()
        scene.mirror_holds(MIRRORED_TABLE)
        text = scene.config.read_text()
        start, end = text.index("[[targets]]"), text.index("[node]")
        scene.config.write_text(text[:start] + text[end:])
        said(scene, "reload")
        assert "`routesync withdraw --target edge` takes them out" in said(scene, "status", status=FAILED)
        assert "give its URL: --url" in said(scene, "withdraw", "--target", "edge", status=USAGE)
        assert "no route in nix is owned; targets with owned routes: edge (5)" in said(
            scene, "withdraw", "--target", "nix", status=USAGE
        )
        url = ("--url", "http://192.168.10.20:11111")
        assert said(scene, "withdraw", "--target", "edge", *url) == "edge: 5 routes withdrawn\n"
        assert scene.mirrored() == []
        assert read_owned(scene.state, "edge") == {}
        eventually_sync(
            lambda: scene.run("status").returncode == 0, what="health, for nothing is left behind"
        )

        scene.config.write_text(text)
        said(scene, "reload")
        scene.mirror_holds(MIRRORED_TABLE)
        scene.config.write_text(text[:start] + text[end:])
        said(scene, "reload")
        assert (
            said(scene, "forget", "--target", "edge", "--yes")
            == "edge: 5 routes forgotten; they stay in loxilb\n"
        )
        assert sorted(scene.mirrored()) == sorted(MIRRORED_TABLE)
        eventually_sync(lambda: scene.run("status").returncode == 0, what="health, for nothing is ours there")
