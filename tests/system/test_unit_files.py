"""The unit files, judged by systemd's own tools. What they do in a booted system is tested elsewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

UNITS = Path(__file__).parents[2] / "systemd"
SERVICE = UNITS / "routesync.service"

# The score times ten. What is left is what the daemon lives by: netlink, the network, a unix socket.
EXPOSURE_AT_MOST = 12


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)


def test_the_service_verifies_without_a_word(tmp_path: Path) -> None:
    # verify wants the program to exist; this environment has it elsewhere than the package puts it.
    unit = tmp_path / SERVICE.name
    installed = Path(sys.prefix) / "bin" / "routesync"
    unit.write_text(SERVICE.read_text().replace("/usr/bin/routesync", str(installed)))
    done = analyze("verify", "--man=no", str(unit))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_sandbox_is_tight() -> None:
    done = analyze(
        "security", "--offline=true", f"--threshold={EXPOSURE_AT_MOST}", "--no-pager", str(SERVICE)
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_user_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    subprocess.run(["systemd-sysusers", f"--root={tmp_path}", str(UNITS / "routesync.sysusers")], check=True)
    (passwd,) = (tmp_path / "etc/passwd").read_text().splitlines()
    name, _, uid, gid, *_, home, shell = passwd.split(":")
    assert (name, home, shell) == ("routesync", "/var/lib/routesync", "/usr/sbin/nologin")
    assert 0 < int(uid) < 1000
    assert 0 < int(gid) < 1000
