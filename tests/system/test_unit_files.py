"""The unit files, checked by systemd's own tools. What they do in a booted system is tested elsewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "systemd"
SERVICE = UNITS / "routesync.service"

# The score times ten. What is left is what the daemon lives by: netlink, the network, a unix socket.
EXPOSURE_AT_MOST = 12
# With CAP_NET_ADMIN in the host's user namespace.
GUARD_EXPOSURE_AT_MOST = 15


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)


def units(directory: Path, *drop_ins: str) -> Path:
    """The units as they would be installed, with these examples for a drop-in; returns the service."""
    for unit in (SERVICE, UNITS / "routesync.socket", *(UNITS / "examples").glob("*.socket")):
        # verify wants the program to exist; this environment has it elsewhere than the package puts it.
        installed = Path(sys.prefix) / "bin" / "routesync"
        text = unit.read_text().replace("/usr/bin/routesync", str(installed))
        (directory / unit.name.replace("@.", "@edge.")).write_text(text)
    (directory / f"{SERVICE.name}.d").mkdir()
    for name in drop_ins:
        shutil.copy(UNITS / "examples" / name, directory / f"{SERVICE.name}.d")
    return directory / SERVICE.name


def test_service_sockets_and_examples_verify_without_a_word(tmp_path: Path) -> None:
    service = units(tmp_path, "guard.conf", "credentials.conf")
    sockets = map(str, tmp_path.glob("*.socket"))
    done = analyze("verify", "--man=no", str(service), *sockets)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_unit_of_a_second_daemon_shares_nothing_with_the_first(tmp_path: Path) -> None:
    cookbook = (UNITS.parent / "docs/cookbook.md").read_text(encoding="utf-8")
    (shown,) = re.findall(
        r"systemctl cat routesync \| (sed .*?) >\S+/routesync-blue.service$",
        cookbook,
        re.DOTALL | re.MULTILINE,
    )
    first = units(tmp_path)
    done = subprocess.run(
        ["sh", "-ec", shown], input=first.read_text(), capture_output=True, text=True, check=True
    )
    second = tmp_path / "routesync-blue.service"
    second.write_text(done.stdout)
    verified = analyze("verify", "--man=no", str(second))
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    changed = set(done.stdout.splitlines()) - set(first.read_text().splitlines())
    assert sorted(line.rpartition(" run ")[2] for line in changed) == [
        "--config /etc/routesync/blue.toml",
        "RuntimeDirectory=routesync-blue",
        "StateDirectory=routesync-blue",
    ]
    assert "routesync.socket" not in re.sub(r"(?m)^#.*$", "", done.stdout)


@pytest.mark.parametrize(
    ("drop_ins", "most"), [((), EXPOSURE_AT_MOST), (("guard.conf",), GUARD_EXPOSURE_AT_MOST)]
)
def test_the_sandbox_is_tight(tmp_path: Path, drop_ins: tuple[str, ...], most: int) -> None:
    service = units(tmp_path, *drop_ins)
    done = analyze("security", "--offline=true", f"--threshold={most}", "--no-pager", str(service))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_user_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    subprocess.run(["systemd-sysusers", f"--root={tmp_path}", str(UNITS / "routesync.sysusers")], check=True)
    (passwd,) = (tmp_path / "etc/passwd").read_text().splitlines()
    name, _, uid, gid, *_, home, shell = passwd.split(":")
    assert (name, home, shell) == ("routesync", "/var/lib/routesync", "/usr/sbin/nologin")
    assert 0 < int(uid) < 1000
    assert 0 < int(gid) < 1000
