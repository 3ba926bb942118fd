"""Words for the kernel's numbers: protocols, tables, scopes, route types.

The built-in names come first (linux/rtnetlink.h); `rt_protos` and `rt_tables` of iproute2 are read on top where they
exist. They are missing where iproute2 is not installed, and newer systems keep them below /usr/share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple, Self

from routesync.files import read_file

PROTOCOLS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "unspec": 0,
        "redirect": 1,
        "kernel": 2,
        "boot": 3,
        "static": 4,
        "gated": 8,
        "ra": 9,
        "mrt": 10,
        "zebra": 11,
        "bird": 12,
        "dnrouted": 13,
        "xorp": 14,
        "ntk": 15,
        "dhcp": 16,
        "mrouted": 17,
        "keepalived": 18,
        "babel": 42,
        "ovn": 84,
        "openr": 99,
        "bgp": 186,
        "isis": 187,
        "ospf": 188,
        "rip": 189,
        "ripng": 190,
        "nhrp": 191,
        "eigrp": 192,
        "ldp": 193,
        "sharp": 194,
        "pbr": 195,
        "zstatic": 196,
        "openfabric": 197,
        "srte": 198,
    }
)
"""linux/rtnetlink.h, and from 190 on what FRR adds (zebra/rt_netlink.h); FRR's static routes are `zstatic`."""
TABLES: Final[Mapping[str, int]] = MappingProxyType({"default": 253, "main": 254, "local": 255})
SCOPES: Final[Mapping[str, int]] = MappingProxyType(
    {"global": 0, "site": 200, "link": 253, "host": 254, "nowhere": 255}
)
TYPES: Final[Mapping[str, int]] = MappingProxyType(
    {
        "unspec": 0,
        "unicast": 1,
        "local": 2,
        "broadcast": 3,
        "anycast": 4,
        "multicast": 5,
        "blackhole": 6,
        "unreachable": 7,
        "prohibit": 8,
        "throw": 9,
        "nat": 10,
        "xresolve": 11,
    }
)

RT_DIRECTORIES: Final = (Path("/usr/share/iproute2"), Path("/usr/lib/iproute2"), Path("/etc/iproute2"))


def read_rt_file(text: str) -> dict[str, int]:
    """Read one file in the format of rt_protos and rt_tables: a number and a name a line, `#` comments.

    Lines of another shape are passed over: the file is the administrator's, for iproute2, and no concern of ours.
    """
    names: dict[str, int] = {}
    for line in text.splitlines():
        words = line.split("#", 1)[0].split()
        if len(words) >= 2:
            try:
                names[words[1]] = int(words[0], 0)
            except ValueError:
                continue
    return names


def _read_files(base: str, directories: Iterable[Path]) -> dict[str, int]:
    names: dict[str, int] = {}
    for directory in directories:
        files = [directory / base, *sorted((directory / f"{base}.d").glob("*.conf"))]
        for file in files:
            try:
                names |= read_rt_file(read_file(file).decode("utf-8", "replace"))
            except OSError:
                continue
    return names


class Names(NamedTuple):
    """The names that this host knows."""

    protocols: Mapping[str, int] = PROTOCOLS
    tables: Mapping[str, int] = TABLES

    @classmethod
    def of_host(cls, directories: Iterable[Path] = RT_DIRECTORIES) -> Self:
        """Take the built-in names and add those of the host's rt_protos and rt_tables.

        A file cannot give a built-in name another number: FRR's rt_protos.d/frr.conf says `196 static` (`191 static` in
        old versions), and a rule for `static` would silently stop to match what ip(8) and everybody else installs.
        """
        found = tuple(directories)
        return cls(
            protocols=_read_files("rt_protos", found) | dict(PROTOCOLS),
            tables=_read_files("rt_tables", found) | dict(TABLES),
        )

    def protocol(self, number: int) -> str:
        """The protocol's name, or its number as text."""
        return name_of(self.protocols, number)

    def table(self, number: int) -> str:
        """The table's name, or its number as text."""
        return name_of(self.tables, number)


def name_of(names: Mapping[str, int], number: int) -> str:
    """Turn a number back into its first name, or into its digits where it has none."""
    return next((name for name, value in names.items() if value == number), str(number))


def scope_name(number: int) -> str:
    """The scope's name, or its number as text."""
    return name_of(SCOPES, number)


def type_name(number: int) -> str:
    """The route type's name, or its number as text."""
    return name_of(TYPES, number)
