"""An independent dump of a namespace's routes: what `ip -j -d route` says, as the values that routesync uses."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from routesync.route import HopFlag, NextHop, Prefix, Route, address_family, parse_address
from support.netns import Namespace

Json = Mapping[str, Any]
Resolve = Callable[[int], tuple[NextHop, ...]]

_TYPES = {
    "unicast": 1,
    "local": 2,
    "broadcast": 3,
    "anycast": 4,
    "multicast": 5,
    "blackhole": 6,
    "unreachable": 7,
    "prohibit": 8,
    "throw": 9,
}
_SCOPES = {"global": 0, "universe": 0, "site": 200, "link": 253, "host": 254, "nowhere": 255}


class Oracle(NamedTuple):
    """One dump: the routes of each prefix by source, TOS, table and metric; none whose lifetime is over."""

    routes: Mapping[Prefix, tuple[Route, ...]]
    link_names: Mapping[int, str]


def read_oracle(node: Namespace, tables: Sequence[int]) -> Oracle:
    """Read links, nexthop objects and the tables, by ip(8)."""
    links = _json(node, "-j link show")
    names = {link["ifname"]: int(link["ifindex"]) for link in links}
    nexthops = {int(entry["id"]): entry for entry in _json(node, "-j -d nexthop show")}

    def resolve(number: int) -> tuple[NextHop, ...]:
        entry = nexthops.get(number, {})
        members = entry.get("group", ())
        if len(members) == 1:
            return resolve(int(members[0]["id"]))
        if members:
            hops = ((resolve(int(member["id"])), int(member.get("weight", 1))) for member in members)
            return tuple(hop._replace(weight=weight) for found, weight in hops for hop in found)
        return () if "blackhole" in entry or not entry else (_hop(entry, names),)

    found: defaultdict[Prefix, list[Route]] = defaultdict(list)
    for table in tables:
        for family in (4, 6):
            for entry in _json(node, f"-j -d -N -{family} route show table {table}"):
                route = _route(entry, family, table, names, resolve)
                if int(entry.get("expires", 1)) > 0 or len(route.hops) > 1:
                    found[route.prefix].append(route)
    for routes in found.values():
        routes.sort(
            key=lambda route: (_source_key(route), route.tos, tables.index(route.table), route.metric)
        )  # stable: siblings keep order
    by_index = {index: name for name, index in names.items()}
    return Oracle({prefix: tuple(routes) for prefix, routes in found.items()}, by_index)


def in_lookup_order(routes: Iterable[Route]) -> tuple[Route, ...]:
    """What the kernel uses first comes first: a throw route ends the search in its own table, not in the next."""
    ordered: list[Route] = []
    for _, alike in groupby(routes, key=lambda route: (route.source, route.tos)):
        used: list[Route] = []
        behind: list[Route] = []
        for _, of_table in groupby(alike, key=lambda route: route.table):
            its = list(of_table)
            end = next((place for place, route in enumerate(its) if route.type == _TYPES["throw"]), len(its))
            used += its[:end]
            behind += its[end:]
        ordered += [*used, *behind]
    return tuple(ordered)


def _source_key(route: Route) -> tuple[int, bytes]:
    return (route.source.length, route.source.packed) if route.source else (-1, b"")


def _json(node: Namespace, arguments: str) -> list[Json]:
    said = node.ip(arguments, check=False)
    if said.strip() in ("", "["):  # it breaks off so where the table does not exist
        return []
    entries: list[Json] = json.loads(said)
    return entries


def _flags(entry: Json) -> int:
    return sum(HopFlag.NAMES.get(flag, 0) for flag in entry.get("flags", ()))


def _hop(entry: Json, names: Mapping[str, int]) -> NextHop:
    via = entry.get("via", {}).get("host") or entry.get("gateway")
    device = str(entry.get("dev", ""))
    # `if7` is how ip(8) calls a device that it cannot name.
    ifindex = names.get(device) or int(device.removeprefix("if") or 0)
    return NextHop(parse_address(via) if via else None, ifindex, int(entry.get("weight", 1)), _flags(entry))


def _route(entry: Json, family: int, table: int, names: Mapping[str, int], resolve: Resolve) -> Route:
    destination = str(entry["dst"])
    if destination == "default":
        destination = "0.0.0.0/0" if family == 4 else "::/0"
    prefix = Prefix.parse(destination)
    assert address_family(prefix.packed) == prefix.family
    nexthop_id = int(entry.get("nhid", 0))
    if "nexthops" in entry:
        hops = tuple(_hop(hop, names) for hop in entry["nexthops"])
    elif "dev" in entry or "gateway" in entry or "via" in entry:
        hops = (_hop(entry, names),)
    else:
        hops = resolve(nexthop_id) if nexthop_id else ()
    kind = _number(entry.get("type", 1), _TYPES)
    if kind >= _TYPES["blackhole"]:  # some are shown with `dev lo`
        hops = ()
    ordered = sorted(hops, key=lambda hop: (hop.gateway or b"", hop.ifindex, hop.weight, hop.flags))
    source, source_prefix = entry.get("prefsrc"), entry.get("from")
    return Route(
        prefix=prefix,
        table=table,
        tos=int(str(entry.get("tos", "0")), 0),
        metric=int(entry.get("metric", 0)),
        protocol=_number(entry.get("protocol", 3), {}),
        scope=_number(entry.get("scope", 0), _SCOPES),
        type=kind,
        hops=tuple(ordered),
        prefsrc=parse_address(source) if source else None,
        nexthop_id=nexthop_id,
        encap="encap" in entry or any("encap" in hop for hop in entry.get("nexthops", ())),
        source=Prefix.parse(source_prefix) if source_prefix else None,
    )


def _number(word: object, names: Mapping[str, int]) -> int:
    text = str(word)
    return names[text] if text in names else int(text, 0)
