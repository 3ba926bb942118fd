"""The service as it is installed, in a booted Debian with a systemd of its own, inside the founding network.

Nothing but loxilb is played: the package is the one that `make deb` builds, the machine is the node of the founding
topology, and what happens to the service there is what happens to it at an operator's.
"""

from __future__ import annotations

import gzip
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from demo.topology import FOUNDING_TABLE, HOST_ROUTE, MIRRORED_TABLE, FoundingTopology
from support.booted import NEWER_SUITE, SUITE, Machine, machine, package
from support.broker import Broker, broker
from support.documented import block
from support.netns import Namespace
from support.standin import StandinProcess, running_standin
from support.waiting import eventually_sync
from support.world import EXAMPLE

pytestmark = [pytest.mark.timeout(900)]  # the first one builds the package and the tree

CONFIG = "/etc/routesync/routesync.toml"
MQTT = '\n[node]\nname = "node"\n\n[mqtt]\nhost = "127.0.0.1"\nreconnect_spread_s = 1\n'
CAP_NET_ADMIN = 1 << 12


class Site(NamedTuple):
    """A machine in the founding network."""

    machine: Machine
    topology: FoundingTopology
    standin: StandinProcess
    broker: Broker

    def mirror_holds(self, routes: list[str] | tuple[str, ...]) -> None:
        eventually_sync(
            lambda: sorted(self.topology.gateway_routes()) == sorted(routes),
            within_s=30,
            what=f"{routes} in loxilb's kernel, which has {self.topology.gateway_routes()}",
        )

    def start(self, config: str = EXAMPLE.read_text() + MQTT) -> None:
        self.machine.write(CONFIG, config)
        self.machine.systemctl("start", "routesync")

    def status(self) -> dict[str, Any]:
        """The retained status."""
        (payload,) = self.broker.collect("routesync/v1/node/status", 1, within_s=5) or [b"{}"]
        found: dict[str, Any] = json.loads(payload).get("data", {})
        return found

    def churn(self) -> None:
        """Change the machine's routes; what listens to them hears it."""
        self.topology.renew_lease()
        self.topology.move_pod_network(1, 5)
        self.topology.move_pod_network(5, 1)


@contextmanager
def founding_site(
    directory: Path,
    *,
    installed: bool = True,
    users: dict[str, str] | None = None,
    token: str = "",
    suite: str = SUITE,
) -> Iterator[Site]:
    with ExitStack() as stack:
        topology = stack.enter_context(FoundingTopology())
        more = []
        if token:
            (directory / "token").write_text(token)
            more = ["--manual-token", str(directory / "token")]
        standin = stack.enter_context(running_standin(Namespace(topology.loxilb), *more))
        served = stack.enter_context(broker(namespace=Namespace(topology.node), users=users))
        nspawn = f"--bind=/run/netns/{topology.loxilb}:/run/netns/edge"
        made = stack.enter_context(
            machine(directory / "machine", topology.node, nspawn, installed=installed, suite=suite)
        )
        yield Site(made, topology, standin, served)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with founding_site(tmp_path) as made:
        yield made


@pytest.mark.parametrize("suite", [SUITE, NEWER_SUITE])
def test_installed_on_a_clean_debian_and_configured_by_the_documented_commands_it_mirrors(
    tmp_path: Path, suite: str
) -> None:
    with founding_site(tmp_path, installed=False, suite=suite) as site:
        node = site.machine
        (node.root / "root/routesync_0_amd64.deb").write_bytes(package().read_bytes())
        install, init, check, plan, enable, status = block("docs/install.md", "Debian and Ubuntu")
        node.run("sh", "-c", f"cd /root && {install}")
        assert node.state() == "inactive"
        assert node.run("systemctl", "is-enabled", "routesync", check=False).stdout.strip() == "disabled"
        assert "uid=" in node.run("id", "routesync").stdout
        for page in (node.root / "usr/share/man").rglob("routesync*"):
            assert gzip.decompress(page.read_bytes()).startswith(b"."), page
        assert (node.root / "usr/share/man/man1/routesync.1.gz").exists(), "what the units name"
        node.write(f"{CONFIG}.d/node.toml", '[node]\nname = "node"\n')
        written = node.run(*init.split(), "--target", "192.168.10.20", "--broker", "127.0.0.1")
        assert f"{CONFIG}.d/site.toml is written" in written.stdout
        assert "DHCP host route: 192.168.10.1/32 dev ens3" in written.stderr
        assert f"{CONFIG}: ok" in node.run(*check.split()).stdout
        assert "192.168.10.1/32" in node.run(*plan.split()).stdout
        assert _uncompiled(node) == [], "/usr is read-only to the service"
        node.run("/usr/share/python3/runtime.d/routesync.rtupdate", "rtupdate", "3.11", "3.12")
        assert _uncompiled(node) == [], "after a change of Python"

        node.run(*enable.split())
        site.mirror_holds(MIRRORED_TABLE)
        assert "active (running)" in node.run(*status.split()).stdout
        assert node.show("StatusText").startswith("5 routes kept, 3 dropped; edge ")
        own, process = node.process_status(), node.run("stat", "-c", "%U", f"/proc/{node.main_pid}").stdout
        assert process.strip() == "routesync"
        capabilities = {name: own[name] for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")}
        assert {int(value, 16) for value in capabilities.values()} == {0}, capabilities
        assert (own["NoNewPrivs"], own["Seccomp"]) == ("1", "2")
        # the socket of systemd, with a buffer that no unprivileged process could ask for
        eventually_sync(
            lambda: site.status().get("kernel", {}).get("receive_buffer") == 128 * 2**20, what="the buffer"
        )
        assert site.status()["kernel"]["nexthop_compat_mode"] is not None, "what it may read"

        inside = ["nsenter", "--target", node.main_pid, "--mount", "--", "touch"]
        for place in ("/etc/routesync/x", "/usr/x", "/var/x", "/root/x"):
            assert node.run(*inside, place, check=False).returncode != 0, place
        for place in ("/var/lib/routesync/x", "/run/routesync/x"):
            node.run(*inside, place)
        assert (
            node.run("stat", "-c", "%U:%G %a", "/var/lib/routesync", "/run/routesync").stdout.split("\n")[:2]
            == ["routesync:routesync 750"] * 2
        )
        files = ["find", "/var/lib/routesync", "/run/routesync", "-user", "routesync", "-not", "-type", "d"]
        found = node.run(*files, "-printf", "%f %g %m\\n").stdout.splitlines()
        assert {"control.sock routesync 660", "ledger.sqlite routesync 640"} <= {*found}
        assert [line for line in found if not line.endswith("0")] == [], "nothing is for others"
        limits = node.run("cat", f"/proc/{node.main_pid}/limits").stdout
        assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)
        bounds = {name: node.show(name) for name in ("MemoryHigh", "MemoryMax", "TasksMax")}
        assert bounds == {"MemoryHigh": str(1200 * 2**20), "MemoryMax": str(1500 * 2**20), "TasksMax": "64"}


def test_what_is_removed_leaves_what_is_the_operators_and_what_is_purged_nothing(site: Site) -> None:
    node = site.machine
    edited = EXAMPLE.read_text() + MQTT
    site.start(edited)
    node.systemctl("enable", "routesync")
    pid = node.main_pid
    newer = _with_another_configuration(package(), node.root / "root")
    node.run("dpkg", "--force-confdef", "--force-confold", "-i", newer)
    assert node.run("dpkg-query", "-W", "-f", "${Version}", "routesync").stdout == "9.9"
    assert node.main_pid not in {pid, "0"}, "what ran, runs in its new version"
    assert node.run("cat", CONFIG).stdout == edited
    site.mirror_holds(MIRRORED_TABLE)

    removed = node.run("dpkg", "--remove", "routesync").stdout
    assert "routes that routesync added remain in loxilb: 5" in removed
    assert "target edge at http://192.168.10.20:11111: 5" in removed
    assert "routesync withdraw --target edge" in removed
    assert not (node.root / "usr/lib/routesync").exists(), "no bytecode is left"
    assert node.run("pgrep", "-u", "routesync", check=False).stdout == ""
    assert node.run("cat", CONFIG).stdout == edited
    assert (node.root / "var/lib/routesync/ledger.sqlite").exists()
    site.mirror_holds(MIRRORED_TABLE)
    node.run("dpkg", "--force-confold", "-i", newer)
    assert node.run("systemctl", "is-enabled", "routesync").stdout.strip() == "enabled", (
        "as before the removal"
    )
    node.run("dpkg", "--remove", "routesync")
    purged = node.run("dpkg", "--purge", "routesync").stdout
    assert "  edge: 10.244.1.0/24 via 192.168.10.10" in purged, "the last word of where they are"
    left = node.run(
        "find", "/", "-xdev", "-iname", "*routesync*", "-not", "-path", "/root/*", "-not", "-path", "/proc/*"
    )
    assert left.stdout.split() == []


def _uncompiled(node: Machine) -> list[str]:
    """The modules without bytecode of the machine's own Python."""
    tree = node.root / "usr/lib/routesync"
    tag = node.run("python3", "-c", "import sys; print(sys.implementation.cache_tag)").stdout.strip()
    files = list(tree.rglob("*.py"))
    assert len(files) > 500
    return [str(it) for it in files if not (it.parent / "__pycache__" / f"{it.stem}.{tag}.pyc").exists()]


def _with_another_configuration(deb: Path, directory: Path) -> str:
    """Make a newer package, whose configuration is another one; return its path in the machine."""
    tree = directory / "newer"
    subprocess.run(["dpkg-deb", "-R", deb, tree], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(
        "\n".join(
            "Version: 9.9" if line.startswith("Version:") else line
            for line in control.read_text().splitlines()
        )
        + "\n"
    )
    shipped = tree / CONFIG.lstrip("/")
    shipped.write_text(shipped.read_text() + "\n# another comment\n")
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Znone", "-b", tree, directory / "newer.deb"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return "/root/newer.deb"


def test_a_reload_takes_what_holds_refuses_what_does_not_and_a_stop_is_for_good(site: Site) -> None:
    node = site.machine
    site.start()
    site.mirror_holds(MIRRORED_TABLE)
    pid = node.main_pid
    good = EXAMPLE.read_text() + MQTT
    fewer = '[[policy.rules]]\nname = "no-pod-3"\nmatch = { prefix = "10.244.3.0/24" }\naction = "drop"\n\n'
    node.write(CONFIG, good.replace("[[policy.rules]]", fewer + "[[policy.rules]]", 1))
    node.systemctl("reload", "routesync")
    site.mirror_holds([line for line in MIRRORED_TABLE if "10.244.3.0" not in line])

    node.write(CONFIG, good.replace('"drop"', '"dorp"', 1))
    refused = node.run("systemctl", "reload", "routesync", check=False)
    assert refused.returncode != 0
    assert f"routesync: {CONFIG}:" in node.journal()
    eventually_sync(
        lambda: "configuration rejected" in node.show("StatusText"), what="the word in the status"
    )
    site.mirror_holds([line for line in MIRRORED_TABLE if "10.244.3.0" not in line])

    node.write(CONFIG, good)
    node.systemctl("reload", "routesync")
    site.mirror_holds(MIRRORED_TABLE)
    eventually_sync(lambda: node.show("StatusText").startswith("5 routes kept"), what="the word's end")
    assert (node.main_pid, node.state()) == (pid, "active")

    node.run("useradd", "--groups=routesync", "night-shift")
    asked = node.run("runuser", "--user=night-shift", "--", "routesync", "status")
    assert "edge" in asked.stdout
    forbidden = node.run("runuser", "--user=night-shift", "--", "routesync", "reload", check=False)
    assert forbidden.returncode != 0
    assert "root" in forbidden.stderr

    node.systemctl("stop", "routesync")
    assert node.show("Result") == "success"
    assert node.state("routesync.socket") == "inactive"
    starts = node.journal().count("Starting routesync")
    site.churn()
    node.systemctl("daemon-reload")  # answered when systemd has dealt with all that came before
    assert (node.state(), node.journal().count("Starting routesync")) == ("inactive", starts)
    site.mirror_holds(MIRRORED_TABLE)


def test_what_dies_or_hangs_is_started_again_and_catches_up(site: Site) -> None:
    node = site.machine
    node.drop_in("[Service]\nWatchdogSec=4s\nRestartSec=1s\n")
    site.start(EXAMPLE.read_text().replace("allow_default", "startup_hold_s = 0\nallow_default") + MQTT)
    site.mirror_holds(MIRRORED_TABLE)
    node.systemctl("kill", "--signal=KILL", "routesync")
    site.topology.move_pod_network(3, 8)
    site.mirror_holds([line.replace("10.244.3.0", "10.244.8.0") for line in MIRRORED_TABLE])
    assert node.show("NRestarts") == "1"

    node.systemctl("kill", "--signal=STOP", "routesync")
    site.topology.move_pod_network(8, 3)
    eventually_sync(lambda: node.show("NRestarts") == "2", within_s=30, what="the watchdog")
    assert "Watchdog timeout" in node.journal()
    site.mirror_holds(MIRRORED_TABLE)


def test_dead_peers_are_no_reason_to_start_again(site: Site) -> None:
    node = site.machine
    node.drop_in("[Service]\nWatchdogSec=3s\n")
    site.start()
    site.mirror_holds(MIRRORED_TABLE)
    pid = node.main_pid
    site.standin.kill()
    site.broker.kill()
    site.topology.move_pod_network(3, 8)  # so that it has something to say to both
    eventually_sync(lambda: node.show("StatusText").startswith("degraded"), within_s=30, what="the word")
    eventually_sync(lambda: bool(node.said("target_down")), within_s=30, what="a word of loxilb's death")

    def fed() -> int:
        return int(node.show("WatchdogTimestampMonotonic"))  # in microseconds

    began = fed()
    eventually_sync(
        lambda: fed() > began + 6_000_000,
        within_s=30,
        what="signs of life for twice as long as they may lack",
    )
    assert (node.main_pid, node.show("NRestarts")) == (pid, "0")
    site.broker.start()
    site.standin.start()
    site.mirror_holds([line.replace("10.244.3.0", "10.244.8.0") for line in MIRRORED_TABLE])

    site.standin.kill()
    site.broker.freeze()
    node.systemctl("stop", "routesync")
    assert node.show("Result") == "success", "the orderly end needs nobody"


def test_a_wrong_configuration_ends_it_once_and_routes_that_change_do_not_start_it(site: Site) -> None:
    node = site.machine
    node.write(CONFIG, "[[targets\n")
    assert node.run("systemctl", "start", "routesync", check=False).returncode != 0
    assert (node.state(), node.show("ExecMainStatus")) == ("failed", "78")
    eventually_sync(lambda: node.state("routesync.socket") == "inactive", what="the end of the socket")
    site.churn()
    node.systemctl("daemon-reload")
    assert (node.state(), node.show("NRestarts")) == ("failed", "0")
    assert node.journal().count("Starting routesync") == 1
    site.start()
    site.mirror_holds(MIRRORED_TABLE)


def test_secrets_come_by_credentials_that_nobody_else_may_read(tmp_path: Path) -> None:
    password, token = "a-broker's-secret", "a-loxilb's-secret"
    with founding_site(tmp_path, users={"routesync": password}, token=token) as site:
        node = site.machine
        node.write("/etc/routesync/mqtt-password", f"{password}\n", mode=0o600)
        node.write("/etc/routesync/edge-token", f"{token}\n", mode=0o600)
        node.run("mkdir", "-p", "/etc/systemd/system/routesync.service.d")
        node.run(
            "cp",
            "/usr/share/doc/routesync/examples/systemd/credentials.conf",
            "/etc/systemd/system/routesync.service.d/",
        )
        node.systemctl("daemon-reload")
        text = EXAMPLE.read_text() + MQTT + 'username = "routesync"\npassword_file = "mqtt-password"\n'
        text = text.replace('name = "edge"', 'name = "edge"\ntoken_file = "edge-token"')
        site.start(text)
        site.mirror_holds(MIRRORED_TABLE)
        eventually_sync(lambda: bool(node.said("broker_up")), what="the broker's welcome")
        node.systemctl("reload", "routesync")  # it has to find them, too
        assert password not in node.journal()
        assert token not in node.journal()

        check = "routesync", "check", "--quiet", "--as-service"
        node.run(*check)
        node.run("chmod", "0600", CONFIG)
        node.run("chown", "root", CONFIG)
        refused = node.run(*check, check=False)
        assert (refused.returncode, "cannot be read: Permission denied" in refused.stderr) == (78, True), (
            refused
        )
        node.run("rm", "/etc/routesync/edge-token")
        missing = node.run(*check, check=False)
        assert missing.returncode == 78
        assert (
            "LoadCredential=edge-token: there is no /etc/routesync/edge-token, and the service"
            in missing.stderr
        )


def test_guard_mode_gets_one_capability_and_can_use_it(site: Site) -> None:
    node = site.machine
    guarding = EXAMPLE.read_text().replace("report = true", "report = true\nguard = true", 1)
    site.start(f'mode = "guard"\n{guarding}{MQTT}\n[guard]\ndry_run = false\nsettle_s = 0\n')
    eventually_sync(lambda: "CAP_NET_ADMIN" in node.show("StatusText"), what="the word that it may not")
    assert site.topology.table(site.topology.node) == list(FOUNDING_TABLE)

    node.run("mkdir", "-p", "/etc/systemd/system/routesync.service.d")
    node.run(
        "cp",
        "/usr/share/doc/routesync/examples/systemd/guard.conf",
        "/etc/systemd/system/routesync.service.d/",
    )
    node.systemctl("daemon-reload")
    node.systemctl("restart", "routesync")
    own = node.process_status()
    for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb"):
        assert int(own[name], 16) == CAP_NET_ADMIN, name
    assert (own["NoNewPrivs"], own["Seccomp"]) == ("1", "2")
    others = [line for line in FOUNDING_TABLE if line != HOST_ROUTE]
    eventually_sync(lambda: site.topology.table(site.topology.node) == others, what="the removal")


def test_a_witness_without_the_right_to_enter_namespaces(site: Site) -> None:
    node = site.machine
    node.run(
        "cp", "/usr/share/doc/routesync/examples/systemd/routesync-witness@.socket", "/etc/systemd/system/"
    )
    node.systemctl("enable", "routesync-witness@edge.socket")
    site.start()
    site.mirror_holds(MIRRORED_TABLE)
    eventually_sync(lambda: bool(node.said("witness_present")), what="the witness")
    site.topology.move_pod_network(3, 8)
    site.mirror_holds([line.replace("10.244.3.0", "10.244.8.0") for line in MIRRORED_TABLE])
    assert site.standin.state().route_reads <= 2, "those of the first contact; a withdrawal needs none"
    node.systemctl("stop", "routesync")
    assert node.state("routesync-witness@edge.socket") == "inactive"
