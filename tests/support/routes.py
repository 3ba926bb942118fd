"""Routes written as ip(8) shows them, as values."""

from __future__ import annotations

from collections.abc import Mapping

from routesync.names import PROTOCOLS, SCOPES, TABLES, TYPES
from routesync.route import Address, Family, HopFlag, NextHop, Prefix, Route, parse_address

INTERFACES: Mapping[int, str] = {
    1: "lo",
    2: "ens3",
    3: "cni0",
    4: "docker0",
    5: "flannel.1",
    6: "eth0",
    7: "eth1",
}
_INDICES = {name: index for index, name in INTERFACES.items()}


def ip_route(line: str, family: Family = Family.INET) -> Route:
    """Read one line of `ip route show`, with its `nexthop …` parts on the same line.

    As in ip(8), what is not said is protocol boot, scope global with a gateway and link without one, table main,
    metric 0 (IPv6: 1024).
    """
    head, *parts = line.split(" nexthop ")
    words = head.split()
    kind = TYPES[words.pop(0)] if words[0] in TYPES else TYPES["unicast"]
    destination = words.pop(0)
    if destination == "default":
        destination = "0.0.0.0/0" if family is Family.INET else "::/0"
    prefix = Prefix.parse(destination)
    said, flags = _pairs(words)
    if parts:
        hops = tuple(sorted(_hop(*_pairs(part.split())) for part in parts))
    elif kind == TYPES["unicast"]:
        hops = (_hop(said, flags),)
    else:
        hops = ()
    on_link = not any(hop.gateway for hop in hops)
    return Route(
        prefix=prefix,
        table=TABLES[said.get("table", "main")],
        tos=0,
        metric=int(said.get("metric", "0" if prefix.family is Family.INET else "1024")),
        protocol=PROTOCOLS[said.get("proto", "boot")],
        scope=SCOPES[said.get("scope", "link" if on_link and hops else "global")],
        type=kind,
        hops=hops,
        prefsrc=parse_address(said["src"]) if "src" in said else None,
    )


def _pairs(words: list[str]) -> tuple[dict[str, str], int]:
    flags = sum(HopFlag.NAMES[word] for word in words if word in HopFlag.NAMES)
    words = [word for word in words if word not in HopFlag.NAMES and word not in ("inet", "inet6")]
    return dict(zip(words[::2], words[1::2], strict=True)), flags


def _hop(said: Mapping[str, str], flags: int) -> NextHop:
    gateway: Address | None = parse_address(said["via"]) if "via" in said else None
    return NextHop(gateway, _INDICES[said["dev"]], int(said.get("weight", "1")), flags)
