"""The container image, built by `make image` and run by podman with what the chart allows it, and no more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import helm_offline
from demo.topology import MIRRORED_TABLE, FoundingTopology
from support.artefacts import Containers, artefact, containers, run
from support.booted import REPOSITORY
from support.netns import Namespace
from support.standin import running_standin
from support.waiting import eventually_sync
from support.world import EXAMPLE

pytestmark = [pytest.mark.artefacts, pytest.mark.timeout(600)]

MOST_BYTES = 45_000_000


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    with containers(tmp_path_factory.mktemp("image")) as made:
        yield made


def test_it_is_small_names_its_user_and_has_a_bill_of_materials(podman: Containers) -> None:
    assert artefact("image").stat().st_size <= MOST_BYTES
    (image,) = json.loads(podman("image", "inspect", podman.image))
    assert image["Config"]["User"] == "65532:65532"
    labels = image["Config"]["Labels"]
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.version"] == podman.run("--version").split()[1]
    show = "print(open('/usr/share/doc/routesync/sbom.cdx.json').read())"
    sbom = podman.run("-c", show, options=("--rm", "--entrypoint", "/usr/bin/python3"))
    assert "pyroute2" in {it["name"] for it in json.loads(sbom)["components"]}


def test_it_mirrors_without_any_privilege_and_withdraws(podman: Containers, tmp_path: Path) -> None:
    manifest = yaml.safe_load_all(helm_offline.template())
    (daemon_set,) = (it for it in manifest if it["kind"] == "DaemonSet")
    (first,) = daemon_set["spec"]["template"]["spec"]["initContainers"]
    config, state, runtime = (tmp_path / name for name in ("config", "state", "run"))
    for directory in (config, state, runtime):
        directory.mkdir(mode=0o755)  # root's, as kubelet makes them
    (config / "routesync.toml").write_text(EXAMPLE.read_text())
    places = {config: "/etc/routesync:ro", state: "/var/lib/routesync", runtime: "/run/routesync"}
    volumes = [part for source, place in places.items() for part in ("-v", f"{source}:{place}")]
    with FoundingTopology() as topology, running_standin(Namespace(topology.loxilb)):
        network = ("--network", f"ns:/run/netns/{topology.node}")
        options = (
            "--rm",
            "--user",
            "0:0",
            "--cap-add",
            "CHOWN",
            "--entrypoint",
            json.dumps(first["command"]),
        )
        podman.run(*first["args"], options=(*options, *network, *volumes))
        podman.run(options=("--detach", "--name", "routesync", *network, *volumes))

        def mirrored() -> list[str]:
            return sorted(topology.gateway_routes())

        eventually_sync(lambda: mirrored() == sorted(MIRRORED_TABLE), within_s=30, what="the routes")
        assert "target   edge  synced" in podman("exec", "routesync", "routesync", "status")
        process = podman("inspect", "--format", "{{.State.Pid}}", "routesync").strip()
        facts = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines()
        )
        assert {int(facts[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {0}
        assert (facts["NoNewPrivs"], facts["Uid"].split()) == ("1", ["65532"] * 4)

        podman("stop", "--time", "20", "routesync")
        assert mirrored() == sorted(MIRRORED_TABLE), "a stop leaves the routes"
        withdraw = ("withdraw", "--target", "edge")
        podman.run(*withdraw, options=("--rm", *network, *volumes))
        eventually_sync(lambda: mirrored() == [], within_s=30, what="the withdrawal")
        podman.run(*withdraw, options=("--rm", *network, *volumes))


def test_its_init_writes_a_configuration_that_it_runs_with(podman: Containers, tmp_path: Path) -> None:
    made = podman.run(
        "init", "--yes", "--target", "192.168.10.20", "-", options=("--rm", "--network", "none")
    )
    config = tmp_path / "config"
    config.mkdir(mode=0o755)
    (config / "routesync.toml").write_text(made)
    checked = podman.run("check", options=("--rm", "--volume", f"{config}:/etc/routesync:ro"))
    assert "#   targets: edge (http://192.168.10.20:11111)" in checked


def test_the_same_commit_gives_the_same_bytes() -> None:
    again = REPOSITORY / run(REPOSITORY / "packaging/oci/build").splitlines()[-1]
    assert again.read_bytes() == artefact("image").read_bytes()
