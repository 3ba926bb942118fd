"""The Helm chart, rendered and linted by Helm's own code, and its objects checked against Kubernetes' own schemas."""

from __future__ import annotations

import json
import os
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml

import helm_offline
from support import forks
from support.booted import REPOSITORY
from support.measured import MEASURED
from support.netns import Namespace, namespace
from support.standin import running_standin
from support.waiting import eventually_sync

EDGE: Final = {"name": "edge", "url": "http://192.168.10.20:11111", "writers": 3}
MODES: Final = ("mirror", "observe", "guard", "withdraw")
ALL: Final = {
    "config": {
        "targets": [{**EDGE, "tls": {"ca_file": "ca.pem"}, "token_file": "edge-token"}],
        "mqtt": {"host": "broker.example.net", "username": "routesync", "password_file": "mqtt-password"},
        "kernel": {"receive_buffer": 268435456},
        "reload_on_change": True,
        "node": {"labels": {"address": "${NODE_IP}", "rack.row": "b3"}},
        "target_defaults": {"next_hop": {"interface": "ens3"}},
        "policy": {
            "prefix_lists": {"internal": ["10.0.0.0/8", {"within": "172.16.0.0/12", "length": "16-24"}]}
        },
    },
    "credentials": "routesync-credentials",
    "image": {"repository": "registry.example.net/routesync", "digest": f"sha256:{'0' * 64}"},
    "imagePullSecrets": [{"name": "pull"}],
    "metrics": {
        "enabled": True,
        "podMonitor": True,
        "rules": True,
        "dashboard": True,
        "labels": {"release": "monitoring"},
    },
    "priorityClassName": "system-node-critical",
    "podAnnotations": {"a": "b"},
    "podLabels": {"c": "d"},
    "affinity": {"nodeAffinity": {}},
}
"""Every optional part at once."""


def objects(values: dict[str, Any], version: str = "v4") -> list[dict[str, Any]]:
    return [it for it in yaml.safe_load_all(helm_offline.template(values, version=version)) if it]


def one(kind: str, values: dict[str, Any]) -> dict[str, Any]:
    (found,) = (it for it in objects(values) if it["kind"] == kind)
    return found


def pod(values: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = one("DaemonSet", values)["spec"]["template"]["spec"]
    return spec


def configuration(values: dict[str, Any]) -> str:
    (text,) = one("ConfigMap", values)["data"].values()
    return str(text)


@pytest.mark.parametrize("version", ["v3", "v4"])
@pytest.mark.parametrize("values", [{}, *({**ALL, "mode": mode} for mode in MODES)])
def test_kubernetes_accepts_what_helm_makes_of_it(version: str, values: dict[str, Any]) -> None:
    helm_offline.lint(values)
    for it in objects(values, version):
        if it["apiVersion"].startswith("monitoring.coreos.com/"):
            continue  # not Kubernetes' own; below
        for kubernetes in ("1.25", "1.30", "1.34"):
            kubernetes_validate.validate(it, kubernetes, strict=True)


def test_the_validation_finds_a_misspelt_key() -> None:
    daemon_set = one("DaemonSet", {})
    daemon_set["spec"]["template"]["spec"]["hostNetwerk"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(daemon_set, "1.30", strict=True)


def test_the_plain_manifest_is_the_chart_without_helm() -> None:
    kinds = [it["kind"] for it in yaml.safe_load_all(helm_offline.manifest())]
    assert kinds == ["ConfigMap", "DaemonSet"]
    assert "Helm" not in helm_offline.manifest().partition("\n")[2]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"mode": "mirroring"}, "at '/mode': value must be one of"),
        (
            {"config": {"mqtt": {"host": "b", "prot": 1883}}},
            "at '/config/mqtt': additional properties 'prot'",
        ),
        ({"config": {"mode": "guard"}}, "additional properties 'mode' not allowed"),
        ({"metrics": {"prot": 1}}, "at '/metrics': additional properties 'prot' not allowed"),
    ],
)
def test_a_wrong_value_is_refused_where_it_is(values: dict[str, Any], said: str) -> None:
    with pytest.raises(helm_offline.HelmError, match=said):
        helm_offline.template(values)


@pytest.mark.parametrize("mode", MODES)
def test_every_configuration_that_it_makes_is_valid(tmp_path: Path, mode: str) -> None:
    file = tmp_path / "routesync.toml"
    for name in ("ca.pem", "edge-token", "mqtt-password"):
        (tmp_path / name).write_text("x\n")
    values = {"mode": mode, "config": {**ALL["config"], "targets": [EDGE]}}  # type: ignore[dict-item]
    file.write_text(configuration(values))
    done = forks.run("routesync", ["check", str(file)], env={**os.environ, "NODE_IP": "192.168.10.10"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "reload_on_change = true" in done.stdout
    assert f"mode {'observe' if mode == 'withdraw' else mode};" in done.stdout
    assert 'targets: "edge"' in done.stdout or "edge" in done.stdout


def test_each_key_stays_one_key() -> None:
    """A dot in a bare key of TOML makes a table, and other characters make it invalid."""
    labels = {"rack.row": "b 3", "example.net/site": "berlin", 'a"b\\ c': "x", "ü": "y", "plain_key-1": "z"}
    lists = {"dc.internal": ["10.0.0.0/8"]}
    text = configuration({"config": {"node": {"labels": labels}, "policy": {"prefix_lists": lists}}})
    written = tomllib.loads(text)
    assert (written["node"]["labels"], written["policy"]["prefix_lists"]) == (labels, lists)
    assert "plain_key-1 = " in text


def test_no_pod_has_more_rights_than_it_needs() -> None:
    for mode in MODES:
        values = {**ALL, "mode": mode}
        spec = pod(values)
        assert spec["hostNetwork"]
        assert spec["dnsPolicy"] == "ClusterFirstWithHostNet"
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert spec["securityContext"]["runAsUser"] == (0 if mode == "guard" else 65532)
        first, *others = spec["initContainers"]
        assert first["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["CHOWN"]}
        assert len(others) == (1 if mode == "withdraw" else 0)
        for container in (*others, *spec["containers"]):
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"]
            assert security["allowPrivilegeEscalation"] is False
            added = {"add": ["NET_ADMIN"]} if mode == "guard" else {}
            assert security["capabilities"] == {"drop": ["ALL"]} | added
        volumes = {it["name"]: it for it in spec["volumes"]}
        assert volumes["state"]["hostPath"]["path"] == "/var/lib/routesync", "the ledger outlives the pod"


def test_a_changed_configuration_starts_the_pods_again() -> None:
    def checksum(values: dict[str, Any]) -> str:
        template = one("DaemonSet", values)["spec"]["template"]
        return str(template["metadata"]["annotations"]["checksum/config"])

    assert checksum({}) == checksum({"podLabels": {"x": "y"}})
    assert checksum({}) != checksum({"config": {"targets": [EDGE]}})


def test_the_objects_of_the_prometheus_operator_are_those_of_the_repository() -> None:
    rules, monitor = one("PrometheusRule", ALL), one("PodMonitor", ALL)
    written = yaml.safe_load((REPOSITORY / "packaging/prometheus/routesync.rules.yml").read_text())
    assert rules["spec"] == written
    assert rules["metadata"]["labels"]["release"] == "monitoring"
    labels = one("DaemonSet", ALL)["spec"]["template"]["metadata"]["labels"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in {it["name"] for it in pod(ALL)["containers"][0]["ports"]}
    dashboard = next(it for it in objects(ALL) if it["metadata"]["name"].endswith("-dashboard"))
    written = json.loads((REPOSITORY / "packaging/grafana/routesync.json").read_text())
    assert json.loads(dashboard["data"]["routesync.json"]) == written


class Node:
    """A namespace that is a node of a cluster with flannel, and its daemon."""

    def __init__(self, space: Namespace, number: int, directory: Path) -> None:
        self.space = space
        self.number = number
        self._directory = directory

    @contextmanager
    def daemon(self, config: str) -> Iterator[None]:
        self._directory.mkdir()
        file = self._directory / "routesync.toml"
        file.write_text(config)
        with (self._directory / "log").open("wb") as log:
            process = forks.start(
                "routesync",
                ["run", "--config", str(file), "--state", str(self._directory / "state")],
                netns=self.space.name,
                env={
                    "RUNTIME_DIRECTORY": str(self._directory),
                    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                    **MEASURED,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            yield
        finally:
            process.terminate()
            process.wait(20)


@contextmanager
def cluster(directory: Path) -> Iterator[tuple[Namespace, list[Node]]]:
    """Three nodes and a loxilb on one segment; each node has a pod network on cni0, and routes to the others."""
    with ExitStack() as stack:
        switch, loxilb = (stack.enter_context(namespace(name)) for name in ("switch", "loxilb"))
        switch.ip("link add br0 type bridge")
        switch.ip("link set br0 up")

        def plug(space: Namespace, number: int, address: str) -> None:
            switch.ip(f"link add p{number} type veth peer name ens3 netns {space.name}")
            switch.ip(f"link set p{number} master br0 up")
            space.ip(f"address add {address}/24 dev ens3")
            space.ip("link set ens3 up")

        plug(loxilb, 9, "192.168.10.20")
        nodes = []
        for number in range(3):
            space = stack.enter_context(namespace(f"node{number}"))
            plug(space, number, f"192.168.10.1{number}")
            for bridge in ("cni0", "docker0"):
                space.ip(f"link add {bridge} type bridge")
                space.ip(f"link add {bridge}p type veth peer name pod netns {space.name}")
                space.ip(f"link set {bridge}p master {bridge} up")
                space.ip("link set pod up")
                space.ip(f"link set pod name {bridge}pod", check=False)
                space.ip(f"link set {bridge} up")
            space.ip(f"address add 10.244.{number}.1/24 dev cni0")
            space.ip("address add 172.17.0.1/16 dev docker0")
            for other in {0, 1, 2} - {number}:
                space.ip(f"route add 10.244.{other}.0/24 via 192.168.10.1{other}")
            nodes.append(Node(space, number, directory / str(number)))
        yield loxilb, nodes


def test_three_nodes_with_one_configuration_mirror_their_own_pod_networks(tmp_path: Path) -> None:
    config = configuration({"config": {"targets": [EDGE]}})
    with ExitStack() as stack:
        loxilb, nodes = stack.enter_context(cluster(tmp_path))
        # a write of one node can meet the inventory of another: a known limit, and not the subject here
        stack.enter_context(running_standin(loxilb, "--fragile", "off"))
        for node in nodes:
            stack.enter_context(node.daemon(config))

        def mirrored() -> list[str]:
            lines = loxilb.ip("route show").splitlines()
            return sorted(" ".join(line.split()[:3]) for line in lines if " via " in line)

        wanted = [f"10.244.{number}.0/24 via 192.168.10.1{number}" for number in range(3)]
        eventually_sync(
            lambda: mirrored() == wanted, within_s=30, what="each node's network through that node"
        )
        nodes[1].space.ip("link set cni0 down")
        eventually_sync(
            lambda: mirrored() == [wanted[0], wanted[2]], within_s=30, what="one node's withdrawal"
        )
