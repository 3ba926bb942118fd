"""What this host tells: processes, what DHCP clients left behind, the kernel's tables, systemd."""

from __future__ import annotations

import configparser
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from routesync.config.models import KernelSettings
from routesync.doctor.facts import DhcpFacts, KernelFacts, LocalLoxilb, NetworkdLink
from routesync.kernel import KernelError, TableDump, dump_tables_sync, open_route_socket
from routesync.kernel.netlink import widen_receive_buffer

CLIENTS: Final = ("systemd-network", "NetworkManager", "dhcpcd", "dhclient", "udhcpc")
"""DHCP clients, by their names as the kernel keeps them (the first 15 characters, proc(5))."""
_ADDRESS_KEYS: Final = ("ROUTER", "DNS", "NTP", "SIP")
_UNITS: Final = ("etc/systemd/system", "run/systemd/system", "usr/lib/systemd/system", "lib/systemd/system")
_WITHIN_S: Final = 5.0


def processes() -> Iterator[tuple[int, str]]:
    """All processes that may be seen, by number and name."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                yield int(entry.name), (entry / "comm").read_text().rstrip("\n")
            except OSError:  # it ended
                continue


def shares_namespace(pid: int) -> bool | None:
    """Whether a process is in our network namespace; None: we may not see."""
    try:
        return Path(f"/proc/{pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink()
    except OSError:
        return None


def local_loxilbs() -> tuple[LocalLoxilb, ...]:
    """Processes named loxilb."""
    return tuple(LocalLoxilb(pid, shares_namespace(pid)) for pid, name in processes() if name == "loxilb")


def effective_capabilities(process: str) -> int | None:
    """The effective capabilities of a process (proc(5)), None where they are not to be seen."""
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return None
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", text, re.MULTILINE)
    return int(found[1], 16) if found else None


def read_dhcp(root: Path) -> DhcpFacts:
    """What DHCP clients run in this namespace, and what they keep in /run."""
    clients = {name for pid, name in processes() if name in CLIENTS and shares_namespace(pid) is not False}
    managed = {
        int(file.name)
        for file in _numbered(root / "run/NetworkManager/devices")
        if _section(file, "device").get("managed") == "true"
    }
    return DhcpFacts(frozenset(clients), _networkd_links(root / "run/systemd/netif"), frozenset(managed))


def _networkd_links(directory: Path) -> Mapping[int, NetworkdLink]:
    """By ifindex. The files are networkd's own and may change their form; what is not understood is left out."""
    found: dict[int, NetworkdLink] = {}
    for file in _numbered(directory / "links"):
        values = _values(file)
        if values.get("ADMIN_STATE") == "unmanaged":
            continue
        lease = _values(directory / "leases" / file.name)
        addresses = {key: frozenset(lease[key].split()) for key in _ADDRESS_KEYS if lease.get(key)}
        if lease and not addresses:
            addresses = {"ADDRESS": frozenset({lease.get("ADDRESS", "")})}
        found[int(file.name)] = NetworkdLink(values.get("NETWORK_FILE"), addresses)
    return found


def _numbered(directory: Path) -> list[Path]:
    try:
        return [file for file in directory.iterdir() if file.name.isdecimal()]
    except OSError:
        return []


def _values(file: Path) -> dict[str, str]:
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    return {
        key: value for key, sign, value in (line.partition("=") for line in lines) if sign and key[0] != "#"
    }


def _section(file: Path, name: str) -> Mapping[str, str]:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(file.read_text(encoding="utf-8", errors="replace"))
    except (OSError, configparser.Error):
        return {}
    return dict(parser[name]) if name in parser else {}


def read_kernel(settings: KernelSettings, tables: Sequence[int], root: Path) -> KernelFacts:
    """Read the routes once, and see how large a buffer a socket of ours is given."""
    reading: TableDump | None = None
    error, granted = None, 0
    try:
        with open_route_socket(settings.netns) as sock:
            granted = widen_receive_buffer(sock, settings.receive_buffer)
        reading = dump_tables_sync(tables=tables, netns=settings.netns)
    except KernelError as problem:
        error = str(problem)
    units = (root / directory / "routesync.socket" for directory in _UNITS)
    return KernelFacts(platform.release(), reading, error, granted, _rmem_max(), any(map(Path.exists, units)))


def _rmem_max() -> int | None:
    try:
        return int(Path("/proc/sys/net/core/rmem_max").read_text())
    except (OSError, ValueError):  # it is not shown in every network namespace
        return None


def systemd_version(root: Path) -> int | None:
    """The version of the systemd that runs here; None: none does (sd_booted(3))."""
    command = shutil.which("systemctl")
    if command is None or not (root / "run/systemd/system").is_dir():
        return None
    try:
        done = subprocess.run(
            [command, "--version"], capture_output=True, text=True, check=False, timeout=_WITHIN_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.match(r"systemd (\d+)", done.stdout)
    return int(found[1]) if found else None
