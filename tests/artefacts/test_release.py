"""`make artefacts`: all that a release has, the same as when each is built alone."""

from __future__ import annotations

import hashlib
import tarfile

import pytest
import yaml

import routesync
from support.artefacts import artefact, run
from support.booted import REPOSITORY

pytestmark = [pytest.mark.artefacts, pytest.mark.timeout(1200)]

DIST = REPOSITORY / "dist"
VERSION = routesync.__version__


def test_everything_is_built_with_checksums_and_as_it_is_built_alone() -> None:
    alone = {path.name: path.read_bytes() for path in map(artefact, ("deb", "rpm", "wheel"))}
    run("make", "--no-print-directory", "artefacts")
    for name, content in alone.items():
        assert (DIST / name).read_bytes() == content, name
    listed = dict(line.split("  ")[::-1] for line in (DIST / "SHA256SUMS").read_text().splitlines())
    assert set(listed) | {"SHA256SUMS"} == {path.name for path in DIST.iterdir()}
    for name, digest in listed.items():
        assert hashlib.sha256((DIST / name).read_bytes()).hexdigest() == digest
    assert set(listed) == {
        *alone,
        f"routesync-{VERSION}-amd64.oci.tar",
        f"routesync-{VERSION}.cdx.json",
        f"routesync-chart-{VERSION}.tgz",
        f"routesync-kubernetes-{VERSION}.yaml",
    }
    with tarfile.open(DIST / f"routesync-chart-{VERSION}.tgz") as chart:
        names = chart.getnames()
        assert "routesync/files/rules.yml" in names
        assert all(not member.issym() for member in chart.getmembers()), "the archive is whole by itself"
    manifest = (DIST / f"routesync-kubernetes-{VERSION}.yaml").read_text()
    assert {it["kind"] for it in yaml.safe_load_all(manifest)} == {"ConfigMap", "DaemonSet"}
